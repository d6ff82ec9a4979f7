"""The union of all scans' training pairs, as one list of samples that are read from disk by index."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasing.checkpoint import Checkpoint
from phasing.errors import TrainingError
from phasing.frames import held_out
from phasing.geometry import RELATIVE_TOLERANCE
from phasing.pairs import PairSet
from phasing.rounds import TrainSettings
from phasing.symmetry import OPERATIONS, turned

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]
"""Sums of weighted errors in rad and of weights over the frames of each scan, (scans, 2)."""

_PIXEL_SIZE_TOLERANCE = 3 * RELATIVE_TOLERANCE
"""Of the phase, whose pixel follows from energy, distance and detector pixel."""
_DETECTOR_STATE = {"mask", "dark_counts", "flat", "saturation_counts"}
"""What may change from scan to scan: prepared frames have it behind them."""
_SCALED_BY = 1024
"""Frames that the scale of the counts is measured on."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """Samples read from disk: counts and phase_rad (B, 1, n, n) float32, mask (B, 1, n, n) bool, owner (B,) int64.

    owner: which pair set each is of.
    """

    counts: FloatArray
    phase_rad: FloatArray
    mask: npt.NDArray[np.bool_]
    owner: IndexArray


class Samples:
    """All samples of several pair sets that fit one another; `training`, `judging` and `judged` hold indices, int64.

    `training` is what the settings choose; `judging` are all held-out frames, `judged` those that every epoch is judged
    by. A frame that lies in several sets (of a scan that was reconstructed again, or in parts) counts once, with the
    pairs of the last of them; empty frames count nowhere.
    Raises TrainingError when there is nothing to train on or to judge by.
    """

    def __init__(self, pair_sets: Sequence[PairSet], settings: TrainSettings) -> None:
        self.sets = tuple(pair_sets)
        self.scans = tuple(dict.fromkeys(pairs.scan_id for pairs in pair_sets))
        number = {scan_id: k for k, scan_id in enumerate(self.scans)}
        self._scan_of_set: IndexArray = np.array([number[pairs.scan_id] for pairs in pair_sets], np.int64)
        self._owner = np.concatenate([np.full(len(pairs.unique_id), k) for k, pairs in enumerate(pair_sets)])
        self._row = np.concatenate([np.arange(len(pairs.unique_id)) for pairs in pair_sets])
        frames = [(pairs.scan_id, int(i)) for pairs in pair_sets for i in pairs.unique_id]
        usable = self._once(frames) & self._lit(settings.min_counts)
        hidden = np.array([held_out(*frame) for frame in frames], bool)
        self.judging: IndexArray = np.flatnonzero(usable & hidden)
        self.judged = _drawn(self.judging, frames, settings.judged_frames, settings.seed)
        self.training = self._chosen(np.flatnonzero(usable & ~hidden), frames, settings)
        if not len(self.training) or not len(self.judging):
            empty = f", {len(frames) - int(usable.sum())} of them empty or doubled" if not usable.all() else ""
            raise TrainingError(f"{len(frames)} frames{empty} are too few: none left to train on, or none to judge by")

    def faults(self) -> dict[int, str]:
        """What is wrong with the chosen pairs, by the number of their set: those read before they are trained on."""
        chosen = np.union1d(self.training, self.judging)
        found = {k: pairs.fault_of(self._row[chosen[self._owner[chosen] == k]]) for k, pairs in enumerate(self.sets)}
        return {k: fault for k, fault in found.items() if fault}

    def gather(self, indices: IndexArray, operations: IndexArray | None = None) -> Gathered:
        """Read these samples; `operations`, of phasing.symmetry, turn each of them."""
        owner, row = self._owner[indices], self._row[indices]
        shape = (len(indices), 1, *self.sets[0].weight.shape)
        counts, phase_rad, mask = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.bool_)
        for k in np.unique(owner):
            mine, pairs = owner == k, self.sets[k]
            counts[mine, 0] = pairs.counts[row[mine]]
            phase_rad[mine, 0] = pairs.phase_rad[row[mine]]
            mask[mine, 0] = pairs.mask[row[mine]]
        if operations is not None:
            for k in np.flatnonzero(operations):
                for array in (counts, phase_rad, mask):
                    array[k] = turned(array[k], int(operations[k]))
        return Gathered(counts, phase_rad, mask, owner)

    def weights(self, *, plain: bool) -> FloatArray:
        """The loss's weight of every pixel for each set, (sets, 1, n, n) float32 of mean 1; plain: all alike."""
        if plain:
            return np.ones((len(self.sets), 1, *self.sets[0].weight.shape), np.float32)
        return np.stack([pairs.weight[None] / pairs.weight.mean() for pairs in self.sets]).astype(np.float32)

    def scan_of(self, indices: IndexArray) -> IndexArray:
        """Which of `scans` each sample is of."""
        return np.asarray(self._scan_of_set[self._owner[indices]])

    def trained_scans(self) -> tuple[str, ...]:
        """The scans of which frames are trained on."""
        return tuple(self.scans[k] for k in np.unique(self.scan_of(self.training)))

    def num_held_out(self) -> IndexArray:
        """How many held-out frames each of `scans` has."""
        return np.bincount(self.scan_of(self.judging), minlength=len(self.scans))

    def draw_operations(self, indices: IndexArray, overlap: float, generator: np.random.Generator) -> IndexArray:
        """For each sample one of the symmetries that its scan's probe has to at least this overlap."""
        draws = generator.random(len(indices))
        chosen = np.zeros(len(indices), np.int64)
        owner = self._owner[indices]
        for k, pairs in enumerate(self.sets):
            allowed = np.array([o for o in range(len(OPERATIONS)) if o == 0 or pairs.symmetry[o] >= overlap])
            mine = owner == k
            chosen[mine] = allowed[(draws[mine] * len(allowed)).astype(int)]
        return chosen

    def counts_scale(self) -> float:
        """The factor that brings the frames' brightest pixels to a mean of 1, whatever the exposure."""
        looked_at = self.training[np.linspace(0, len(self.training) - 1, _SCALED_BY).astype(int)]
        brightest = float(self.gather(np.unique(looked_at)).counts.max(axis=(1, 2, 3)).mean())
        if brightest <= 0.0:
            raise TrainingError("all frames are empty")
        return 1.0 / brightest

    def probe_intensity(self) -> FloatArray:
        """(n, n) float32, mean over the scans of the squared probe amplitude, maximum 1."""
        intensity = np.mean([pairs.weight.astype(np.float64) ** 2 for pairs in self.sets], axis=0)
        return np.asarray(intensity / intensity.max(), np.float32)

    def _once(self, frames: list[tuple[str, int]]) -> npt.NDArray[np.bool_]:
        last = {frame: index for index, frame in enumerate(frames)}
        once = np.zeros(len(frames), bool)
        once[list(last.values())] = True
        return once

    def _lit(self, min_counts: float) -> npt.NDArray[np.bool_]:
        counts = np.concatenate([pairs.frame_counts for pairs in self.sets])
        return np.asarray((counts > 0.0) & (counts >= min_counts))

    def _chosen(self, indices: IndexArray, frames: list[tuple[str, int]], settings: TrainSettings) -> IndexArray:
        if settings.last_scans:
            newest_first = dict.fromkeys(pairs.scan_id for pairs in reversed(self.sets))
            wanted = set(list(newest_first)[: settings.last_scans])
            return np.array([k for k in indices if frames[k][0] in wanted], np.int64)
        if settings.reservoir_frames:
            return _drawn(indices, frames, settings.reservoir_frames, settings.seed)
        return indices


