"""The union of all scans' training pairs, as one list of samples that are read from disk by index."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phasing.checkpoint import Checkpoint
from phasing.errors import TrainingError
from phasing.frames import held_out
from phasing.geometry import RELATIVE_TOLERANCE
from phasing.pairs import PairSet

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]

_PIXEL_SIZE_TOLERANCE = 3 * RELATIVE_TOLERANCE
"""Of the phase, whose pixel follows from energy, distance and detector pixel."""
_DETECTOR_STATE = {"mask", "dark_counts", "flat", "saturation_counts"}
"""What may change from scan to scan: prepared frames have it behind them."""


class Samples:
    """All samples of several pair sets that fit one another; `training` and `judging` hold their indices, int64.

    A frame that lies in several sets (of a scan that was reconstructed again, or in parts) counts once, with the pairs
    of the last of them. Raises TrainingError when there is nothing to train on or to judge by.
    """

    def __init__(self, pair_sets: Sequence[PairSet]) -> None:
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


def fitting(pair_sets: Sequence[PairSet], parent: Checkpoint | None) -> tuple[list[PairSet], tuple[str, ...]]:
    """Part the pair sets that can train the parent, or else that go with the first of them, from the others.

    Returns the sets that fit and, for each that does not, one line that names its scan and what differs, so that one
    odd scan does not keep all others from training. Raises TrainingError when no set fits.
    """
    if not pair_sets:
        raise TrainingError("there are no training pairs")
    wanted = parent or pair_sets[0]
    name = "the incumbent" if parent else f"scan {pair_sets[0].scan_id}"
    differences = [_differences(wanted, pairs) for pairs in pair_sets]
    skipped = [
        f"scan {pairs.scan_id} does not fit {name}: {', '.join(names)} differ"
        for pairs, names in zip(pair_sets, differences, strict=True)
        if names
    ]
    if len(skipped) == len(pair_sets):
        raise TrainingError("; ".join(skipped))
    return [pairs for pairs, names in zip(pair_sets, differences, strict=True) if not names], tuple(skipped)


def _differences(wanted: PairSet | Checkpoint, pairs: PairSet) -> list[str]:
    """Name what keeps frames of the two from training one network."""
    names = [name for name in wanted.geometry.differences(pairs.geometry) if name not in _DETECTOR_STATE]
    if not math.isclose(wanted.pixel_size_m, pairs.pixel_size_m, rel_tol=_PIXEL_SIZE_TOLERANCE):
        names.append("pixel sizes")
    return names
