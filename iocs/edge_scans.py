"""Where a scan begins and ends for detectors whose frames do not say it: a PV of the scan engine or the file plugin."""

import datetime
import threading
from collections import deque
from typing import Any

from iocs.edge_messages import ScanState
from iocs.followed import Followed, update_time_ns, update_value

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
            Followed(name, heard)
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
        value, at_ns = update_value(update), update_time_ns(update)
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
        value = update_value(update)
        if isinstance(value, int):
            self._expected = value
