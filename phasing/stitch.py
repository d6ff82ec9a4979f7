"""Stitching live predictions into one phase map, and how well overlapping predictions agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from phasing.accumulate import PHASE, UNLIT, WEIGHT, FloatArray, Patch, Sums
from phasing.errors import FrameRejected

WeightKind = Literal["probe", "flat", "center"]

_FLAT_RAD = 1e-6
# The map is copied in parts of so many pixels, between which predictions can be added.
_BAND_PX = 1 << 16


class BeyondMap(FrameRejected):
    """A prediction that lies too far from those on the map for one map to hold them all."""


def warm_up() -> None:
    """Compile what stitching needs, which takes a second where it is not on disk yet, before the first prediction."""
    for align in (False, True):
        Stitcher(2, 1.0, np.ones((2, 2)), align_offsets=align).add(np.zeros((2, 2), np.float32), (0.0, 0.0))


@dataclass(frozen=True, eq=False)
class StitchedMap:
    """A phase map on a regular grid.

    phase_rad (H, W) float32, NaN where weight is 0; weight (H, W) float32; origin_m (y, x) of the centre of pixel
    [0, 0]; pixel_size_m of the square pixel.
    """

    phase_rad: FloatArray
    weight: FloatArray
    origin_m: tuple[float, float]
    pixel_size_m: float


def patch_weight(probe_intensity: ArrayLike, kind: WeightKind) -> FloatArray:
    """Return how much each pixel of a prediction counts in the map, (n, n) float32, maximum 1.

    probe_intensity (n, n): what "probe" weighs by, since the network knows only what the probe has lit. "flat" counts
    all pixels alike, as the published offline stitching does. "center" falls as a cosine squared (a Hann window) from
    the middle to the rim, for probes that are not known well. Raises ValueError for another kind, or no usable probe.
    """
    intensity: FloatArray = np.asarray(probe_intensity, np.float32)
    if intensity.ndim != 2 or not np.isfinite(intensity).all() or intensity.max(initial=0) <= 0:
        raise ValueError("the probe's intensity must be finite, of shape (n, n) and somewhere above 0")
    weight: FloatArray
    if kind == "probe":
        weight = intensity / intensity.max()
    elif kind == "flat":
        weight = np.ones_like(intensity)
    elif kind == "center":
        windows = [np.cos(np.pi * (np.arange(side) - side // 2) / (side + 1)) ** 2 for side in intensity.shape]
        weight = np.outer(*windows).astype(np.float32)
    else:
        raise ValueError(f"the weight is probe, flat or center, not {kind}")
    return weight


class Stitcher:
    """Adds each (n, n) prediction at its position to a growing map, weighted, to a fraction of a pixel.

    Pixel [n // 2, n // 2] of a prediction lies at its position. weight (n, n), not negative: the probe's intensity.
    The prediction is interpolated (bilinearly) onto the map's grid, whose pixels lie at whole multiples of
    pixel_size_m, and so is the weight. Mean and spread are updated in place (West, Comm. ACM 22, 532 (1979)), so that
    the spread does not drown in the rounding of a difference of large sums. Costs depend on n only, but for the
    occasional doubling of the map's memory. The map's sides are at most max_canvas_px.

    With align_offsets, a constant c is taken from each prediction x before it is added. c minimises the squared
    difference to the map m on the overlap, sum h (x - c - m)^2: c = sum h (x - m) / sum h, with h = w W / (w + W) for
    the prediction's weight w and the map's W. Where the variance of x goes as 1 / w, that of m goes as 1 / W, so
    1 / h is the variance of their difference; and h (x - c - m)^2 is what the prediction adds to the map's sum of
    squared deviations (West), so that c keeps the spread least. A prediction that hardly overlaps keeps its constant.
    The mean of all that was taken is given back to the map as a whole, whose weighted mean so stays that of the
    predictions. Each constant is found once, from the map so far: to solve for all of them again with every prediction
    would cost more with every prediction, and where the lines of a scan overlap, errors average over the neighbours.
    Along a single line they add up like a random walk. It is off by default: a network that learned from phases
    without their scan's mean knows its constants better than a chain of overlaps does.

    All methods may be called from any thread. add holds the lock for one patch, map for 65536 pixels at a time: a map
    that is taken meanwhile may show a prediction in part, each pixel being right at some moment of the call.
    """

    def __init__(
        self,
        patch_px: int,
        pixel_size_m: float,
        weight: ArrayLike,
        *,
        align_offsets: bool = False,
        max_canvas_px: int = 4096,
    ) -> None:
        """Start with an empty map; ValueError when the weight is not a usable (patch_px, patch_px) array."""
        share: FloatArray = np.array(weight, np.float32)
        if patch_px < 2 or share.shape != (patch_px, patch_px):
            raise ValueError(f"the weight must be of shape {(patch_px, patch_px)}, not {share.shape}")
        if not np.isfinite(share).all() or share.min() < 0 or share.max() <= 0:
            raise ValueError("the weight must be finite, not negative and somewhere above 0")
        if not (math.isfinite(pixel_size_m) and pixel_size_m > 0):
            raise ValueError(f"the pixel size must be above 0, not {pixel_size_m}")
        self._patch_px = patch_px
        self._pixel_size_m = pixel_size_m
        self._align_offsets = align_offsets
        self._max_canvas_px = max_canvas_px
        self._largest_weight = share.max()
        self._patch = Patch(share / self._largest_weight)
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything added so far."""
        with self._lock:
            self._canvas = np.zeros((3, 0, 0), np.float32)
            # Rows and columns count whole pixels from the sample plane's origin: where the canvas begins, what is used.
            self._start = (0, 0)
            self._used: tuple[slice, slice] | None = None
            self._sums = Sums()

    def add(self, phase_rad: FloatArray, position_m: tuple[float, float]) -> None:
        """Add one prediction, (n, n) float32 rad, whose centre lies at position_m (y, x).

        Raises FrameRejected, leaving the map as it was, when the prediction or the position is not finite or the shape
        is wrong, and BeyondMap when the map would grow beyond max_canvas_px.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            total = phase_rad.sum()  # what is not finite outlives a sum
        if phase_rad.shape != (self._patch_px, self._patch_px) or not np.isfinite(total):
            raise FrameRejected(f"a prediction must be finite and of shape {(self._patch_px, self._patch_px)}")
        corner = [value / self._pixel_size_m - self._patch_px // 2 for value in position_m]
        if not all(math.isfinite(value) for value in corner):
            raise FrameRejected(f"a position must be finite, in m and in pixels, not {position_m}")
        start_row, start_column = (math.ceil(value) for value in corner)
        side = self._patch_px - 1
        with self._lock:
            self._make_room(slice(start_row, start_row + side), slice(start_column, start_column + side), position_m)
            row, column = start_row - self._start[0], start_column - self._start[1]
            block = self._canvas[:, row : row + side, column : column + side]
            self._patch.place(phase_rad, start_row - corner[0], start_column - corner[1], self._sums)
            self._patch.merge_into(block, self._sums, align=self._align_offsets)

    def map(self) -> StitchedMap | None:
        """Return a copy of the map so far, or None before the first prediction."""
        with self._lock:
            if self._used is None:
                return None
            # A canvas that is outgrown or reset meanwhile stays as it was.
            canvas, constant_rad = self._canvas, self._sums.map_constant_rad
            (top, left), (rows, columns) = self._start, self._used
        used = canvas[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        phase_rad, weight = np.empty(used.shape[1:], np.float32), np.empty(used.shape[1:], np.float32)
        for band in _bands(used.shape[1:]):
            with self._lock:
                band_weight, band_phase_rad = used[WEIGHT, band].copy(), used[PHASE, band].copy()
            lit = band_weight > UNLIT
            weight[band] = np.where(lit, band_weight * self._largest_weight, np.float32(0))
            phase_rad[band] = np.where(lit, band_phase_rad + np.float32(constant_rad), np.float32(np.nan))
        origin_m = (rows.start * self._pixel_size_m, columns.start * self._pixel_size_m)
        return StitchedMap(phase_rad, weight, origin_m, self._pixel_size_m)

    @property
    def consistency_rad(self) -> float | None:
        """Weighted standard deviation of predictions that overlap; None before any do.

        Each pixel's spread counts by W - sum(w^2) / W, its unbiased number of degrees of freedom for weights w with
        sum W: nothing where one prediction stands alone, however large its weight. Constants that were taken from
        predictions count as disagreement: a network that always predicts the same ramp would else be joined to one
        long and consistent ramp.
        """
        with self._lock:
            return self._sums.spread_rad

    @property
    def consistency_ratio(self) -> float | None:
        """consistency_rad over the map's own weighted standard deviation; None when there is no overlap or no contrast.

        A network that always predicts the same agrees with itself; only in proportion to what the map shows does
        agreement mean anything (1 and above: the predictions have nothing to do with the sample).
        """
        with self._lock:
            spread_rad, contrast_rad = self._sums.spread_rad, self._sums.contrast_rad
        return None if spread_rad is None or contrast_rad <= _FLAT_RAD else spread_rad / contrast_rad

    def _make_room(self, rows: slice, columns: slice, position_m: tuple[float, float]) -> None:
        used = (rows, columns) if self._used is None else (_union(self._used[0], rows), _union(self._used[1], columns))
        if max(one.stop - one.start for one in used) > self._max_canvas_px:
            raise BeyondMap(f"a prediction at {position_m} m would grow the map beyond {self._max_canvas_px} px")
        have = tuple(slice(self._start[axis], self._start[axis] + self._canvas.shape[axis + 1]) for axis in (0, 1))
        if any(one.start < two.start or one.stop > two.stop for one, two in zip(used, have, strict=True)):
            self._grow([_padded(one, self._max_canvas_px) for one in used])
        self._used = used

    def _grow(self, wanted: list[slice]) -> None:
        canvas = np.zeros((3, *(one.stop - one.start for one in wanted)), np.float32)
        if self._used is not None:
            old = (slice(u.start - first, u.stop - first) for u, first in zip(self._used, self._start, strict=True))
            new = (slice(u.start - w.start, u.stop - w.start) for u, w in zip(self._used, wanted, strict=True))
            canvas[:, *new] = self._canvas[:, *old]
        self._canvas = canvas
        self._start = (wanted[0].start, wanted[1].start)


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows, of at most _BAND_PX pixels each."""
    height, width = shape
    rows = max(1, _BAND_PX // width)
    return (slice(first, min(first + rows, height)) for first in range(0, height, rows))


def _union(one: slice, two: slice) -> slice:
    return slice(min(one.start, two.start), max(one.stop, two.stop))


def _padded(used: slice, limit_px: int) -> slice:
    """Leave room for as much again as is used, half of it on either side, so that growing is rare."""
    length = used.stop - used.start
    spare = min(length, limit_px - length)
    return slice(used.start - spare // 2, used.stop + spare - spare // 2)
