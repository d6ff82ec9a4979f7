"""The union of all scans' training pairs, as one list of samples that are read from disk by index."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phasing.errors import TrainingError
from phasing.frames import held_out
from phasing.geometry import Geometry
from phasing.pairs import PairSet

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]

PIXEL_SIZE_TOLERANCE = 1e-6
_DETECTOR_STATE = {"mask", "dark_counts", "flat", "saturation_counts"}
"""What may change from scan to scan: prepared frames have it behind them."""


class Samples:
    """All samples of several pair sets; `training` and `judging` hold their indices, int64.

    A frame that lies in several sets (of a scan that was reconstructed again, or in parts) counts once, with the pairs
    of the last of them. Raises TrainingError when sets contradict one another, or when there is nothing to train on or
    to judge by.
    """

    def __init__(self, pair_sets: Sequence[PairSet]) -> None:
        if not pair_sets:
            raise TrainingError("there are no training pairs")
        for pairs in pair_sets[1:]:
            _check_agreement(pair_sets[0], pairs)
        self.sets = tuple(pair_sets)
        self._owner = np.concatenate([np.full(len(pairs.unique_id), k) for k, pairs in enumerate(pair_sets)])
        self._row = np.concatenate([np.arange(len(pairs.unique_id)) for pairs in pair_sets])
        hidden = np.array([held_out(pairs.scan_id, int(i)) for pairs in pair_sets for i in pairs.unique_id], bool)
        frames = ((pairs.scan_id, int(i)) for pairs in pair_sets for i in pairs.unique_id)
        last = {frame: index for index, frame in enumerate(frames)}
        once = np.zeros(len(hidden), bool)
        once[list(last.values())] = True
        self.training: IndexArray = np.flatnonzero(once & ~hidden)
        self.judging: IndexArray = np.flatnonzero(once & hidden)
        if not len(self.training) or not len(self.judging):
            raise TrainingError(f"{len(hidden)} frames are too few: none left to train on, or none to judge by")

    def gather(self, indices: IndexArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Counts, phase in rad and loss weight of mean 1, each (B, 1, n, n) float32, of these samples."""
        owner, row = self._owner[indices], self._row[indices]
        shape = (len(indices), 1, *self.sets[0].weight.shape)
        counts, phase_rad, weight = (
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
            np.empty(shape, np.float32),
        )
        for k in np.unique(owner):
            mine, pairs = owner == k, self.sets[k]
            counts[mine, 0] = pairs.counts[row[mine]]
            phase_rad[mine, 0] = pairs.phase_rad[row[mine]]
            weight[mine, 0] = pairs.weight / pairs.weight.mean()
        return counts, phase_rad, weight

    def counts_scale(self) -> float:
        """The factor that brings the frames' brightest pixels to a mean of 1, whatever the exposure."""
        brightest = float(np.mean([pairs.counts.max(axis=(1, 2)).mean() for pairs in self.sets]))
        if brightest <= 0.0:
            raise TrainingError("all frames are empty")
        return 1.0 / brightest

    def probe_intensity(self) -> FloatArray:
        """(n, n) float32, mean over the scans of the squared probe amplitude, maximum 1."""
        intensity = np.mean([pairs.weight.astype(np.float64) ** 2 for pairs in self.sets], axis=0)
        return np.asarray(intensity / intensity.max(), np.float32)


def contradictions(one: Geometry, other: Geometry) -> tuple[str, ...]:
    """Name the fields for which frames of the two geometries cannot train one network; empty when they can."""
    return tuple(name for name in one.differences(other) if name not in _DETECTOR_STATE)


def _check_agreement(first: PairSet, other: PairSet) -> None:
    differences = contradictions(first.geometry, other.geometry)
    if differences:
        names = ", ".join(differences)
        raise TrainingError(f"scans {first.scan_id} and {other.scan_id} do not belong together: {names} differ")
    if not math.isclose(first.pixel_size_m, other.pixel_size_m, rel_tol=PIXEL_SIZE_TOLERANCE):
        raise TrainingError(f"scans {first.scan_id} and {other.scan_id} do not belong together: pixel sizes differ")
