"""Where a frame lies on the sample: from encoder numbers to (y, x) in m, and from samples in time to one position."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from enum import Enum, auto
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Values = TypeVar("Values", float, NDArray[np.float64])
SAMPLES_KEPT = 2**18
"""Samples of one axis that are remembered: four minutes of a position box at 1 kHz."""


def to_sample_plane(
    y: Values,
    x: Values,
    *,
    unit_m: float = 1.0,
    sign_y: int = 1,
    sign_x: int = 1,
    swap: bool = False,
    rotation_deg: float = 0.0,
) -> tuple[Values, Values]:
    """Return (y, x) in m in the sample plane for y and x as a motor or encoder says them, numbers or arrays alike.

    In this order: `swap` exchanges the two axes, `sign_y` and `sign_x` (1 or -1) flip what are then y and x, `unit_m`
    is the length of one unit in m, and the pair is turned by `rotation_deg` from x towards y, so that (y, x) = (0, 1)
    becomes (1, 0) at 90 degrees.
    """
    if swap:
        y, x = x, y
    y, x = y * (sign_y * unit_m), x * (sign_x * unit_m)
    if rotation_deg == 0.0:
        return y, x
    cosine, sine = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    return x * sine + y * cosine, x * cosine - y * sine


class Absent(Enum):
    """Why a track has no mean for a window of time."""

    YET = auto()
    FOREVER = auto()


class Track:
    """Samples of one axis, ordered by time and bounded in number; the mean of what lies between them over a window.

    Between two samples the axis moves in a straight line. The two kinds differ in what silence means. A strict track
    (`hold` False) knows nothing where samples lie too far apart: each end of a window needs a sample within
    `tolerance_s` before and after it, and samples inside may be twice that apart, so that no moment is further than the
    tolerance from a sample. A track that holds takes silence for rest: where two samples lie more than twice the
    tolerance apart, the earlier one holds until the later, and the last one holds from then on.
    """

    def __init__(self, tolerance_s: float, *, hold: bool = False, kept: int = SAMPLES_KEPT) -> None:
        """Begin without samples; `kept` is how many are remembered, the latest."""
        self._tolerance_s, self._hold, self._kept = tolerance_s, hold, kept
        self._times_s: list[float] = []
        self._values: list[float] = []
        self._lost_s: float | None = None

    def __len__(self) -> int:
        return len(self._times_s)

    @property
    def newest_s(self) -> float:
        """Time of the latest sample; minus infinity without one."""
        return self._times_s[-1] if self._times_s else -math.inf

    def add(self, times_s: Sequence[float], values: Sequence[float]) -> None:
        """Insert finite samples by their time, in whatever order they come; a time that is there already is ignored."""
        if times_s and times_s[0] > self.newest_s and all(one < next_one for one, next_one in pairwise(times_s)):
            self._times_s += times_s
            self._values += values
        else:
            for time_s, value in zip(times_s, values, strict=True):
                self._insert(time_s, value)
        if len(self._times_s) > self._kept:
            surplus = len(self._times_s) - self._kept * 3 // 4  # not one by one: each time moves the whole list
            del self._times_s[:surplus], self._values[:surplus]

    def lose(self, time_s: float) -> None:
        """Know nothing from `time_s` on, for the source is gone, until the next sample or until `found` says better."""
        if self._times_s and self._lost_s is None:
            self._lost_s = max(time_s, math.nextafter(self.newest_s, math.inf))
            self._insert(self._lost_s, math.nan)

    def found(self, time_s: float) -> None:
        """The source is back with a value of `time_s`: if that is from before it went, nothing moved meanwhile."""
        if self._lost_s is not None and time_s <= self._lost_s:
            at = bisect_left(self._times_s, self._lost_s)
            if at < len(self._times_s) and self._times_s[at] == self._lost_s:
                del self._times_s[at], self._values[at]
        self._lost_s = None

    def forget(self) -> None:
        """Drop all samples."""
        self._times_s.clear()
        self._values.clear()
        self._lost_s = None

    def mean(self, begin_s: float, end_s: float, now_s: float) -> float | Absent:
        """Return the mean over a window of Unix time, or the value at one moment when begin and end are the same.

        A strict track says YET until its newest sample lies `tolerance_s` behind the window. One that holds waits for a
        sample behind the window for as long as one may come that is near enough to move there in a straight line, and
        for `tolerance_s` more, the time that samples take to arrive; `now_s` is Unix time.
        """
        times_s = self._times_s
        if not times_s:
            return Absent.YET
        if self._hold:
            over = now_s >= max(end_s, self.newest_s + 2.0 * self._tolerance_s) + self._tolerance_s
        else:
            over = self.newest_s >= end_s + self._tolerance_s
        absent = Absent.FOREVER if over else Absent.YET
        first = bisect_right(times_s, begin_s) - 1
        last = bisect_left(times_s, end_s, lo=max(first, 0))
        if first < 0 or (last == len(times_s) and not (self._hold and over)):
            return absent
        if not self._hold and not self._is_covered(first, last, begin_s, end_s):
            return absent
        value = self._integral(first, last, begin_s, end_s)
        if not math.isnan(value):
            return value
        return Absent.YET if last == len(times_s) and math.isnan(self._values[-1]) else Absent.FOREVER

    def _insert(self, time_s: float, value: float) -> None:
        at = bisect_left(self._times_s, time_s)
        if at == len(self._times_s) or self._times_s[at] != time_s:
            self._times_s.insert(at, time_s)
            self._values.insert(at, value)

    def _is_covered(self, first: int, last: int, begin_s: float, end_s: float) -> bool:
        times_s, tolerance_s = self._times_s, self._tolerance_s
        if times_s[first] != begin_s and not _is_near(times_s[first], begin_s, times_s[first + 1], tolerance_s):
            return False
        if times_s[last] != end_s and not _is_near(times_s[last - 1], end_s, times_s[last], tolerance_s):
            return False
        inside_s = times_s[first : last + 1]
        return all(after_s - before_s <= 2.0 * tolerance_s for before_s, after_s in pairwise(inside_s))

    def _integral(self, first: int, last: int, begin_s: float, end_s: float) -> float:
        """The mean over the window; samples first to last reach around it, and last may be one past the end."""
        if begin_s == end_s:
            return self._at(first, begin_s)
        times_s, values = self._times_s, self._values
        total, one_s, value = 0.0, begin_s, self._at(first, begin_s)
        for i in range(first + 1, last):
            next_s = times_s[i]
            total += (value + (self._at(i - 1, next_s) if self._hold else values[i])) * (next_s - one_s)
            one_s, value = next_s, values[i]
        total += (value + self._at(last - 1, end_s)) * (end_s - one_s)
        return 0.5 * total / (end_s - begin_s)

    def _at(self, i: int, time_s: float) -> float:
        """The value at a time between sample i and the next."""
        begin_s, value = self._times_s[i], self._values[i]
        if i + 1 == len(self._times_s) or time_s == begin_s:
            return value
        length_s, next_value = self._times_s[i + 1] - begin_s, self._values[i + 1]
        if self._hold and (length_s > 2.0 * self._tolerance_s or math.isnan(next_value)):
            return value
        return value + (next_value - value) * ((time_s - begin_s) / length_s)


def _is_near(before_s: float, time_s: float, after_s: float, tolerance_s: float) -> bool:
    return time_s - before_s <= tolerance_s and after_s - time_s <= tolerance_s
