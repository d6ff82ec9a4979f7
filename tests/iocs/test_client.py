"""Monitors of p4p's client."""

import threading

import clients
import pytest

from iocs.client import monitor


@pytest.fixture
def served():
    """A PV of an integer in a server of the test's own, and a context that finds it."""
    from p4p.client.thread import Context
    from p4p.nt import NTScalar
    from p4p.server import Server
    from p4p.server.thread import SharedPV

    pv = SharedPV(nt=NTScalar("i"), initial=1)
    with (
        Server(providers=[{"ONE": pv}], isolate=True) as server,
        Context("pva", conf=server.conf(), useenv=False) as context,
    ):
        yield pv, context


def test_an_update_that_comes_before_the_subscription_is_made_is_not_lost(served, monkeypatch):
    from p4p.client import raw

    pv, context = served
    heard, seen = threading.Event(), clients.Seen()
    plain = raw.Context.monitor

    def slow(self, name, handler, request=None):
        def tell():
            handler()
            heard.set()

        made = plain(self, name, tell, request)
        assert heard.wait(clients.DEADLINE_S)
        return made

    monkeypatch.setattr(raw.Context, "monitor", slow)
    subscription = monitor(context, "ONE", lambda value: seen.add(int(value)))
    seen.until(lambda value: value == 1)
    pv.post(2)
    seen.until(lambda value: value == 2)
    subscription.close()
