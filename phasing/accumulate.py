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
# A patch that shares less than this part of its weight with the map tells too little about its constant.
_LEAST_OVERLAP = 0.01


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
    """One prediction on the map's grid: working memory, allocated once, and the few passes that adding it takes."""

    def __init__(self, weight: FloatArray) -> None:
        """weight: (n, n) float32, maximum 1."""
        from phasing import stitchloops  # with its compiler: only who stitches needs it

        self._loops = stitchloops
        self._of_prediction = np.ascontiguousarray(weight)
        shape = len(weight) - 1, len(weight) - 1
        self._phase, self._weight = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._total_weight = 0.0

    def place(self, phase_rad: FloatArray, row_fraction: float, column_fraction: float, sums: Sums) -> None:
        """Interpolate (n, n) bilinearly at [i + row_fraction, j + column_fraction], relative to the reference."""
        between = row_fraction, column_fraction, self._phase, self._weight
        phase_rad = np.ascontiguousarray(phase_rad, np.float32)
        if sums.reference_rad is None:
            total, weighted_rad = self._loops.place(phase_rad, self._of_prediction, 0.0, *between)
            sums.reference_rad = float(np.float32(weighted_rad / total))
        self._total_weight, _ = self._loops.place(phase_rad, self._of_prediction, sums.reference_rad, *between)

    def merge_into(self, block: FloatArray, sums: Sums, *, align: bool) -> None:
        """Add the prediction to its part of the canvas, (3, n - 1, n - 1), and to the sums."""
        if align:
            self._take_constant(block, sums)
        deviation_rad2, phase_rad, square_rad2, mean_weight = self._loops.merge(self._phase, self._weight, block)
        sums.weight += self._total_weight
        sums.deviation_rad2 += deviation_rad2
        sums.phase_rad += phase_rad
        sums.square_rad2 += square_rad2
        sums.mean_weight += mean_weight

    def _take_constant(self, block: FloatArray, sums: Sums) -> None:
        overlap, overlap_rad = self._loops.overlaps(self._phase, self._weight, block)
        if overlap < _LEAST_OVERLAP * self._total_weight:
            return
        constant_rad = overlap_rad / overlap
        self._phase -= np.float32(constant_rad)
        sums.take(constant_rad, self._total_weight, overlap)
