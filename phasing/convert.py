"""Bringing other people's ptychography data into scan files."""

from __future__ import annotations

import bz2
import hashlib
import io
import uuid
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasing.errors import ScanFileError
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanwriter import ScanWriter

_KEYS = ("data", "scan", "probe")


def tike_to_scan(
    source: str | PathLike[str],
    output: str | PathLike[str],
    *,
    energy_ev: float,
    distance_m: float,
    pixel_size_m: float,
) -> Path:
    """Turn one of Tike's test archives (.npz or .npz.bz2) into a scan file, and return its path.

    The archive holds data (1, N, n, n), intensities in counts with zero frequency at [0, 0]; scan (1, N, 2), positions
    (row, column) in object pixels; probe (..., n, n) complex. It does not say how it was measured: energy_ev,
    distance_m and pixel_size_m (detector) give positions their length and are recorded as nominal. Frames of whole
    counts become uint16. The scan id follows from the archive's content, frame ids count from 1, times are 0 (unknown).
    Raises ScanFileError (source or output) and GeometryError (the three numbers).
    """
    source = Path(source)
    content, arrays = _load(source)
    counts = _counts(source, arrays["data"])
    geometry = Geometry(
        energy_ev=energy_ev,
        distance_m=distance_m,
        pixel_size_m=pixel_size_m,
        detector_shape_px=(counts.shape[1], counts.shape[2]),
        crop_px=counts.shape[1],
    )
    position_m = _positions_px(source, arrays["scan"], len(counts)) * geometry.object_pixel_size_m
    scan_id = str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4))
    probe = _probe(source, arrays["probe"], geometry.frame_px)
    nominal = ("energy_ev", "distance_m", "pixel_size_m")
    with ScanWriter(output, scan_id, geometry, dtype=counts.dtype, probe_guess=probe, nominal=nominal) as writer:
        for index, (frame, (y_m, x_m)) in enumerate(zip(counts, position_m.tolist(), strict=True)):
            writer.append(Frame(index + 1, 0.0, scan_id, frame, (y_m, x_m)))
    return writer.path


def _load(source: Path) -> tuple[bytes, dict[str, NDArray[Any]]]:
    try:
        content = source.read_bytes()
        content = bz2.decompress(content) if source.suffix == ".bz2" else content
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return content, {key: archive[key] for key in _KEYS}
    except KeyError as error:
        raise ScanFileError(f"{source}: not one of Tike's archives: {error}") from error
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ScanFileError(f"{source}: cannot be read as a numpy archive: {error}") from error


def _counts(source: Path, data: NDArray[Any]) -> NDArray[Any]:
    if data.ndim != 4 or data.shape[0] != 1 or data.shape[2] != data.shape[3] or data.dtype.kind not in "iuf":
        raise ScanFileError(f"{source}: data must be (1, N, n, n) counts, not {data.shape} {data.dtype}")
    if data.size == 0:
        raise ScanFileError(f"{source}: it holds no frames, data is {data.shape}")
    counts: NDArray[Any] = np.fft.fftshift(data[0], axes=(1, 2))
    if not np.isfinite(counts).all():
        raise ScanFileError(f"{source}: data holds NaN")
    whole = bool((counts == np.round(counts)).all()) and counts.min() >= 0 and counts.max() < np.iinfo(np.uint16).max
    return counts.astype(np.uint16) if whole else counts.astype(np.float32)


def _positions_px(source: Path, scan: NDArray[Any], num_frames: int) -> NDArray[np.float64]:
    if scan.ndim != 3 or scan.shape[0] != 1 or scan.shape[2] != 2 or scan.dtype.kind not in "iuf":
        raise ScanFileError(f"{source}: scan must be (1, N, 2) positions, not {scan.shape} {scan.dtype}")
    if scan.shape[1] != num_frames:
        raise ScanFileError(f"{source}: {num_frames} frames but {scan.shape[1]} positions")
    if not np.isfinite(scan).all():
        raise ScanFileError(f"{source}: a position is NaN")
    position_px: NDArray[np.float64] = scan[0].astype(np.float64)
    return position_px


def _probe(source: Path, probe: NDArray[Any], side_px: int) -> NDArray[np.complex64]:
    """Return the first mode, (n, n)."""
    if probe.size == 0 or probe.shape[-2:] != (side_px, side_px) or probe.dtype.kind not in "iufc":
        raise ScanFileError(f"{source}: probe must be (..., {side_px}, {side_px}), not {probe.shape} {probe.dtype}")
    mode: NDArray[np.complex64] = probe.reshape(-1, side_px, side_px)[0].astype(np.complex64)
    if not np.isfinite(mode).all():
        raise ScanFileError(f"{source}: the probe holds NaN")
    return mode
