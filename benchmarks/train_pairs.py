"""Training pairs on disk for measurements: simulated frames with the sample's true phase under the probe."""

from pathlib import Path

import numpy as np

from phasing.geometry import Geometry
from phasing.pairs import PairSet, save_pairs
from phasing.simulate import Optics, SimulatedScan, spiral
from phasing.symmetry import probe_overlaps

_STEP_M = 50e-9
_REGION_STEP_M = 6e-6
_REGIONS_ACROSS = 6
_LEAST_PROBE = 0.02


def geometry(side_px: int) -> Geometry:
    """26-ID's optics: 128 pixels of 10 nm on the sample, or 64 of 26 nm as in the demo."""
    distance_m = 1.55 if side_px == 128 else 0.768
    return Geometry(
        energy_ev=10_400.0,
        distance_m=distance_m,
        pixel_size_m=55e-6,
        detector_shape_px=(side_px, side_px),
        crop_px=side_px,
    )


def simulated(number: int, num_frames: int, side_px: int) -> SimulatedScan:
    """Scan `number` of a sample that repeats after 36 of them; each shows another region."""
    row, column = divmod(number % _REGIONS_ACROSS**2, _REGIONS_ACROSS)
    center_m = (row * _REGION_STEP_M, column * _REGION_STEP_M)
    step_m = _STEP_M if side_px == 128 else 2 * _STEP_M
    return SimulatedScan(geometry(side_px), spiral(num_frames, step_m, center_m=center_m))


def make(folder: Path, number: int, num_frames: int, side_px: int) -> PairSet:
    """Write the pairs of one scan into a folder of their own below `folder`."""
    scan = simulated(number, num_frames, side_px)
    counts = scan.frames().astype(np.float32)
    phase_rad = np.stack([scan.phase_rad(k) for k in range(num_frames)])
    probe = Optics().probe(geometry(side_px))[None]
    weight = np.abs(probe[0]) / np.abs(probe[0]).max()
    known = weight >= _LEAST_PROBE
    mean_rad = np.angle(np.sum(np.exp(1j * phase_rad) * weight * known))
    return save_pairs(
        PairSet(
            folder=folder / f"scan-{number}",
            scan_id=f"scan-{number}",
            counts=counts,
            phase_rad=np.angle(np.exp(1j * (phase_rad - mean_rad))).astype(np.float32),
            mask=np.broadcast_to(known, counts.shape),
            weight=weight.astype(np.float32),
            frame_counts=counts.sum(axis=(1, 2), dtype=np.float64),
            unique_id=np.arange(num_frames),
            position_m=scan.position_m,
            pixel_size_m=geometry(side_px).object_pixel_size_m,
            geometry=geometry(side_px),
            symmetry=probe_overlaps(probe),
        )
    )
