"""Training pairs of a few frames whose phase can be read off the frame's brightness."""

from pathlib import Path

import numpy as np

from phasing.geometry import Geometry
from phasing.pairs import PairSet


def make_tiny_pairs(
    geometry: Geometry, folder: Path, scan_id: str = "tiny", *, seed: int = 0, num_frames: int = 80
) -> PairSet:
    """Pairs with a probe that is bright in the middle half; some brightness is noise."""
    generator = np.random.default_rng(seed)
    n = geometry.frame_px
    level = generator.uniform(0.2, 1.0, (num_frames, 1, 1))
    counts = (level * generator.uniform(80.0, 120.0, (num_frames, n, n))).astype(np.float32)
    weight = np.full((n, n), 0.2, np.float32)
    weight[n // 4 : -(n // 4), n // 4 : -(n // 4)] = 1.0
    return PairSet(
        folder=folder,
        scan_id=scan_id,
        counts=counts,
        phase_rad=np.broadcast_to((2.0 * level - 1.2).astype(np.float32), counts.shape),
        mask=np.ones(counts.shape, bool),
        weight=weight,
        frame_counts=counts.sum(axis=(1, 2), dtype=np.float64),
        unique_id=np.arange(num_frames),
        position_m=np.zeros((num_frames, 2)),
        pixel_size_m=26e-9,
        geometry=geometry,
        symmetry=(1.0,) * 8,
    )
