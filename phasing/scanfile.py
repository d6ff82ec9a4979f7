"""Reading a scan file: everything is checked when it is opened, frames are read when they are asked for."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from phasing import scanlayout
from phasing.areadetector import frame_datasets, is_plain, read_recorded
from phasing.errors import ScanFileError
from phasing.framefiles import FrameFiles, frame_ids, segment
from phasing.frames import Frame, prepare
from phasing.geometry import Geometry
from phasing.linkedfiles import sibling_files
from phasing.scanwriter import ScanWriter, part_path
from phasing.supplement import Supplement

__all__ = ["Scan", "ScanWriter", "read_scan"]

_BLOCK_BYTES = 2**24
# What h5py raises for a file that is none, or whose bytes contradict one another.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError)


@dataclass(frozen=True, eq=False)
class Scan:
    """A finished scan: its ids, times, positions and geometry, with the frames left in the file.

    unique_id (N,) int64; time_s (N,) float64, Unix; position_m (N, 2) float64, (y, x) in the sample plane; probe_guess
    (n, n) complex64, n = geometry.frame_px, or None; nominal names the fields of the geometry that were assumed;
    siblings: the files beside it without which its frames cannot be read; supplement: what it was read with, where the
    file alone does not say all.
    """

    scan_id: str
    unique_id: NDArray[np.int64]
    time_s: NDArray[np.float64]
    position_m: NDArray[np.float64]
    geometry: Geometry
    path: Path
    files: FrameFiles = field(repr=False)
    probe_guess: NDArray[np.complex64] | None = None
    nominal: tuple[str, ...] = ()
    siblings: tuple[Path, ...] = ()
    supplement: Supplement | None = None

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return len(self.unique_id)

    @property
    def num_left_out(self) -> int:
        """How many frames of the files have no position and are not the scan's."""
        return self.files.num_stored - self.num_frames

    def part(self, rows: NDArray[np.intp]) -> Scan:
        """Some of the frames as a scan, by their ascending indices."""
        return replace(
            self,
            unique_id=self.unique_id[rows],
            time_s=self.time_s[rows],
            position_m=self.position_m[rows],
            files=self.files.chosen(rows),
        )

    def counts(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read raw frames start to stop from the file, (N, H, W) in the detector's dtype; raises ScanFileError."""
        try:
            return self.files.read(start, stop)
        except _DAMAGED as error:
            raise ScanFileError(f"{self.path}: its frames can no longer be read: {error}") from error

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


def read_scan(path: str | PathLike[str], supplement: Supplement | None = None) -> Scan:
    """Open a scan file and check it as a whole: one of ours, or with a `supplement` also a plain areaDetector file.

    Where the supplement names a position file, positions come from there. Raises ScanFileError, naming the file, when
    it is missing, not HDF5 or truncated, a file that it links to is missing, it holds no frames or no positions,
    numbers of frames, positions, ids and times differ, a position or time is NaN, a frame id comes twice, a frame holds
    no finite number, or the geometry is incomplete.
    """
    path = Path(path)
    if not path.is_file():
        unfinished = " (it is still being written, or its writer was stopped)" if part_path(path).exists() else ""
        raise ScanFileError(f"{path}: there is no such scan file{unfinished}")
    try:
        with h5py.File(path, "r") as file:
            plain = is_plain(file, supplement)
        if not plain:
            return _checked(_read_ours(path, supplement))
        if supplement is None:
            raise ScanFileError("a plain areaDetector file, without the positions and geometry of a scan file")
        return _checked(_read_plain(path, supplement))
    except _DAMAGED as error:
        raise ScanFileError(f"{path}: not an HDF5 file, truncated or damaged: {error}") from error
    except ScanFileError as error:
        raise ScanFileError(f"{path}: {error}") from error


def incomplete(path: Path, supplement: Supplement | None = None) -> str:
    """Say why a file is not complete yet; empty when it is: it is there with its siblings, opens, and holds frames."""
    if not path.is_file():
        return "its writer to finish" if part_path(path).exists() else "the file to be there"
    data = scanlayout.AREA_DETECTOR_DATA if supplement is None else supplement.data
    try:
        sibling_files(path, supplement.numbered if supplement else "")
        with h5py.File(path, "r") as file:
            datasets = [scanlayout.DATA] if scanlayout.DATA in file else frame_datasets(file, data)
            frames = [file.get(name) for name in datasets]
            there = frames and all(isinstance(one, h5py.Dataset) and one.ndim == 3 and len(one) for one in frames)
    except ScanFileError as error:
        return f"its other files: {error}"
    except _DAMAGED:
        return "a file that can be opened"
    position_file = supplement.position_file if supplement else None
    if there and position_file is not None and not position_file.is_file():
        return f"{position_file.name} with its positions"
    return "" if there else "its frames"


def _read_ours(path: Path, supplement: Supplement | None) -> Scan:
    siblings = sibling_files(path)
    with h5py.File(path, "r") as file:
        frames = FrameFiles.whole([segment(file, path, scanlayout.DATA)])
        num_frames = frames.num_frames
        if num_frames == 0:
            raise ScanFileError("it holds no frames")
        scan_id = scanlayout.text(file, scanlayout.SCAN_ID)
        if not scan_id:
            raise ScanFileError("the scan id is empty")
        unique_id = frame_ids(_column(file, scanlayout.UNIQUE_ID, "frame ids", num_frames))
        joined = supplement.joined(unique_id) if supplement else None
        kept, position_m = joined or (np.arange(num_frames), _positions(file, num_frames))
        time_s = _column(file, scanlayout.TIME_STAMP, "time stamps", num_frames).astype(np.float64)
        geometry = scanlayout.read_geometry(file)
        return Scan(
            scan_id=scan_id,
            unique_id=unique_id[kept],
            time_s=time_s[kept] + scanlayout.EPICS_EPOCH_S,
            position_m=position_m,
            geometry=geometry,
            path=path,
            files=frames.chosen(kept),
            probe_guess=_probe(file, geometry),
            nominal=scanlayout.read_nominal(file),
            siblings=siblings,
            supplement=supplement if joined else None,
        )


def _read_plain(path: Path, supplement: Supplement) -> Scan:
    siblings = sibling_files(path, supplement.numbered)
    recorded = read_recorded(path, supplement)
    kept, position_m = recorded.placed(supplement)
    unique_id = recorded.unique_id[kept]
    return Scan(
        scan_id=recorded.scan_id or _digest(unique_id, position_m),
        unique_id=unique_id,
        time_s=recorded.time_s[kept],
        position_m=position_m,
        geometry=recorded.geometry,
        path=path,
        files=recorded.frames.chosen(kept),
        siblings=siblings,
        supplement=supplement,
    )


def _digest(unique_id: NDArray[np.int64], position_m: NDArray[np.float64]) -> str:
    """The id of a scan that was given none: a UUID that its frames' ids and positions decide."""
    content = unique_id.astype("<i8").tobytes() + position_m.astype("<f8").tobytes()
    return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4))


def _checked(scan: Scan) -> Scan:
    """Refuse times that are none, and frames without any finite number, for which only floating-point ones are read."""
    if not np.isfinite(scan.time_s).all():
        raise ScanFileError("a time stamp is NaN or infinite")
    if scan.files.dtype.kind == "f":
        first = 0
        for block in scan.blocks():
            empty = np.flatnonzero(~np.isfinite(block).any(axis=(1, 2)))
            if empty.size:
                raise ScanFileError(f"frame {first + empty[0]} holds nothing but NaN")
            first += len(block)
    return scan


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


def _column(file: h5py.File, path: str, what: str, num_frames: int) -> NDArray[Any]:
    column = scanlayout.dataset(file, path)
    if column.ndim != 1 or column.dtype.kind not in "iuf":
        raise ScanFileError(f"{path} must be (N,) numbers, not {column.shape} {column.dtype}")
    if len(column) != num_frames:
        raise ScanFileError(f"{num_frames} frames but {len(column)} {what}")
    values: NDArray[Any] = column[()]
    return values


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
