"""A scan script's view of phaseline: PVs by their declarations, over pvAccess."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from phasing.errors import MissingExtra, PhaselineError
from pvdb import Kind, Pv, full_name

GET_S, PUT_S, CONNECT_S = 5.0, 30.0, 15.0
"""How long a PV may take to answer, to complete a put, and to connect, where a caller does not say."""


class ClientError(PhaselineError):
    """A PV that is not there, a put that failed, or a condition that did not come true in time."""


def monitor(context: Any, name: str, take: Callable[[Any], None], **options: Any) -> Any:
    """As the context's own monitor (p4p.client.thread), but no update is lost that comes before that returns.

    p4p 4.3 drops the news of such an update; the update then lies in the subscription's queue, and there is no news of
    those that follow. Here the queue is looked into whenever there is news, and once when the subscription is there.
    """
    from p4p.client import raw
    from p4p.client.thread import Subscription

    subscription = Subscription(context, name, take, **options)
    look = partial(subscription._Q.push, subscription._handle)
    subscription._S = raw.Context.monitor(context, name, look)
    look()
    return subscription


class Client:
    """Reads, puts and waits for PVs below one prefix; `watch`ed PVs follow monitors, in order of arrival."""

    def __init__(self, prefix: str, renames: Mapping[str, str] | None = None) -> None:
        """Connects when first used, by the EPICS environment of this process."""
        try:
            from p4p.client.thread import Context
            from p4p.util import ThreadedWorkQueue
        except ImportError as error:
            raise MissingExtra("p4p", "pva") from error
        self._prefix, self._renames = prefix, renames
        self._context = Context("pva", conf=dict(os.environ), useenv=False, nt=False)
        # One thread: p4p's own four deliver the updates of two PVs in any order.
        self._updates = ThreadedWorkQueue("monitors", workers=1, daemon=True, maxsize=0).start()
        self._changed = threading.Condition()
        self._values: dict[Pv, Any] = {}
        self._subscriptions: list[Any] = []

    def close(self) -> None:
        """End all monitors."""
        for subscription in self._subscriptions:
            subscription.close()
        self._context.close()
        self._updates.stop()

    def name(self, pv: Pv) -> str:
        """The full name of a PV."""
        return full_name(self._prefix, pv, self._renames)

    def get(self, pv: Pv, *, timeout_s: float | None = None) -> Any:
        """The value now: a number, text, the name of a state, or a list; ClientError when the PV does not answer."""
        timeout_s = GET_S if timeout_s is None else timeout_s
        try:
            return _plain(pv, self._context.get(self.name(pv), timeout=timeout_s))
        except (TimeoutError, OSError) as error:
            raise ClientError(f"{self.name(pv)} does not answer") from error

    def put(self, pv: Pv, value: Any, *, timeout_s: float | None = None) -> None:
        """Put and wait for completion; ClientError with the IOC's reason when it is refused or fails."""
        from p4p.client.thread import Cancelled, Disconnected, RemoteError

        timeout_s = PUT_S if timeout_s is None else timeout_s
        try:
            self._context.put(self.name(pv), _put_value(pv, value), timeout=timeout_s, get=False)
        except RemoteError as error:
            raise ClientError(f"{self.name(pv)}: {error}") from error
        except (Disconnected, Cancelled) as error:
            raise ClientError(f"{self.name(pv)}: the IOC went away before the put was done") from error
        except TimeoutError as error:
            raise ClientError(f"{self.name(pv)}: the put of {value!r} was not done in {timeout_s:g} s") from error

    def put_aside(self, pv: Pv, value: Any, *, timeout_s: float = 600.0) -> "Pending":
        """Begin a put and go on; the result has `wait`."""
        return Pending(lambda: self.put(pv, value, timeout_s=timeout_s))

    def watch(self, *pvs: Pv) -> None:
        """Follow PVs by monitors from now on."""
        for pv in pvs:
            take = partial(self._update, pv)
            options = {"notify_disconnect": True, "queue": self._updates}
            self._subscriptions.append(monitor(self._context, self.name(pv), take, **options))
        self.wait(lambda: all(self._values.get(pv) is not None for pv in pvs), f"{len(pvs)} PVs connect", CONNECT_S)

    def value(self, pv: Pv) -> Any:
        """The last value of a watched PV; None while it is disconnected."""
        with self._changed:
            return self._values[pv]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until a condition on watched PVs is true; ClientError naming `what` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise ClientError(f"after {timeout_s:g} s still not: {what}")
                self._changed.wait(min(left_s, 1.0))

    def _update(self, pv: Pv, update: Any) -> None:
        value = None if isinstance(update, Exception) else _plain(pv, update)
        with self._changed:
            self._values[pv] = value
            self._changed.notify_all()


class Pending:
    """A put that waits for its completion in a thread of its own."""

    def __init__(self, put: Callable[[], None]) -> None:
        self._error: ClientError | None = None
        self._thread = threading.Thread(target=self._run, args=(put,), daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the put has completed, well or not."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for completion; raises the put's ClientError."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, put: Callable[[], None]) -> None:
        try:
            put()
        except ClientError as error:
            self._error = error


def _plain(pv: Pv, update: Any) -> Any:
    value = update.value
    if pv.kind is Kind.STATE:
        return pv.states[value.index]
    if pv.kind is Kind.TABLE:
        return {name: list(column) for name, column in value.items()}
    return value


def _put_value(pv: Pv, value: Any) -> Any:
    if pv.kind is Kind.STATE:
        return {"value.index": value if isinstance(value, int) else pv.states.index(value)}
    return {"value": value}
