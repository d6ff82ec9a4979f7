"""Where a scan begins and ends for detectors whose frames do not say it: a PV of the scan engine or the file plugin."""

import datetime
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pvaccess as pva

from iocs.edge_messages import ScanState
from iocs.named_channel import open_channel

_QUEUE_UPDATES = 1000
_REMEMBERED = 16
"""Beginnings that are remembered: frames of more scans than that are never on their way at once."""


class ScanWatch:
    """Follows the PV that tells where a scan begins, and the one that tells how many frames it will have.

    A text is the scan's id. A number is 0 while no scan runs: a scan begins when it leaves 0, ends when it returns.
    """

    def __init__(self, scan_pv: str, expected_pv: str) -> None:
        """Either name may be empty; channels that never connect say nothing."""
        self._lock = threading.Lock()
        self._begun: deque[tuple[int, str]] = deque(maxlen=_REMEMBERED)
        self._ended_ns = 0
        self._running = False
        self._expected = self._expected_at_end = 0
        self._followed = [
            _Followed(name, heard)
            for name, heard in ((expected_pv, self._expected_changed), (scan_pv, self._scan_changed))
            if name
        ]

    def scan_at(self, taken_ns: int) -> str:
        """The scan of a frame that was taken at a time; empty if unknown."""
        with self._lock:
            self._catch_up()
            return next((scan for begun_ns, scan in reversed(self._begun) if begun_ns <= taken_ns), "")

    def state(self, first_frame_ns: int | None, seen: int, *, streaming: bool) -> ScanState:
        """How the scan goes whose first frame was taken at `first_frame_ns`, and which had `seen` frames so far."""
        if first_frame_ns is None:
            return ScanState.WAITING
        with self._lock:
            self._catch_up()
            running, ended_ns, expected = self._running, self._ended_ns, self._expected_at_end
        if running or (streaming and seen < expected):
            return ScanState.RUNNING
        if ended_ns < first_frame_ns:  # nobody told of this one
            return ScanState.RUNNING if streaming else ScanState.WAITING
        return ScanState.COMPLETE if seen >= expected else ScanState.ABORTED

    def close(self) -> None:
        """End the monitors."""
        for followed in self._followed:
            followed.close()

    def _catch_up(self) -> None:
        for followed in self._followed:
            followed.tell()

    def _scan_changed(self, update: Any) -> None:
        value, at_ns = _value(update), _time_ns(update)
        if isinstance(value, str):
            if value and (not self._begun or self._begun[-1][1] != value):
                self._begun.append((at_ns, value))
        elif value and not self._running:
            self._running = True
            begun = datetime.datetime.fromtimestamp(at_ns / 1e9, datetime.UTC)
            self._begun.append((at_ns, begun.isoformat(timespec="milliseconds")))
        elif not value and self._running:
            self._running = False
            self._ended_ns, self._expected_at_end = at_ns, self._expected

    def _expected_changed(self, update: Any) -> None:
        value = _value(update)
        if isinstance(value, int):
            self._expected = value


class _Followed:
    """A monitored PV whose updates lie in a queue until they are asked for: pvapy's callbacks can end the process."""

    def __init__(self, name: str, heard: Callable[[Any], None]) -> None:
        self._heard = heard
        self._queue = pva.PvObjectQueue(_QUEUE_UPDATES)
        self._channel = open_channel(name)
        # The explicit field() is needed: without it no update ever arrives.
        self._channel.qMonitor(self._queue, f"record[queueSize={_QUEUE_UPDATES}]field(value,timeStamp)")

    def tell(self) -> None:
        """Hear all updates that came since the last time."""
        while len(self._queue):
            self._heard(self._queue.get(0.0))

    def close(self) -> None:
        """End the monitor."""
        self._channel.stopMonitor()


def _value(update: Any) -> str | int:
    """A text (in bytes, as a waveform holds one), or a whole number (an enumeration's index); 0 for what is neither."""
    value = update["value"]
    if isinstance(value, dict):
        value = value.get("index", 0)
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 1:
        return value.tobytes().partition(b"\0")[0].decode(errors="replace")
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int | float) else 0


def _time_ns(update: Any) -> int:
    """The update's own time stamp, or now where it has none."""
    stamp = update["timeStamp"] if update.hasField("timeStamp") else {}
    seconds = int(stamp.get("secondsPastEpoch", 0))
    return seconds * 1_000_000_000 + int(stamp.get("nanoseconds", 0)) if seconds > 0 else time.time_ns()
