"""What becomes of every frame: counters of the scan and in total, rate, latency."""

import threading
import time
from collections import Counter, deque
from dataclasses import asdict, replace

import numpy as np

from iocs.edge_messages import Counters
from iocs.stream import NdFrame

CLOCK_TOLERANCE_NS = 10_000_000_000
WINDOW_S = 10.0
"""Latency percentiles are those of the predictions of so many seconds, and of no more than _WINDOW of them."""
_WINDOW = 4000
_RATE_WINDOW_S = 1.0
NOTHING = Counters()


def taken_ns(frame_ns: int, arrival_ns: int) -> int:
    """When a frame was taken: by its time stamp, or its arrival where that stamp cannot be right."""
    return arrival_ns if abs(arrival_ns - frame_ns) > CLOCK_TOLERANCE_NS else frame_ns


def taken_over(counters: Counters) -> Counter[str]:
    """What a process that died had counted; the frames that it had in hand are dropped."""
    return Counter(asdict(replace(counters, dropped=counters.dropped + counters.in_hand)))


class Scan:
    """The frames between two boundaries; every frame carries the scan it came in, wherever it is by now."""

    def __init__(self, scan_id: str, first_frame_ns: int, counters: Counters = NOTHING) -> None:
        """`first_frame_ns` is when its first frame was taken; `counters` what a former process counted of it."""
        self.scan_id, self.first_frame_ns = scan_id, first_frame_ns
        self.counts = taken_over(counters)


class Account:
    """Counters since the last reset, each of the scan as well; safe from any thread."""

    def __init__(self, former: Counters = NOTHING) -> None:
        """`former` is what a former process counted."""
        self._lock = threading.Lock()
        self._total = taken_over(former)
        self._latencies_s = np.zeros((_WINDOW, 2))
        self._next = 0
        self._published: deque[tuple[float, int]] = deque(maxlen=64)
        self.from_arrival = False

    def count(self, scan: Scan | None, what: str, number: int = 1) -> None:
        """Add to the counter of that name (a field of Counters), in total and in its scan."""
        with self._lock:
            self._total[what] += number
            if scan is not None:
                scan.counts[what] += number

    def published(self, scan: Scan, frame: NdFrame, arrival_ns: int) -> None:
        """Count a prediction and its latency, from the frame's time stamp unless that cannot be right."""
        since_ns = taken_ns(frame.time_ns, arrival_ns)
        self.from_arrival = since_ns != frame.time_ns
        with self._lock:
            self._latencies_s[self._next % _WINDOW] = time.monotonic(), (time.time_ns() - since_ns) / 1e9
            self._next += 1
            self._total["published"] += 1
            scan.counts["published"] += 1

    def clear(self) -> None:
        """Count from zero."""
        with self._lock:
            self._total.clear()
            self._next = 0
            self._published.clear()

    @property
    def total(self) -> Counters:
        """The counters since the last reset."""
        with self._lock:
            return Counters(**self._total)

    def of(self, scan: Scan | None) -> Counters:
        """The counters of one scan."""
        with self._lock:
            return Counters() if scan is None else Counters(**scan.counts)

    def rate_hz(self) -> float:
        """Predictions a second, over about the last second; to be asked a few times a second."""
        now_s = time.monotonic()
        with self._lock:
            published = self._total["published"]
        self._published.append((now_s, published))
        while len(self._published) > 2 and now_s - self._published[1][0] >= _RATE_WINDOW_S:
            self._published.popleft()
        then_s, before = self._published[0]
        return (published - before) / (now_s - then_s) if now_s > then_s else 0.0

    def latency_s(self) -> tuple[float, float]:
        """Median and 99th percentile of the sliding window; 0 without a prediction in it."""
        oldest_s = time.monotonic() - WINDOW_S
        with self._lock:
            known = self._latencies_s[: min(self._next, _WINDOW)].copy()
        recent = known[known[:, 0] >= oldest_s, 1]
        if not recent.size:
            return 0.0, 0.0
        median, high = np.percentile(recent, (50, 99))
        return float(median), float(high)
