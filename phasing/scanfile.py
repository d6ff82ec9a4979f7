"""Reading a scan file: everything is checked when it is opened, frames are read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters of files that a detector compressed
import numpy as np
from numpy.typing import NDArray

from phasing import scanlayout
from phasing.errors import ScanFileError
from phasing.frames import Frame, prepare
from phasing.geometry import Geometry
from phasing.scanwriter import ScanWriter, part_path

__all__ = ["Scan", "ScanWriter", "read_scan"]

_BLOCK_BYTES = 2**24
# What h5py raises for a file that is none, or whose bytes contradict one another.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError)


@dataclass(frozen=True, eq=False)
class Scan:
    """A finished scan: its ids, times, positions and geometry, with the frames left in the file.

    unique_id (N,) int64; time_s (N,) float64, Unix; position_m (N, 2) float64, (y, x) in the sample plane; probe_guess
    (n, n) complex64, n = geometry.frame_px, or None; nominal names the fields of the geometry that were assumed.
    """

    scan_id: str
    unique_id: NDArray[np.int64]
    time_s: NDArray[np.float64]
    position_m: NDArray[np.float64]
    geometry: Geometry
    path: Path
    probe_guess: NDArray[np.complex64] | None = None
    nominal: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return len(self.unique_id)

    def counts(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read raw frames start to stop from the file, (N, H, W) in the detector's dtype; raises ScanFileError."""
        try:
            with h5py.File(self.path, "r") as file:
                frames: NDArray[Any] = file[scanlayout.DATA][start:stop]
        except _DAMAGED as error:
            raise ScanFileError(f"{self.path}: its frames can no longer be read: {error}") from error
        return frames

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Yield frames start to stop with the file's own ids, times and positions; raises ScanFileError."""
        stop = self.num_frames if stop is None else min(stop, self.num_frames)
        block = self._frames_per_block()
        for first in range(start, stop, block):
            for offset, counts in enumerate(self.counts(first, min(first + block, stop))):
                yield self._frame(first + offset, counts)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all raw frames, some (N, H, W) at a time, so that a scan need not fit into memory."""
        block = self._frames_per_block()
        for first in range(0, self.num_frames, block):
            yield self.counts(first, first + block)

    def prepared(self) -> NDArray[np.float32]:
        """Return all frames as phasing.frames.prepare makes them, (N, n, n) float32; raises ScanFileError."""
        prepared = np.empty((self.num_frames, self.geometry.frame_px, self.geometry.frame_px), np.float32)
        first = 0
        for counts in self.blocks():
            prepared[first : first + len(counts)] = prepare(counts, self.geometry)
            first += len(counts)
        return prepared

    def _frame(self, index: int, counts: NDArray[Any]) -> Frame:
        y_m, x_m = self.position_m[index].tolist()
        return Frame(int(self.unique_id[index]), float(self.time_s[index]), self.scan_id, counts, (y_m, x_m))

    def _frames_per_block(self) -> int:
        height, width = self.geometry.detector_shape_px
        return max(1, _BLOCK_BYTES // (8 * height * width))


def read_scan(path: str | PathLike[str]) -> Scan:
    """Open a scan file that phaseline or its converter wrote and check it as a whole.

    Raises ScanFileError, naming the file, when it is missing, not HDF5 or truncated, holds no frames or no positions,
    numbers of frames, positions, ids and times differ, a position or time is NaN, a frame id comes twice, a frame holds
    no finite number, or the geometry is incomplete.
    """
    path = Path(path)
    if not path.is_file():
        unfinished = " (it is still being written, or its writer was stopped)" if part_path(path).exists() else ""
        raise ScanFileError(f"{path}: there is no such scan file{unfinished}")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except _DAMAGED as error:
        raise ScanFileError(f"{path}: not an HDF5 file, truncated or damaged: {error}") from error
    except ScanFileError as error:
        raise ScanFileError(f"{path}: {error}") from error


def _read(file: h5py.File, path: Path) -> Scan:
    frames = _frame_dataset(file)
    scan_id = scanlayout.text(file, scanlayout.SCAN_ID)
    if not scan_id:
        raise ScanFileError("the scan id is empty")
    position_m = _positions(file, len(frames))
    unique_id = _unique_ids(file, len(frames))
    time_s = _column(file, scanlayout.TIME_STAMP, "time stamps", len(frames)).astype(np.float64)
    if not np.isfinite(time_s).all():
        raise ScanFileError("a time stamp is NaN or infinite")
    geometry = scanlayout.read_geometry(file)
    _check_finite(frames)
    return Scan(
        scan_id=scan_id,
        unique_id=unique_id,
        time_s=time_s + scanlayout.EPICS_EPOCH_S,
        position_m=position_m,
        geometry=geometry,
        path=path,
        probe_guess=_probe(file, geometry),
        nominal=scanlayout.read_nominal(file),
    )


def _frame_dataset(file: h5py.File) -> h5py.Dataset:
    if scanlayout.DATA not in file and scanlayout.AREA_DETECTOR_DATA in file:
        raise ScanFileError("a plain areaDetector file, without the positions and geometry of a scan file")
    frames = scanlayout.dataset(file, scanlayout.DATA)
    if frames.ndim != 3 or frames.dtype.kind not in "iuf":
        raise ScanFileError(f"frames must be (N, H, W) counts, not {frames.shape} {frames.dtype}")
    if len(frames) == 0:
        raise ScanFileError("it holds no frames")
    return frames


def _positions(file: h5py.File, num_frames: int) -> NDArray[np.float64]:
    if scanlayout.TRANSLATION not in file:
        raise ScanFileError(f"it holds no positions ({scanlayout.TRANSLATION} is missing)")
    translation = scanlayout.dataset(file, scanlayout.TRANSLATION)
    if translation.ndim != 2 or translation.shape[1] not in (2, 3) or translation.dtype.kind not in "iuf":
        raise ScanFileError(f"positions must be (N, 3) numbers, not {translation.shape} {translation.dtype}")
    if len(translation) != num_frames:
        raise ScanFileError(f"{num_frames} frames but {len(translation)} positions")
    position_m: NDArray[np.float64] = translation[()][:, 1::-1].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(position_m).all(axis=1))
    if bad.size == num_frames:
        raise ScanFileError("it holds no positions (all are NaN)")
    if bad.size:
        raise ScanFileError(f"{bad.size} of {num_frames} positions are NaN, the first that of frame {bad[0]}")
    return position_m


def _unique_ids(file: h5py.File, num_frames: int) -> NDArray[np.int64]:
    column = _column(file, scanlayout.UNIQUE_ID, "frame ids", num_frames)
    if column.dtype.kind == "f" and not (np.isfinite(column) & (column == np.rint(column))).all():
        raise ScanFileError("a frame id is not a whole number")
    unique_id = column.astype(np.int64)
    values, repeats = np.unique(unique_id, return_counts=True)
    if (repeats > 1).any():
        raise ScanFileError(f"frame id {values[repeats > 1][0]} comes more than once")
    return unique_id


def _column(file: h5py.File, path: str, what: str, num_frames: int) -> NDArray[Any]:
    column = scanlayout.dataset(file, path)
    if column.ndim != 1 or column.dtype.kind not in "iuf":
        raise ScanFileError(f"{path} must be (N,) numbers, not {column.shape} {column.dtype}")
    if len(column) != num_frames:
        raise ScanFileError(f"{num_frames} frames but {len(column)} {what}")
    values: NDArray[Any] = column[()]
    return values


def _check_finite(frames: h5py.Dataset) -> None:
    """Refuse frames without any finite number; only floating-point frames need reading for that."""
    if frames.dtype.kind != "f":
        return
    block = max(1, _BLOCK_BYTES // max(1, frames[0].nbytes))
    for start in range(0, len(frames), block):
        empty = np.flatnonzero(~np.isfinite(frames[start : start + block]).any(axis=(1, 2)))
        if empty.size:
            raise ScanFileError(f"frame {start + empty[0]} holds nothing but NaN")


def _probe(file: h5py.File, geometry: Geometry) -> NDArray[np.complex64] | None:
    if scanlayout.PROBE not in file:
        return None
    item = scanlayout.dataset(file, scanlayout.PROBE)
    if item.dtype.kind not in "fc":
        raise ScanFileError(f"the probe must be complex numbers, not {item.dtype}")
    probe: NDArray[np.complex64] = item[()].astype(np.complex64)
    if probe.shape != (geometry.frame_px, geometry.frame_px) or not np.isfinite(probe).all():
        raise ScanFileError(f"the probe must be a finite {geometry.frame_px} px square, not {probe.shape}")
    return probe
