"""Stitching live predictions into one phase map, and how well overlapping predictions agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phasing.errors import FrameRejected

# Below any weight that matters; keeps 0 / 0 out of pixels that no prediction has reached.
_NO_WEIGHT = np.float32(1e-30)
_WEIGHT, _WEIGHT_SQUARED, _MEAN, _DEVIATION = range(4)


@dataclass(frozen=True, eq=False)
class StitchedMap:
    """A phase map on a regular grid.

    phase_rad (H, W) float32, NaN where weight is 0; weight (H, W) float32; origin_m (y, x) of the centre of pixel
    [0, 0]; pixel_size_m of the square pixel.
    """

    phase_rad: NDArray[np.float32]
    weight: NDArray[np.float32]
    origin_m: tuple[float, float]
    pixel_size_m: float


class Stitcher:
    """Adds each (n, n) prediction at its position to a growing map, weighted, to a fraction of a pixel.

    Pixel [n // 2, n // 2] of a prediction lies at its position. weight (n, n), not negative: the probe's intensity.
    The prediction is interpolated (bilinearly) onto the map's grid, whose pixels lie at whole multiples of
    pixel_size_m, and the map's mean and the weighted spread about it are updated in place (West, Comm. ACM 22, 532
    (1979)), so that the spread does not drown in the rounding of a difference of large sums. Costs depend on n only,
    but for the occasional doubling of the map's memory. The map's sides are at most max_canvas_px.
    """

    def __init__(self, patch_px: int, pixel_size_m: float, weight: ArrayLike, *, max_canvas_px: int = 4096) -> None:
        """Start with an empty map; ValueError when the weight is not a usable (patch_px, patch_px) array."""
        self._weight: NDArray[np.float32] = np.array(weight, np.float32)
        if patch_px < 2 or self._weight.shape != (patch_px, patch_px):
            raise ValueError(f"the weight must be of shape {(patch_px, patch_px)}, not {self._weight.shape}")
        if not np.isfinite(self._weight).all() or self._weight.min() < 0 or self._weight.max() <= 0:
            raise ValueError("the weight must be finite, not negative and somewhere above 0")
        if not (math.isfinite(pixel_size_m) and pixel_size_m > 0):
            raise ValueError(f"the pixel size must be above 0, not {pixel_size_m}")
        self._patch_px = patch_px
        self._pixel_size_m = pixel_size_m
        self._max_canvas_px = max_canvas_px
        self.reset()

    def reset(self) -> None:
        """Forget everything added so far."""
        self._canvas = np.zeros((4, 0, 0), np.float32)
        # Rows and columns count whole pixels from the sample plane's origin: where the canvas begins, what is used.
        self._start = (0, 0)
        self._used: tuple[slice, slice] | None = None

    def add(self, phase_rad: NDArray[np.float32], position_m: tuple[float, float]) -> None:
        """Add one prediction, (n, n) float32 rad, whose centre lies at position_m (y, x).

        Raises FrameRejected, leaving the map as it was, when the prediction or the position is not finite, the shape is
        wrong or the map would grow beyond max_canvas_px.
        """
        if phase_rad.shape != self._weight.shape or not np.isfinite(phase_rad).all():
            raise FrameRejected(f"a prediction must be finite and of shape {self._weight.shape}")
        corner = [value / self._pixel_size_m - self._patch_px // 2 for value in position_m]
        if not all(math.isfinite(value) for value in corner):
            raise FrameRejected(f"a position must be finite, in m and in pixels, not {position_m}")
        start_row, start_column = (math.ceil(value) for value in corner)
        fractions = (start_row - corner[0], start_column - corner[1])
        side = self._patch_px - 1
        self._make_room(slice(start_row, start_row + side), slice(start_column, start_column + side), position_m)
        row, column = start_row - self._start[0], start_column - self._start[1]
        block = self._canvas[:, row : row + side, column : column + side]
        _accumulate(block, _shifted(phase_rad, *fractions), _shifted(self._weight, *fractions))

    def map(self) -> StitchedMap | None:
        """Return a copy of the map so far, or None before the first prediction."""
        if self._used is None:
            return None
        weight, mean = self._view(_WEIGHT), self._view(_MEAN)
        rows, columns = self._used
        return StitchedMap(
            phase_rad=np.where(weight > 0, mean, np.float32(np.nan)),
            weight=weight.copy(),
            origin_m=(rows.start * self._pixel_size_m, columns.start * self._pixel_size_m),
            pixel_size_m=self._pixel_size_m,
        )

    @property
    def consistency_rad(self) -> float | None:
        """Weighted standard deviation of predictions that overlap; None before any do.

        Each pixel's spread counts by W - sum(w^2) / W, its unbiased number of degrees of freedom for weights w with
        sum W: nothing where one prediction stands alone, however large its weight.
        """
        weight = self._view(_WEIGHT)
        freedom = weight - self._view(_WEIGHT_SQUARED) / np.maximum(weight, _NO_WEIGHT)
        total = float(freedom.sum(dtype=np.float64))
        if total <= 1e-5 * float(weight.sum(dtype=np.float64)):
            return None
        return math.sqrt(max(0.0, float(self._view(_DEVIATION).sum(dtype=np.float64)) / total))

    @property
    def consistency_ratio(self) -> float | None:
        """consistency_rad over the map's own weighted standard deviation; None when there is no overlap or no contrast.

        A network that always predicts the same agrees with itself; only in proportion to what the map shows does
        agreement mean anything (1 and above: the predictions have nothing to do with the sample).
        """
        spread_rad = self.consistency_rad
        if spread_rad is None:
            return None
        weight, mean = self._view(_WEIGHT).astype(np.float64), self._view(_MEAN).astype(np.float64)
        average = np.average(mean, weights=weight)
        contrast_rad = math.sqrt(float(np.average((mean - average) ** 2, weights=weight)))
        return spread_rad / contrast_rad if contrast_rad > 1e-6 else None

    def _view(self, layer: int) -> NDArray[np.float32]:
        view: NDArray[np.float32] = self._canvas[layer]
        if self._used is None:
            return view
        rows, columns = (
            slice(used.start - start, used.stop - start) for used, start in zip(self._used, self._start, strict=True)
        )
        return view[rows, columns]

    def _make_room(self, rows: slice, columns: slice, position_m: tuple[float, float]) -> None:
        used = (rows, columns) if self._used is None else (_union(self._used[0], rows), _union(self._used[1], columns))
        if max(one.stop - one.start for one in used) > self._max_canvas_px:
            raise FrameRejected(f"a prediction at {position_m} m would grow the map beyond {self._max_canvas_px} px")
        have = tuple(slice(self._start[axis], self._start[axis] + self._canvas.shape[axis + 1]) for axis in (0, 1))
        if any(one.start < two.start or one.stop > two.stop for one, two in zip(used, have, strict=True)):
            self._grow([_padded(one, self._max_canvas_px) for one in used])
        self._used = used

    def _grow(self, wanted: list[slice]) -> None:
        canvas = np.zeros((4, *(one.stop - one.start for one in wanted)), np.float32)
        if self._used is not None:
            rows, columns = (
                slice(used.start - new.start, used.stop - new.start)
                for used, new in zip(self._used, wanted, strict=True)
            )
            for layer in range(4):
                canvas[layer, rows, columns] = self._view(layer)
        self._canvas = canvas
        self._start = (wanted[0].start, wanted[1].start)


def _union(one: slice, two: slice) -> slice:
    return slice(min(one.start, two.start), max(one.stop, two.stop))


def _padded(used: slice, limit_px: int) -> slice:
    """Leave room for as much again as is used, half of it on either side, so that growing is rare."""
    length = used.stop - used.start
    spare = min(length, limit_px - length)
    return slice(used.start - spare // 2, used.stop + spare - spare // 2)


def _shifted(patch: NDArray[np.float32], row_fraction: float, column_fraction: float) -> NDArray[np.float32]:
    """Interpolate (n, n) bilinearly at [i + row_fraction, j + column_fraction]; (n - 1, n - 1)."""
    rows = patch[:-1] + np.float32(row_fraction) * (patch[1:] - patch[:-1])
    shifted: NDArray[np.float32] = rows[:, :-1] + np.float32(column_fraction) * (rows[:, 1:] - rows[:, :-1])
    return shifted


def _accumulate(block: NDArray[np.float32], phase: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
    """Update weight, weight squared, mean and sum of squared deviations of (4, H, W) in place."""
    block[_WEIGHT] += weight
    block[_WEIGHT_SQUARED] += weight * weight
    difference = phase - block[_MEAN]
    block[_MEAN] += difference * (weight / np.maximum(block[_WEIGHT], _NO_WEIGHT))
    difference *= weight
    difference *= phase - block[_MEAN]
    block[_DEVIATION] += difference
