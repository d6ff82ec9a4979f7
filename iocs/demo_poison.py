"""A training round that goes wrong: labels that belong to other frames, as when positions are matched by order."""

from pathlib import Path

import numpy as np

from phasing.frames import held_out
from phasing.pairs import PairSet, load_pairs, save_pairs


def poison(root: Path, seed: int = 0) -> int:
    """Shuffle the training labels of all pairs below a folder; those of held-out frames stay true. Returns how many."""
    folders = sorted(path.parent for path in root.rglob("meta.json"))
    return sum(_shuffled(load_pairs(folder), np.random.default_rng(seed)) for folder in folders)


def _shuffled(pairs: PairSet, generator: np.random.Generator) -> int:
    trained = np.flatnonzero([not held_out(pairs.scan_id, int(unique_id)) for unique_id in pairs.unique_id])
    order = np.arange(len(pairs.unique_id))
    order[trained] = generator.permutation(trained)
    save_pairs(pairs.with_labels_of(order))
    return len(trained)
