"""Training pairs: for every frame of a reconstructed scan, the phase of the sample under the probe.

Source: Babu et al. 2023: the mean phase of the object's central third is subtracted, the object is sampled on a grid
centred on each position, and per scan the circular mean of the phase is removed. Ours besides: the linear ramp that
phase retrieval leaves is removed, so that scans agree with one another, and a mask says where the phase is known.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from phasing.errors import GeometryError, PairsError
from phasing.files import fsync
from phasing.geometry import Geometry
from phasing.reconstruction import Reconstruction
from phasing.symmetry import OPERATIONS, probe_overlaps

if TYPE_CHECKING:
    from phasing.scanfile import Scan

_FILES = {
    "counts": "reciprocal.npy",
    "phase_rad": "phase.npy",
    "mask": "mask.npy",
    "weight": "weight.npy",
    "frame_counts": "frame_counts.npy",
    "unique_id": "unique_id.npy",
    "position_m": "position_m.npy",
}
_MAPPED = ("counts", "phase_rad", "mask")
_BLOCK_FRAMES = 256
Sampled = TypeVar("Sampled", np.complex64, np.float32)


@dataclass(frozen=True, eq=False)
class PairSet:
    """The training pairs of one scan; the large arrays are memory-mapped from `folder`.

    counts: (N, n, n) float32, prepared frames. phase_rad: (N, n, n) float32. mask: (N, n, n) bool, where the phase is
    known. weight: (n, n) float32, the probe's amplitude, maximum 1. frame_counts: (N,) float64, counts of each frame's
    crop. unique_id: (N,) int64. position_m: (N, 2) float64 (y, x). pixel_size_m: of phase and weight. symmetry: how far
    the probe is its own image under each of phasing.symmetry.OPERATIONS.
    """

    folder: Path
    scan_id: str
    counts: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    mask: NDArray[np.bool_]
    weight: NDArray[np.float32]
    frame_counts: NDArray[np.float64]
    unique_id: NDArray[np.int64]
    position_m: NDArray[np.float64]
    pixel_size_m: float
    geometry: Geometry
    symmetry: tuple[float, ...]

    def with_labels_of(self, rows: NDArray[np.int64]) -> PairSet:
        """The same frames with the phases (and what is known of them) of other rows, (N,), in memory."""
        return replace(self, counts=np.array(self.counts), phase_rad=self.phase_rad[rows], mask=self.mask[rows])

    def fault_of(self, rows: NDArray[np.int64]) -> str:
        """What is wrong with the pairs of these rows (ascending): the first that is not finite; empty for nothing."""
        for name in ("counts", "phase_rad"):
            array: NDArray[np.float32] = getattr(self, name)
            for start in range(0, len(rows), _BLOCK_FRAMES):
                block = rows[start : start + _BLOCK_FRAMES]
                finite = np.isfinite(array[block]).all(axis=(1, 2))
                if not finite.all():
                    return f"{name} of frame {self.unique_id[block[finite.argmin()]]} is not finite"
        return ""


@dataclass(frozen=True)
class PairSettings:
    """How training pairs are made.

    pixel_size_m: of the phase that the network learns; None for the reconstruction's own. min_illumination: where all
    frames together have brought less than this share of what the best lit pixel got, the phase counts as not known:
    outside the scanned area. min_probe: the same where one frame's own probe has less than this share of its largest
    amplitude.
    """

    pixel_size_m: float | None = None
    min_illumination: float = 0.01
    min_probe: float = 0.02

    def __post_init__(self) -> None:
        size_m = self.pixel_size_m
        if size_m is not None and not (math.isfinite(size_m) and size_m > 0):
            raise PairsError(f"the pixel size must be above 0, not {size_m} m")
        for field in ("min_illumination", "min_probe"):
            if not 0 <= getattr(self, field) < 1:
                raise PairsError(f"{field} must be from 0 to below 1, not {getattr(self, field)}")


def make_pairs(
    scan: Scan, reconstruction: Reconstruction, folder: Path, settings: PairSettings | None = None
) -> PairSet:
    """Write the training pairs of a scan into `folder`, which appears as a whole, and return them.

    Raises PairsError when scan and reconstruction do not belong together, when a pair is no number, and when the phase
    is known nowhere.
    """
    settings = settings or PairSettings()
    _check_same_scan(scan, reconstruction)
    pixel_size_m = settings.pixel_size_m or reconstruction.pixel_size_m
    counts = scan.prepared()
    n, scale = scan.geometry.frame_px, pixel_size_m / reconstruction.pixel_size_m
    grid_px = (np.arange(n, dtype=np.float64) - n // 2) * scale
    weight = _sampled(np.sqrt(reconstruction.probe_intensity()), grid_px + n // 2, grid_px + n // 2)
    weight /= weight.max()
    index_px = reconstruction.position_px()
    mask = _lit(reconstruction.illumination(), index_px, grid_px, settings.min_illumination)
    mask &= weight >= settings.min_probe
    if not mask.any():
        raise PairsError(f"pairs of scan {scan.scan_id}: the phase is known nowhere: lower min_illumination, min_probe")
    made = PairSet(
        folder=folder,
        scan_id=scan.scan_id,
        counts=counts,
        phase_rad=_without_mean(_patches(reconstruction.flat_object(), index_px, grid_px), weight * mask),
        mask=mask,
        weight=weight,
        frame_counts=counts.sum(axis=(1, 2), dtype=np.float64) * scan.geometry.bin_px**2,
        unique_id=scan.unique_id,
        position_m=scan.position_m,
        pixel_size_m=pixel_size_m,
        geometry=scan.geometry,
        symmetry=probe_overlaps(reconstruction.probe),
    )
    for name in _FILES:
        if not np.isfinite(getattr(made, name)).all():
            raise PairsError(f"pairs of scan {scan.scan_id}: {name} is not finite")
    return save_pairs(made)


def save_pairs(pairs: PairSet) -> PairSet:
    """Write pairs into their folder, which appears as a whole, and map them."""
    arrays = {file: getattr(pairs, name) for name, file in _FILES.items()}
    meta = {
        "scan_id": pairs.scan_id,
        "pixel_size_m": pairs.pixel_size_m,
        "geometry": pairs.geometry.to_json(),
        "symmetry": pairs.symmetry,
    }
    _write(pairs.folder, arrays, meta)
    return load_pairs(pairs.folder)


def load_pairs(folder: Path) -> PairSet:
    """Map the training pairs of one scan; frames and phases are not read yet (PairSet.fault_of).

    Raises PairsError naming the file that is missing, cut short or wrong.
    """
    meta = _read_meta(folder / "meta.json")
    arrays = {name: _map(folder / file) for name, file in _FILES.items()}
    arrays |= {name: np.array(array) for name, array in arrays.items() if name not in _MAPPED}
    try:
        pairs = PairSet(
            folder=folder,
            scan_id=meta["scan_id"],
            pixel_size_m=float(meta["pixel_size_m"]),
            geometry=Geometry.from_json(meta["geometry"]),
            symmetry=tuple(float(overlap) for overlap in meta["symmetry"]),
            **arrays,
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


def _lit(
    illumination: NDArray[np.float32], index_px: NDArray[np.float64], grid_px: NDArray[np.float64], share: float
) -> NDArray[np.bool_]:
    """Where frames together brought at least a share of the most there was, on the grid of every patch, (N, n, n)."""
    enough = illumination >= share * illumination.max()
    rows, columns = (
        np.clip(np.rint(index_px[:, axis, None] + grid_px), 0, enough.shape[axis] - 1).astype(np.intp)
        for axis in (0, 1)
    )
    return np.asarray(enough[rows[:, :, None], columns[:, None, :]])


def _sampled(field: NDArray[Sampled], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[Sampled]:
    """Bilinear samples at all pairs of rows and columns; beyond the edge the edge goes on."""
    top, down = _split(rows, field.shape[0])
    left, right = _split(columns, field.shape[1])
    upper = field[top[:, None], left] * (1 - right) + field[top[:, None], left + 1] * right
    lower = field[top[:, None] + 1, left] * (1 - right) + field[top[:, None] + 1, left + 1] * right
    return np.asarray(upper * (1 - down[:, None]) + lower * down[:, None], field.dtype)


def _split(index: NDArray[np.float64], side: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    clipped = np.clip(index, 0, side - 1)
    whole = np.minimum(clipped.astype(np.intp), side - 2)
    return whole, (clipped - whole).astype(np.float32)


def _without_mean(patches: NDArray[np.complex64], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Phase in rad, its circular mean over the scan removed; weighted (N, n, n), since not all of it is known."""
    mean = sum(
        np.sum(np.exp(1j * np.angle(patch)) * known, dtype=np.complex128)
        for patch, known in zip(patches, weight, strict=True)
    )
    return np.asarray(np.angle(patches * np.complex64(np.exp(-1j * np.angle(mean)))), np.float32)


def _write(folder: Path, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(part / name, np.ascontiguousarray(array))
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
        "mask": (num, n, n),
        "weight": (n, n),
        "frame_counts": (num,),
        "unique_id": (num,),
        "position_m": (num, 2),
    }
    for name, shape in wanted.items():
        array = getattr(pairs, name)
        if array.shape != shape or num == 0:
            raise PairsError(f"pairs in {pairs.folder}: {name} has shape {array.shape}, expected {shape}")
        if array.ndim < 3 and not np.isfinite(array).all():
            raise PairsError(f"pairs in {pairs.folder}: {name} is not finite")
    if not (math.isfinite(pairs.pixel_size_m) and pairs.pixel_size_m > 0 and pairs.weight.max() > 0):
        raise PairsError(f"pairs in {pairs.folder}: pixel size or weight is wrong")
    if pairs.mask.dtype != np.bool_ or len(pairs.symmetry) != len(OPERATIONS):
        raise PairsError(f"pairs in {pairs.folder}: mask or symmetry is wrong")
