"""Samples of positions that arrive over pvAccess or Channel Access: one monitor, in a thread of its own."""

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import pvaccess as pva

from iocs.edge_messages import Note
from iocs.named_channel import open_channel
from pvdb import Severity

QUEUE_UPDATES = 4000
_POLL_S = 0.2
_QUIET_S = 10.0
"""How long the same complaint is not repeated."""
_CONNECT_S = 5.0
"""How long a PV may take at start before that is said."""

Complain = Callable[[str], None]


class GarbageError(ValueError):
    """An update that holds no samples; the text says what is wrong with it."""


class SampleReader:
    """Monitors one PV with a deep queue, and says what is wrong with it; reconnects by itself."""

    def __init__(
        self,
        name: str,
        fields: str,
        *,
        take: Callable[[Any, Complain], None],
        connected: Callable[[bool], None],
        note: Callable[[Note], None],
    ) -> None:
        """Subscribe to `fields` of `name`, which begins with ca:// for Channel Access.

        `take` gets every update and what notes a complaint about it, in this reader's thread; what it raises as
        GarbageError, or for a field that is missing or of another type, is noted and the update skipped. `connected`
        hears of both ends of a connection, in the same thread.
        """
        self.name = name
        self._take, self._connected, self._note = take, connected, note
        self._queue = pva.PvObjectQueue(QUEUE_UPDATES)
        self._channel = open_channel(name)
        self._closing = threading.Event()
        self._is_connected = self._said_gone = False
        self._lost = 0
        self._complaints: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, name=f"positions {name}", daemon=True)
        # The explicit field() is needed: without it no update ever arrives.
        self._channel.qMonitor(self._queue, f"record[queueSize={QUEUE_UPDATES}]field({fields})")
        self._thread.start()

    def close(self) -> None:
        """End the subscription and the thread."""
        self._closing.set()
        self._channel.stopMonitor()
        self._thread.join()

    def _look_at_connection(self) -> None:
        """Tell of a connection that came or went; pvapy's own callback for that can crash the process at any moment."""
        is_connected = bool(self._channel.isConnected())
        if is_connected == self._is_connected:
            return
        self._is_connected = is_connected
        self._connected(is_connected)
        if not is_connected:
            self._say_gone()
        elif self._said_gone:
            self._said_gone = False
            self._note(Note(f"positions: {self.name} is connected", Severity.NO_ALARM))

    def _say_gone(self) -> None:
        self._said_gone = True
        self._note(Note(f"positions: {self.name} is not connected", Severity.MAJOR))

    def _work(self) -> None:
        began_s = monotonic()
        while not self._closing.is_set():
            self._look_at_connection()
            try:
                update = self._queue.get(_POLL_S)
            except pva.QueueEmpty:
                if not self._is_connected and not self._said_gone and monotonic() > began_s + _CONNECT_S:
                    self._say_gone()
                continue
            try:
                self._take(update, self._complain)
            except GarbageError as error:
                self._complain(str(error))
            except (pva.PvaException, LookupError, TypeError, ValueError) as error:  # no such field, or another type
                self._complain(f"an update without the samples that the configuration names: {error}")
            self._count_lost()

    def _count_lost(self) -> None:
        lost = int(self._queue.getCounters().get("nRejected", 0))
        if lost > self._lost:
            self._note(Note(f"positions: {self.name}: {lost - self._lost} updates lost, too many came", Severity.MAJOR))
            self._lost = lost

    def _complain(self, text: str) -> None:
        """Say what is wrong with the updates, but the same thing not all the time."""
        now_s = monotonic()
        self._complaints = {known: at_s for known, at_s in self._complaints.items() if now_s < at_s + _QUIET_S}
        if text not in self._complaints:
            self._complaints[text] = now_s
            self._note(Note(f"positions: {self.name}: {text}", Severity.MAJOR))
