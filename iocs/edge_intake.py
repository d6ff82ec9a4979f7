"""What comes in: every frame counted, followed by its id, given to its scan, and taken or turned away."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from iocs.edge_accounting import Account, Scan, taken_ns
from iocs.edge_batches import Pending
from iocs.edge_geometry import GeometryCheck
from iocs.edge_ids import IdTracker
from iocs.edge_messages import Mark, Note, StreamConfig
from iocs.edge_scans import ScanWatch
from iocs.stream import NdFrame
from phasing.card import ModelCard
from pvdb import Severity

RECENT_FRAMES = 16


class Intake:
    """Follows the frames of the stream; called from one thread."""

    def __init__(
        self,
        config: StreamConfig,
        account: Account,
        watch: ScanWatch,
        *,
        overflowed: Callable[[], int],
        reject: Callable[[Scan | None, str], None],
        note: Callable[[Note], None],
    ) -> None:
        """`overflowed` is how many frames our queue lost so far, `reject` counts what cannot be used."""
        self._config, self._account, self._watch = config, account, watch
        self._overflowed, self._reject, self._note = overflowed, reject, note
        self._overflow_counted = self._gaps_explained = self._explained_for = 0
        former = config.former
        self._ids = IdTracker(former)
        self._geometry = GeometryCheck(config.edge)
        self._mismatch = ""
        self.scan: Scan | None = None
        if former.scan_id is not None:
            self.scan = Scan(former.scan_id, former.first_frame_ns, former.scan)
        self.recent: deque[npt.NDArray[Any]] = deque(maxlen=RECENT_FRAMES)

    @property
    def mark(self) -> Mark:
        """How far the frames have come."""
        return Mark(
            last_frame=self._ids.last_frame,
            scan_id=self._ids.scan_id,
            number=self._ids.number,
            first_frame_ns=0 if self.scan is None else self.scan.first_frame_ns,
            total=self._account.total,
            scan=self._account.of(self.scan),
        )

    def take(self, frame: NdFrame, arrival_ns: int, card: ModelCard | None, *, enabled: bool) -> Pending | None:
        """The frame, to be predicted; None for one that is not to be, which is counted.

        While the edge is disabled, only the frame's id is followed, so that what passed is not missed later.
        """
        if self._ids.repeats(frame):
            return None
        scan = self._follow(frame, arrival_ns, enabled=enabled)
        if not enabled:
            return None
        self._account.count(scan, "received")
        self.recent.append(frame.array)
        if card is None:
            self._account.count(scan, "no_model")
            return None
        mismatch = self._geometry.mismatch(frame.attributes, card)
        if mismatch != self._mismatch:
            self._mismatch = mismatch
            self._tell_mismatch(frame.unique_id, card.version)
        return Pending(frame, scan, arrival_ns, time.monotonic(), mismatch)

    def turn_away(self, reason: str, *, enabled: bool) -> None:
        """Count an update of the stream that is no frame at all; the id that the next seems to skip was its own."""
        self._gaps_explained += 1
        self._explained_for = max(1, self._explained_for)
        if not enabled:
            return
        scan = self._present_scan()
        self._account.count(scan, "received")
        self._reject(scan, reason)

    def count_dropped(self) -> None:
        """Count frames that our own queue could not hold; the gap they leave in the ids is then no loss upstream.

        The gap lies behind the frames that were in the queue: whatever is not seen once those are through never shows.
        """
        total = self._overflowed()
        number, self._overflow_counted = total - self._overflow_counted, total
        if number:
            self._gaps_explained += number
            self._explained_for = self._config.edge.queue_frames + 1
            scan = self._present_scan()
            self._account.count(scan, "received", number)
            self._account.count(scan, "dropped", number)
            self._note(Note(f"{number} frames dropped: the edge's queue is full", Severity.MAJOR))

    def forget(self) -> None:
        """Treat the next frame as the first of a scan."""
        self._ids.forget()
        self.scan = None

    def _follow(self, frame: NdFrame, arrival_ns: int, *, enabled: bool) -> Scan:
        at_ns = taken_ns(frame.time_ns, arrival_ns)
        scan_id = str(frame.attributes.get(self._config.edge.scan_id_attribute, ""))
        scan_id = scan_id or self._watch.scan_at(at_ns)
        former = self._ids.scan_id
        arrival = self._ids.follow(frame, scan_id)
        if self._explained_for == 0:
            self._gaps_explained = 0
        self._explained_for = max(0, self._explained_for - 1)
        if former is None and self.scan is not None:  # it began with what was no frame: now it has a name
            self.scan.scan_id, self.scan.first_frame_ns = scan_id, at_ns
        elif arrival.new_scan or self.scan is None:
            self.scan = Scan(scan_id, at_ns)
        if arrival.went_back:
            text = f"frame ids went back to {frame.unique_id} within scan {former}: restarted detector, new map"
            self._note(Note(text, Severity.MINOR))
        if enabled and arrival.missed > 0:
            self._count_gap(arrival.missed, frame.unique_id)
        elif enabled and arrival.missed < 0 and self._account.of(self.scan).missed:
            self._account.count(self.scan, "missed", arrival.missed)
            self._note(Note(f"frame {frame.unique_id} came late, after its successors", Severity.MINOR))
        return self.scan

    def _present_scan(self) -> Scan:
        """The scan that frames belong to now; one without a name where none has come yet, for a loss is an alarm."""
        if self.scan is None:
            self.scan = Scan("", time.time_ns())
        return self.scan

    def _count_gap(self, gap: int, unique_id: int) -> None:
        self.count_dropped()
        explained = min(gap, self._gaps_explained)
        self._gaps_explained -= explained
        if gap > explained:
            self._account.count(self.scan, "missed", gap - explained)
            self._note(Note(f"{gap - explained} frames missed before frame {unique_id}", Severity.MAJOR))

    def _tell_mismatch(self, unique_id: int, version: int) -> None:
        if self._mismatch:
            text = f"from frame {unique_id} on: {self._mismatch}; phase of model {version} is INVALID, and not stitched"
            self._note(Note(text, Severity.MAJOR))
        else:
            self._note(Note(f"from frame {unique_id} on the geometry is that of model {version}", Severity.NO_ALARM))
