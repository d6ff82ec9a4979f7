"""Training pairs: for every frame of a reconstructed scan, the phase of the sample under the probe.

Source: Babu et al. 2023: the mean phase of the object's central third is subtracted, the object is sampled on a grid
centred on each position, and per scan the circular mean of the phase is removed. Ours besides: the linear ramp that
phase retrieval leaves is removed, so that scans agree with one another.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phasing.errors import GeometryError, PairsError
from phasing.files import fsync
from phasing.geometry import Geometry
from phasing.reconstruction import Reconstruction

if TYPE_CHECKING:
    from phasing.scanfile import Scan

_ARRAYS = ("reciprocal", "phase", "weight", "unique_id", "position_m")
_BLOCK_FRAMES = 256


@dataclass(frozen=True, eq=False)
class PairSet:
    """The training pairs of one scan; the large arrays are memory-mapped from `folder`.

    counts: (N, n, n) float32, prepared frames. phase_rad: (N, n, n) float32. weight: (n, n) float32, the probe's
    amplitude, maximum 1. unique_id: (N,) int64. position_m: (N, 2) float64 (y, x). pixel_size_m: of phase and weight.
    """

    folder: Path
    scan_id: str
    counts: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    weight: NDArray[np.float32]
    unique_id: NDArray[np.int64]
    position_m: NDArray[np.float64]
    pixel_size_m: float
    geometry: Geometry


def make_pairs(
    scan: Scan, reconstruction: Reconstruction, folder: Path, *, pixel_size_m: float | None = None
) -> PairSet:
    """Write the training pairs of a scan into `folder`, which appears as a whole, and return them.

    pixel_size_m: of the phase that the network learns; None for the reconstruction's own.
    Raises PairsError when scan and reconstruction do not belong together, or when pixel size or a pair is no number.
    """
    _check_same_scan(scan, reconstruction)
    pixel_size_m = reconstruction.pixel_size_m if pixel_size_m is None else pixel_size_m
    if not (math.isfinite(pixel_size_m) and pixel_size_m > 0):
        raise PairsError(f"the pixel size must be above 0, not {pixel_size_m} m")
    counts = scan.prepared()
    n, scale = scan.geometry.frame_px, pixel_size_m / reconstruction.pixel_size_m
    grid_px = (np.arange(n, dtype=np.float64) - n // 2) * scale
    patches = _patches(reconstruction.flat_object(), reconstruction.position_px(), grid_px)
    amplitude = np.sqrt(reconstruction.probe_intensity())
    weight = np.abs(_sampled(amplitude.astype(np.complex64), grid_px + n // 2, grid_px + n // 2)).astype(np.float32)
    arrays = {
        "reciprocal": counts,
        "phase": _without_mean(patches, weight),
        "weight": weight / weight.max(),
        "unique_id": scan.unique_id,
        "position_m": scan.position_m,
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise PairsError(f"pairs of scan {scan.scan_id}: {name} is not finite")
    meta = {"scan_id": scan.scan_id, "pixel_size_m": pixel_size_m, "geometry": scan.geometry.to_json()}
    _write(folder, arrays, meta)
    return load_pairs(folder)


def load_pairs(folder: Path) -> PairSet:
    """Map the training pairs of one scan.

    Raises PairsError naming the file that is missing, cut short or not finite.
    """
    meta = _read_meta(folder / "meta.json")
    arrays = {name: _map(folder / f"{name}.npy") for name in _ARRAYS}
    try:
        pairs = PairSet(
            folder=folder,
            scan_id=meta["scan_id"],
            counts=arrays["reciprocal"],
            phase_rad=arrays["phase"],
            weight=np.array(arrays["weight"]),
            unique_id=np.array(arrays["unique_id"]),
            position_m=np.array(arrays["position_m"]),
            pixel_size_m=float(meta["pixel_size_m"]),
            geometry=Geometry.from_json(meta["geometry"]),
        )
    except (KeyError, TypeError, ValueError, GeometryError) as error:
        raise PairsError(f"{folder / 'meta.json'}: {error}") from error
    _check(pairs)
    return pairs


def _check_same_scan(scan: Scan, reconstruction: Reconstruction) -> None:
    if scan.scan_id != reconstruction.scan_id:
        raise PairsError(f"the reconstruction is of scan {reconstruction.scan_id}, not of {scan.scan_id}")
    if not np.array_equal(scan.unique_id, reconstruction.unique_id):
        raise PairsError(f"scan {scan.scan_id}: frame ids of scan and reconstruction differ")
    differences = scan.geometry.differences(reconstruction.geometry)
    if differences:
        raise PairsError(f"scan {scan.scan_id}: {', '.join(differences)} of scan and reconstruction differ")


def _patches(
    field: NDArray[np.complex64], position_px: NDArray[np.float64], grid_px: NDArray[np.float64]
) -> NDArray[np.complex64]:
    """The object on a grid about every position, (N, n, n) complex64."""
    n = len(grid_px)
    patches = np.empty((len(position_px), n, n), np.complex64)
    for patch, (row, column) in zip(patches, position_px, strict=True):
        patch[:] = _sampled(field, row + grid_px, column + grid_px)
    return patches


def _sampled(
    field: NDArray[np.complex64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.complex64]:
    """Bilinear samples at all pairs of rows and columns; beyond the edge the edge goes on."""
    top, down = _split(rows, field.shape[0])
    left, right = _split(columns, field.shape[1])
    upper = field[top[:, None], left] * (1 - right) + field[top[:, None], left + 1] * right
    lower = field[top[:, None] + 1, left] * (1 - right) + field[top[:, None] + 1, left + 1] * right
    return np.asarray(upper * (1 - down[:, None]) + lower * down[:, None], np.complex64)


def _split(index: NDArray[np.float64], side: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    clipped = np.clip(index, 0, side - 1)
    whole = np.minimum(clipped.astype(np.intp), side - 2)
    return whole, (clipped - whole).astype(np.float32)


def _without_mean(patches: NDArray[np.complex64], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Phase in rad, its circular mean over the scan removed; weighted, since far from the probe nothing is known."""
    mean = np.sum(np.exp(1j * np.angle(patches)).sum(axis=0, dtype=np.complex128) * weight)
    return np.asarray(np.angle(patches * np.complex64(np.exp(-1j * np.angle(mean)))), np.float32)


