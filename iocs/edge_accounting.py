"""What becomes of every frame: counters, gaps in ids, scan boundaries, latency."""

import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from iocs.edge_messages import Counters, FrameMark
from iocs.stream import NdFrame

CLOCK_TOLERANCE_NS = 10_000_000_000
SEQUENCE_ATTRIBUTE = "Sequence"
_WINDOW = 1000


@dataclass(frozen=True)
class Arrival:
    """What the id of a frame says: how many never came before it, whether a scan or a restarted detector begins."""

    missed: int
    new_scan: bool
    went_back: bool


class IdTracker:
    """Follows frame ids within a scan.

    A gap in ids is a loss. A detector that takes a chosen part of a scan numbers its frames in the attribute
    `Sequence`, which then says what was lost; the ids keep their gaps.
    """

    def __init__(self, scan_id_attribute: str, last_frame: FrameMark | None) -> None:
        self._attribute = scan_id_attribute
        self.scan_id: str | None = None
        self._last: int | None = None
        self.last_frame = last_frame

    def repeats(self, frame: NdFrame) -> bool:
        """Whether this is the very frame that came last: a stream that reconnects sends its latest once more.

        Frames without a time stamp cannot be told apart by it, and are never taken for repeated.
        """
        seen, self.last_frame = self.last_frame, (frame.unique_id, frame.time_ns)
        return seen == self.last_frame and frame.time_ns > 0

    def follow(self, frame: NdFrame) -> Arrival:
        """Take note of a frame's scan and number."""
        scan_id = str(frame.attributes.get(self._attribute, ""))
        number = frame.attributes.get(SEQUENCE_ATTRIBUTE, frame.unique_id)
        number = number if isinstance(number, int) else frame.unique_id
        last, new_scan = self._last, scan_id != self.scan_id
        self.scan_id, self._last = scan_id, number
        if new_scan or last is None:
            return Arrival(0, new_scan=True, went_back=False)
        if number <= last:
            return Arrival(0, new_scan=True, went_back=True)
        return Arrival(number - last - 1, new_scan=False, went_back=False)

    def forget(self) -> None:
        """Treat the next frame as the first of a scan."""
        self.scan_id = self._last = None


class Account:
    """Counters, rate and latency of the frames since the last reset."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._latency_s: deque[float] = deque(maxlen=_WINDOW)
        self._published_s: deque[float] = deque(maxlen=_WINDOW)
        self.from_arrival = False

    def count(self, what: str, number: int = 1) -> None:
        """Add to the counter of that name (a field of Counters)."""
        self._counts[what] += number

    def published(self, frame: NdFrame, arrival_ns: int) -> None:
        """Count a prediction and its latency, from the frame's time stamp unless that cannot be right."""
        now_ns = time.time_ns()
        self.from_arrival = abs(arrival_ns - frame.time_ns) > CLOCK_TOLERANCE_NS
        self._latency_s.append((now_ns - (arrival_ns if self.from_arrival else frame.time_ns)) / 1e9)
        self._published_s.append(time.monotonic())
        self._counts["published"] += 1

    @property
    def counters(self) -> Counters:
        """The counters as they are now."""
        return Counters(**self._counts)

    def rate_hz(self, window_s: float = 1.0) -> float:
        """Predictions a second over the last `window_s`."""
        since = time.monotonic() - window_s
        return sum(t > since for t in reversed(self._published_s)) / window_s

    def latency_s(self) -> tuple[float, float]:
        """Median and 99th percentile of the last thousand predictions; 0 before the first."""
        if not self._latency_s:
            return 0.0, 0.0
        median, high = np.percentile(self._latency_s, (50, 99))
        return float(median), float(high)