def _drawn(indices: IndexArray, frames: list[tuple[str, int]], number: int, seed: int) -> IndexArray:
    """So many of the indices, those with the smallest digests of seed and frame, in ascending order.

    Every frame has the same chance, and a new scan replaces no more frames than it brings.
    """
    if len(indices) <= number:
        return indices
    digests = [hashlib.sha256(f"{seed}:{frames[k][0]}:{frames[k][1]}".encode()).digest() for k in indices]
    order = sorted(range(len(indices)), key=digests.__getitem__)
    return np.sort(indices[order[:number]])


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


def sound_samples(pair_sets: Sequence[PairSet], settings: TrainSettings) -> tuple[Samples, tuple[str, ...]]:
    """The samples of all sets whose chosen pairs are whole, and one line for each set that is left out.

    Raises TrainingError when none is left.
    """
    sets = list(pair_sets)
    skipped: list[str] = []
    while True:
        samples = Samples(sets, settings)
        faults = samples.faults()
        if not faults:
            return samples, tuple(skipped)
        skipped += [f"scan {sets[k].scan_id} is damaged: {sets[k].folder}: {fault}" for k, fault in faults.items()]
        sets = [pairs for k, pairs in enumerate(sets) if k not in faults]
        if not sets:
            raise TrainingError("; ".join(skipped))


def mean_losses(sums: Sums) -> tuple[float, Sums]:
    """The mean loss in rad over all scans, and that of each, (scans,), NaN for one without frames.

    Raises TrainingError when it is not finite.
    """
    total = sums.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return finite(float(total[0] / total[1]), "validation loss"), sums[:, 0] / sums[:, 1]


def finite(loss: float, name: str) -> float:
    """The loss, if it is a number. Raises TrainingError."""
    if not math.isfinite(loss):
        raise TrainingError(f"the {name} is {loss}: lower the learning rate or look at the training pairs")
    return loss


def _differences(wanted: PairSet | Checkpoint, pairs: PairSet) -> list[str]:
    """Name what keeps frames of the two from training one network."""
    names = [name for name in wanted.geometry.differences(pairs.geometry) if name not in _DETECTOR_STATE]
    if not math.isclose(wanted.pixel_size_m, pairs.pixel_size_m, rel_tol=_PIXEL_SIZE_TOLERANCE):
        names.append("pixel sizes")
    return names