def _write(folder: Path, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(part / f"{name}.npy", np.ascontiguousarray(array))
    (part / "meta.json").write_text(json.dumps(meta))
    for path in (*part.iterdir(), part):
        fsync(path)
    if folder.exists():
        shutil.rmtree(folder)
    part.replace(folder)
    fsync(folder.parent)


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PairsError(f"{path} is not readable: {error}") from error
    if not isinstance(meta, dict):
        raise PairsError(f"{path} holds no object")
    return meta


def _map(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError) as error:
        raise PairsError(f"{path} is missing or cut short: {error}") from error


def _check(pairs: PairSet) -> None:
    num, n = len(pairs.unique_id), pairs.geometry.frame_px
    wanted = {
        "counts": (num, n, n),
        "phase_rad": (num, n, n),
        "weight": (n, n),
        "unique_id": (num,),
        "position_m": (num, 2),
    }
    for name, shape in wanted.items():
        array = getattr(pairs, name)
        if array.shape != shape or num == 0:
            raise PairsError(f"pairs in {pairs.folder}: {name} has shape {array.shape}, expected {shape}")
        for start in range(0, num, _BLOCK_FRAMES):
            if not np.isfinite(array[start : start + _BLOCK_FRAMES]).all():
                raise PairsError(f"pairs in {pairs.folder}: {name} is not finite")
    if not (math.isfinite(pairs.pixel_size_m) and pairs.pixel_size_m > 0 and pairs.weight.max() > 0):
        raise PairsError(f"pairs in {pairs.folder}: pixel size or weight is wrong")
