"""What the workflow IOC sees of the edge IOC: which model it runs, and what it refused. Over Channel Access, for an
edge device may have no other protocol for its controls."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from caproto.threading.client import Context

from pvdb import edge, full_name

RUNNING = edge.SCAN_STATE.states.index("Running")


@dataclass(frozen=True)
class Refusal:
    """A model that the edge did not take."""

    version: int
    serial: int
    reason: str


class EdgeLink:
    """Follows the edge IOC by monitors; calls back in the event loop."""

    def __init__(
        self,
        prefix: str,
        *,
        running: Callable[[int], None],
        refused: Callable[[Refusal], None],
        trusted: Callable[[float], None],
    ) -> None:
        """`running` gets the version whenever it changes (0: none, or the edge is gone), `refused` every refusal.

        `trusted` gets the figure of trust at the end of every scan, NaN where there was none.
        """
        self._loop = asyncio.get_running_loop()
        self._running, self._refused, self._trusted = running, refused, trusted
        self._ratio, self._scan_state = float("nan"), -1
        self._lock = threading.Lock()
        self._closed = False
        self._context = Context()
        names = [full_name(prefix, pv) for pv in (edge.MODEL, edge.CONSISTENCY_RATIO, edge.SCAN_STATE)]
        names.insert(1, f"{full_name(prefix, edge.REFUSED)}.VAL$")
        self._pvs = self._context.get_pvs(*names, connection_state_callback=self._connection)
        self._subscriptions = [pv.subscribe() for pv in self._pvs]
        # caproto keeps weak references to callbacks: these attributes keep them alive.
        self._callbacks = [self._got_model, self._got_refusal, self._got_ratio, self._got_scan_state]
        for subscription, callback in zip(self._subscriptions, self._callbacks, strict=True):
            subscription.add_callback(callback)

    def close(self) -> None:
        """End the monitors; nobody is called back from now on.

        The thread is never joined: caproto's disconnect joins its search thread, which looks only every few seconds
        whether it should end, and must not keep an IOC that was told to stop.
        """
        with self._lock:
            self._closed = True
        threading.Thread(target=self._context.disconnect, name="edge-link-close", daemon=True).start()

    def _tell(self, heard: Callable[[Any], None], what: Any) -> None:
        """Call back in the event loop, from caproto's threads; the loop may be gone once the link is closed."""
        with self._lock:
            if not self._closed:
                self._loop.call_soon_threadsafe(heard, what)

    def _connection(self, pv: Any, state: str) -> None:
        if state == "disconnected" and pv is self._pvs[0]:
            self._tell(self._running, 0)

    def _got_model(self, subscription: Any, response: Any) -> None:
        self._tell(self._running, int(response.data[0]))

    def _got_refusal(self, subscription: Any, response: Any) -> None:
        text = bytes(response.data).split(b"\0", 1)[0].decode("latin-1")
        if not text:
            return
        version, serial, reason = text.split(" ", 2)
        self._tell(self._refused, Refusal(int(version), int(serial), reason))

    def _got_ratio(self, subscription: Any, response: Any) -> None:
        self._ratio = float(response.data[0])

    def _got_scan_state(self, subscription: Any, response: Any) -> None:
        """Tell what the figure of trust is when a scan ends: while one begins, hardly anything overlaps."""
        before, self._scan_state = self._scan_state, int(response.data[0])
        if before == RUNNING != self._scan_state:
            self._tell(self._trusted, self._ratio)
