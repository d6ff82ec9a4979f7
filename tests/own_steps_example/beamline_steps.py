"""A job of the beamline's own: the mean diffraction pattern of a scan, and how far its centre is off."""

from pathlib import Path

import numpy as np

from hpc_bridge.progress import ProgressWriter
from phasing.scanfile import read_scan


def sum_frames(*, scan_file: str, output: str, progress: str | None = None) -> dict[str, object]:
    """Write the mean of a scan's prepared frames, (n, n) float32 counts, to the .npy file ``output``."""
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with ProgressWriter(Path(progress) if progress else None) as writer:
        scan = read_scan(scan_file)
        writer.write("started", job="sum_frames", num_frames=scan.num_frames)
        mean = scan.prepared().mean(axis=0, dtype=np.float64)
        np.save(target, mean.astype(np.float32))
        writer.write("ended", job="sum_frames")
    rows, columns = np.indices(mean.shape)
    center = [float((mean * axis).sum() / mean.sum()) for axis in (rows, columns)]
    return {"mean": str(target), "num_frames": scan.num_frames, "center_px": center}
