"""Waiting with EPICS clients, for functions that run in a process of their own; nothing here sleeps."""

import itertools
import queue
import threading
import time
from contextlib import contextmanager
from functools import partial

DEADLINE_S = 45.0
_PRIORITIES = itertools.cycle(range(99))
"""caproto's synchronous client is safe in threads only where each has a circuit, so a priority, of its own."""


class Seen:
    """What a monitor brought, in order; `until` waits for an entry."""

    def __init__(self):
        self.entries = []
        self._changed = threading.Condition()

    def add(self, entry):
        with self._changed:
            self.entries.append(entry)
            self._changed.notify_all()

    def until(self, holds, deadline_s=DEADLINE_S):
        with self._changed:
            if not self._changed.wait_for(lambda: any(map(holds, self.entries)), deadline_s):
                raise TimeoutError(f"not among {len(self.entries)} entries, the last {self.entries[-3:]}")
            return next(entry for entry in self.entries if holds(entry))


def ca(name, **options):
    """A connected pyepics PV."""
    import epics

    pv = epics.PV(name, connection_timeout=DEADLINE_S, **options)
    assert pv.wait_for_connection(DEADLINE_S), name
    return pv


def ca_get(name):
    """The value over Channel Access, asked for anew; text as text, states by name."""
    import numpy as np

    pv = ca(name, auto_monitor=False)
    value = pv.get(as_string=pv.type.removeprefix("time_") in ("char", "enum"), timeout=DEADLINE_S)
    return value.tolist() if isinstance(value, np.ndarray) else value


def ca_put(name, value):
    """Put and wait for the end; whether the server took it, which pyepics does not say, by caproto's client."""
    from caproto import ErrorResponseReceived
    from caproto.sync import client

    try:
        client.write(name, value, notify=True, timeout=DEADLINE_S, repeater=False, priority=next(_PRIORITIES))
    except ErrorResponseReceived as error:
        return str(error)
    return "ok"


@contextmanager
def pva(**options):
    """A p4p context that waits for long where nobody says otherwise."""
    from p4p.client.thread import Context

    with Context("pva", **options) as context:
        for name in ("get", "put", "rpc"):
            setattr(context, name, partial(getattr(context, name), timeout=DEADLINE_S))
        yield context


def monitor(context, name, take):
    """A subscription of a p4p context."""
    from iocs.client import monitor

    return monitor(context, name, take)


def pva_text(context, name):
    """The text of a string PV."""
    return context.get(name, timeout=DEADLINE_S).raw.value


def pva_put(context, name, value):
    """Put and wait for the end: "ok" or the server's reason."""
    from p4p.client.thread import RemoteError

    try:
        context.put(name, value, timeout=DEADLINE_S)
    except RemoteError as error:
        return str(error)
    return "ok"


def background(function, *arguments):
    """Run a function in a thread; a queue that gives its result and the seconds it took."""
    done = queue.Queue()

    def work():
        began = time.monotonic()
        done.put((function(*arguments), time.monotonic() - began))

    threading.Thread(target=work, daemon=True).start()
    return done
