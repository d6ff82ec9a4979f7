"""The arithmetic of stitching: one prediction joined to its part of the map, and the sums that trust is read from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

WEIGHT, PHASE, MEAN_WEIGHT = range(3)
"""The layers of a canvas, (3, H, W) float32: sum of weights w, weighted mean of the phase, and sum(w^2) / sum(w)."""
UNLIT = 1e-22
"""A pixel of the canvas that has gathered less than this was reached by no weight."""
# Added to every pixel's weight, whose largest is 1, so that nothing is ever divided by 0.
_LEAST_WEIGHT = 1e-30
_WEIGHT_STEPS_PER_PX = 4
# A patch that shares less than this part of its weight with the map tells too little about its constant.
_LEAST_OVERLAP = 0.01
# OpenBLAS hands longer sums to other threads, and waking them takes longer than the sum.
_SUMMED_AT_ONCE = 1 << 12


@dataclass
class Sums:
    """What the trust figures need to know of the whole map, in float64, updated with every patch.

    Phases are relative to reference_rad, which is about the map's mean, so that little is lost in differences.
    weight, phase_rad and square_rad2 are sums of w, w x and w x^2 over all predictions x of weight w, without their
    constants where these are taken; deviation_rad2 is that of w (x - m)^2 about the map's mean m; mean_weight that of
    sum(w^2) / sum(w) over the map's pixels. taken_rad is the sum of w c over the constants c that were taken; overlap,
    overlap_taken_rad and overlap_taken_rad2 are those of h, h c and h c^2 (h: see Stitcher).
    """

    reference_rad: float | None = None
    weight: float = 0.0
    phase_rad: float = 0.0
    square_rad2: float = 0.0
    deviation_rad2: float = 0.0
    mean_weight: float = 0.0
    taken_rad: float = 0.0
    overlap: float = 0.0
    overlap_taken_rad: float = 0.0
    overlap_taken_rad2: float = 0.0

    def take(self, constant_rad: float, weight: float, overlap: float) -> None:
        """Note the constant that is taken from a prediction of this weight and overlap with the map."""
        self.taken_rad += weight * constant_rad
        self.overlap += overlap
        self.overlap_taken_rad += overlap * constant_rad
        self.overlap_taken_rad2 += overlap * constant_rad**2

    @property
    def map_constant_rad(self) -> float:
        """What is added to the canvas to make it the map."""
        return (self.reference_rad or 0.0) + self.taken_rad / self.weight

    @property
    def spread_rad(self) -> float | None:
        """Weighted standard deviation of overlapping predictions, and of their constants; None without overlap."""
        freedom = self.weight - self.mean_weight
        if freedom <= 1e-5 * self.weight:
            return None
        variance_rad2 = self.deviation_rad2 / freedom
        if self.overlap > 0.0:
            mean_rad = self.overlap_taken_rad / self.overlap
            variance_rad2 += max(0.0, self.overlap_taken_rad2 / self.overlap - mean_rad**2)
        return math.sqrt(variance_rad2)

    @property
    def contrast_rad(self) -> float:
        """Weighted standard deviation of the map: that of all predictions less what they deviate from the map."""
        if self.weight == 0.0:
            return 0.0
        within_rad2 = self.square_rad2 - self.phase_rad**2 / self.weight - self.deviation_rad2
        return math.sqrt(max(0.0, within_rad2 / self.weight))


class Patch:
    """One prediction on the map's grid: working memory, allocated once, for the few passes that adding it takes.

    Arrays hold (n - 1, n) pixels, of which those of the last column mean nothing and weigh _LEAST_WEIGHT: in memory
    without gaps, numpy is twice as fast. They are laid out in rows of _SUMMED_AT_ONCE, the rest of the last one 0.
    """

    def __init__(self, weight: FloatArray) -> None:
        """weight: (n, n) float32, maximum 1."""
        self._side_px = len(weight)
        steps = range(_WEIGHT_STEPS_PER_PX + 1)
        self._weights = {(row, column): self._weight_at(weight, row, column) for row in steps for column in steps}
        self._weight, self._total_weight = self._weights[0, 0]
        self._phase, self._difference, self._gain, self._step, self._work = (self._empty() for _ in range(5))
        self._held = self._empty(), self._empty(), self._empty()
        self._pixels = tuple(self._image(one)[:, :-1] for one in self._held)

    def place(self, phase_rad: FloatArray, row_fraction: float, column_fraction: float, sums: Sums) -> None:
        """Interpolate (n, n) bilinearly at [i + row_fraction, j + column_fraction], relative to the reference."""
        step = round(row_fraction * _WEIGHT_STEPS_PER_PX), round(column_fraction * _WEIGHT_STEPS_PER_PX)
        self._weight, self._total_weight = self._weights[step]
        rows, between = self._image(self._work), self._image(self._phase).reshape(-1)
        _between(phase_rad[:-1], phase_rad[1:], row_fraction, rows)
        # To the right of the last column is the next row's first pixel, and of the last row nothing.
        flat = rows.reshape(-1)
        _between(flat[:-1], flat[1:], column_fraction, between[:-1])
        between[-1] = 0
        if sums.reference_rad is None:
            sums.reference_rad = float(np.float32(_dot(self._weight, self._phase) / self._total_weight))
        between -= np.float32(sums.reference_rad)

    def merge_into(self, block: FloatArray, sums: Sums, *, align: bool) -> None:
        """Add the prediction to its part of the canvas, (3, n - 1, n - 1), and to the sums."""
        weight, difference, gain, step, work = self._weight, self._difference, self._gain, self._step, self._work
        held_weight, held_phase, held_mean_weight = self._held
        for one, layer in zip(self._pixels, block, strict=True):
            np.copyto(one, layer)
        np.add(held_weight, weight, out=work)
        np.divide(weight, work, out=gain)
        np.copyto(block[WEIGHT], self._image(work)[:, :-1])
        np.subtract(self._phase, held_phase, out=difference)
        if align:
            self._take_constant(sums)
        np.multiply(gain, difference, out=step)
        np.multiply(held_weight, step, out=work)
        sums.deviation_rad2 += _dot(work, difference)
        held_phase += step
        np.multiply(weight, self._phase, out=work)
        sums.weight += self._total_weight
        sums.phase_rad += _dot(weight, self._phase)
        sums.square_rad2 += _dot(work, self._phase)
        np.subtract(weight, held_mean_weight, out=work)
        sums.mean_weight += _dot(work, gain)
        work *= gain
        held_mean_weight += work
        for layer in (PHASE, MEAN_WEIGHT):
            np.copyto(block[layer], self._pixels[layer])

    def _take_constant(self, sums: Sums) -> None:
        held_weight = self._held[WEIGHT]
        overlap = _dot(self._gain, held_weight)
        if overlap < _LEAST_OVERLAP * self._total_weight:
            return
        np.multiply(self._gain, held_weight, out=self._work)
        constant_rad = _dot(self._work, self._difference) / overlap
        self._phase -= np.float32(constant_rad)
        self._difference -= np.float32(constant_rad)
        sums.take(constant_rad, self._total_weight, overlap)

    def _empty(self) -> FloatArray:
        size = (self._side_px - 1) * self._side_px
        return np.zeros((-(-size // _SUMMED_AT_ONCE), _SUMMED_AT_ONCE), np.float32)

    def _image(self, array: FloatArray) -> FloatArray:
        shape = self._side_px - 1, self._side_px
        return array.reshape(-1)[: shape[0] * shape[1]].reshape(shape)

    def _weight_at(self, weight: FloatArray, row_step: int, column_step: int) -> tuple[FloatArray, float]:
        rows, shifted = np.empty_like(weight[1:]), np.empty_like(weight[1:, 1:])
        _between(weight[:-1], weight[1:], row_step / _WEIGHT_STEPS_PER_PX, rows)
        _between(rows[:, :-1], rows[:, 1:], column_step / _WEIGHT_STEPS_PER_PX, shifted)
        array = self._empty() + np.float32(_LEAST_WEIGHT)
        self._image(array)[:, :-1] += shifted
        return array, float(array.sum(dtype=np.float64))


def _between(one: FloatArray, two: FloatArray, fraction: float, out: FloatArray) -> None:
    np.subtract(two, one, out=out)
    out *= np.float32(fraction)
    out += one


def _dot(one: FloatArray, two: FloatArray) -> float:
    """Sum of products in float64, of stretches summed in float32."""
    parts: list[float] = np.vecdot(one, two).tolist()
    return math.fsum(parts)
