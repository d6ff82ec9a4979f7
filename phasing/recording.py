"""A recording: what the edge predicted in one scan and the last map stitched from it, in one HDF5 file.

It follows the scan file where the two hold the same: /entry_1 is NeXus, the scan id lies where a scan file has it, the
file is NAME.part until it is complete. A disk that is full loses nothing that was written before.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from phasing import scanlayout
from phasing.errors import DiskRefused, ScanFileError
from phasing.files import appear, fsync
from phasing.recordingdisk import CHUNK_BYTES, RecordingDisk
from phasing.scanwriter import part_path
from phasing.stitch import StitchedMap

MARK = "phaseline_recording"
"""The attribute of the file that says it is a recording; its value counts the versions of this layout."""
DATA = "/entry_1/data_1"
MAP = "/entry_1/map_1"

_PHASE, _POSITION = f"{DATA}/phase_rad", f"{DATA}/position_m"
_MAP_LAYERS = (f"{MAP}/phase_rad", f"{MAP}/weight")
_MAP_ORIGIN, _MAP_PIXEL = f"{MAP}/origin_m", f"{MAP}/pixel_size_m"
_COLUMNS: tuple[tuple[str, DTypeLike, tuple[int, ...], dict[str, str]], ...] = (
    ("unique_id", np.int64, (), {}),
    ("time_ns", np.int64, (), {"units": "ns", "epoch": "1970-01-01T00:00:00Z"}),
    ("position_m", np.float64, (2,), {"units": "m", "axes": "y:x"}),
    ("model_version", np.int64, (), {}),
    ("mismatch", np.bool_, (), {"meaning": "the frame's geometry is not the model's"}),
)
_COLUMN_CHUNK_ROWS = 1024
_MAP_CHUNK_PX = 256
_NOWHERE_M = (math.nan, math.nan)
EMPTY_BYTES = 2**17
"""More than a recording without predictions and map takes."""
_INDEX_BYTES = 2**19
"""More than all the indexes and headers that one flush writes."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What h5py raises for a file that is none, or whose bytes contradict one another.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError)


Position = tuple[float, float]
LatePosition = Future[Position | None]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One prediction to record: phase_rad (n, n) float32, position_m (y, x) or None, and the model that made it.

    A position that is not known yet is a future of it. time_ns is the frame's, Unix; mismatch says that the frame's
    geometry is not the model's. The array must not be changed afterwards.
    """

    unique_id: int
    time_ns: int
    phase_rad: NDArray[np.float32]
    position_m: Position | LatePosition | None
    model_version: int
    mismatch: bool


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording that was opened, with the predictions left in the file.

    unique_id, time_ns (Unix) and model_version (N,) int64; position_m (N, 2) float64, (y, x), NaN where there was none;
    mismatch (N,) bool; frame_px is n of the (n, n) predictions; stitched is the last map, or None.
    """

    path: Path
    scan_id: str
    frame_px: int
    unique_id: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    position_m: NDArray[np.float64]
    model_version: NDArray[np.int64]
    mismatch: NDArray[np.bool_]
    stitched: StitchedMap | None

    @property
    def num_frames(self) -> int:
        """How many predictions there are."""
        return len(self.unique_id)

    def phase_rad(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Read predictions start to stop from the file, (N, n, n) float32 rad; raises ScanFileError."""
        stop = self.num_frames if stop is None else min(stop, self.num_frames)
        with _read_errors(self.path), h5py.File(self.path, "r") as file:
            phase: NDArray[np.float32] = scanlayout.dataset(file, _PHASE)[start:stop]
        return phase


def read_recording(path: str | PathLike[str]) -> Recording:
    """Open a recording, also a NAME.part whose writer lives or was killed; ScanFileError, naming it, says why not."""
    path = Path(path)
    with _read_errors(path), h5py.File(path, "r") as file:
        if MARK not in file.attrs:
            raise ScanFileError("not a recording")
        phase = scanlayout.dataset(file, _PHASE)
        if phase.ndim != 3 or phase.shape[1] != phase.shape[2]:
            raise ScanFileError(f"predictions must be (N, n, n), not {phase.shape}")
        columns = {name: scanlayout.dataset(file, f"{DATA}/{name}") for name, *_ in _COLUMNS}
        num_frames = min(len(phase), *(len(column) for column in columns.values()))
        return Recording(
            path=path,
            scan_id=scanlayout.text(file, scanlayout.SCAN_ID),
            frame_px=phase.shape[1],
            stitched=_read_map(file),
            **{name: column[:num_frames] for name, column in columns.items()},
        )


def is_recording(path: Path) -> bool:
    """Tell whether a file is a recording that can be opened."""
    try:
        with h5py.File(path, "r") as file:
            return MARK in file.attrs
    except _DAMAGED:
        return False


def is_being_written(part: Path) -> bool:
    """Tell whether the process that writes NAME.part is alive (or somebody reads it); OSError when it is not there."""
    descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


class RecordingWriter:
    """Appends predictions of one size to a new recording, which appears under its name only when it is closed.

    NAME.part can be read by others at any time as of the last flush, also after this process was killed, unless that
    happened within the flush. Used by one thread at a time. Raises ScanFileError, also when path or NAME.part exists,
    and DiskRefused while the disk is full: nothing is lost by that, and the same call may be made again.
    """

    def __init__(self, path: Path, scan_id: str, frame_px: int) -> None:
        """Create NAME.part with everything but predictions; after DiskRefused there is none."""
        self.path = path
        self.frame_px = frame_px
        for taken in (path, part_path(path)):
            if taken.exists():
                raise ScanFileError(f"{taken}: exists already")
        self._chunk_frames = max(1, CHUNK_BYTES // (4 * frame_px**2))
        self._block = np.empty((self._chunk_frames, frame_px, frame_px), np.float32)
        self._num_in_block = self._num_written = self._num_flushed = 0
        self._rows: list[tuple[object, ...]] = []
        self._late: list[tuple[int, LatePosition]] = []
        with self._named():
            self._disk = RecordingDisk(part_path(path))
            # No chunk cache: predictions go straight to the disk, and a flush writes little but indexes.
            self._file = h5py.File(self._disk, "w", rdcc_nbytes=0)
        try:
            with self._named():
                self._create(scan_id)
            self.flush()
        except ScanFileError:
            self.abandon()
            part_path(path).unlink(missing_ok=True)
            raise

    @property
    def num_frames(self) -> int:
        """How many predictions were appended."""
        return self._num_written + self._num_in_block

    @property
    def num_flushed(self) -> int:
        """How many predictions NAME.part holds for certain, whatever happens to this process."""
        return self._num_flushed

    @property
    def is_flushed(self) -> bool:
        """Whether NAME.part holds every prediction, with its position if that has come."""
        return self._num_flushed == self.num_frames and not any(late.done() for _, late in self._late)

    @property
    def size_bytes(self) -> int:
        """How large the file is."""
        return self._disk.size_bytes

    def most_bytes(self, *, num_more: int = 0, stitched: StitchedMap | None = None) -> int:
        """How large the file is at most after so many more predictions, or another map, and when it is closed."""
        num_chunks = -(-(self.num_frames + num_more) // self._chunk_frames)
        column_bytes = 41 * (self.num_frames + num_more + _COLUMN_CHUNK_ROWS)
        frames_bytes = num_chunks * (self._block.nbytes + 128) + column_bytes
        map_bytes = self._map_bytes() if stitched is None else _map_bytes(stitched.phase_rad.shape)
        return EMPTY_BYTES + frames_bytes + max(map_bytes, self._map_bytes())

    def append(self, prediction: Recorded) -> None:
        """Add one prediction, by copy; DiskRefused when the disk has not taken those before: then it is not added.

        A position that is still to come is NaN until the first flush after it has; it counts if that is before the end.
        """
        if prediction.phase_rad.shape != self._block.shape[1:]:
            raise ScanFileError(f"{self.path}: {prediction.phase_rad.shape} does not fit {self._block.shape[1:]}")
        self._settle()
        position_m = prediction.position_m
        if isinstance(position_m, Future):
            self._late.append((self.num_frames, position_m))
            position_m = None
        self._block[self._num_in_block] = prediction.phase_rad
        self._num_in_block += 1
        position_m = position_m or _NOWHERE_M
        self._rows.append(
            (prediction.unique_id, prediction.time_ns, position_m, prediction.model_version, prediction.mismatch)
        )
        if self.num_frames % self._chunk_frames == 0:
            self._write_block()

    def write_map(self, stitched: StitchedMap) -> None:
        """Replace the map; a kill before the next flush may leave a mixture of both."""
        self._settle()
        with self._named():
            if MAP not in self._file:
                self._create_map()
            for path, layer in zip(_MAP_LAYERS, (stitched.phase_rad, stitched.weight), strict=True):
                self._file[path].resize(layer.shape)
                self._file[path][...] = layer
            self._file[_MAP_ORIGIN][...] = stitched.origin_m
            self._file[_MAP_PIXEL][...] = stitched.pixel_size_m

    def flush(self) -> None:
        """Hand all so far to the operating system; DiskRefused leaves NAME.part as after the flush before.

        Positions that have come since may be in it all the same.
        """
        self._write_block()
        self._write_rows()
        self._write_late_positions()
        self._settle()
        self._reserve()
        with self._named():
            self._file.flush()
        self._settle()
        self._disk.write_back()
        self._num_flushed = self.num_frames

    def close(self) -> Path:
        """Finish the file, make it durable, give it its name, and return that."""
        if self._file:
            self.flush()
            self._reserve()
            with self._named():
                self._file.close()
        self._settle()
        with self._named():
            fsync(part_path(self.path))
            appear(part_path(self.path), self.path)
            self._disk.close()
        return self.path

    def abandon(self) -> None:
        """Leave NAME.part as it was after the last flush; nothing more is written."""
        self._disk.divert()
        with self._named():
            self._file.close()
            self._disk.close()

    def _create(self, scan_id: str) -> None:
        self._file.attrs.update({MARK: 1, "default": "entry_1"})
        for path in ("/entry", "/entry_1"):
            self._file.create_group(path).attrs["NX_class"] = "NXentry"
        self._file.create_group(DATA).attrs.update({"NX_class": "NXdata", "signal": "phase_rad"})
        self._file["/entry_1/title"] = "predicted phase"
        self._file[scanlayout.SCAN_ID] = scan_id
        self._file["/entry_1/entry_identifier"] = self._file[scanlayout.SCAN_ID]
        self._file[scanlayout.START_TIME] = datetime.now(UTC).isoformat()
        frame = self._block.shape[1:]
        phase = self._file.create_dataset(
            _PHASE, (0, *frame), np.float32, maxshape=(None, *frame), chunks=self._block.shape
        )
        phase.attrs.update({"units": "rad", "axes": "frame:y:x", "interpretation": "image"})
        for name, dtype, shape, attributes in _COLUMNS:
            column = self._file.create_dataset(
                f"{DATA}/{name}", (0, *shape), dtype, maxshape=(None, *shape), chunks=(_COLUMN_CHUNK_ROWS, *shape)
            )
            column.attrs.update(attributes)

    def _create_map(self) -> None:
        self._file.create_group(MAP).attrs.update({"NX_class": "NXdata", "signal": "phase_rad"})
        chunks = (_MAP_CHUNK_PX, _MAP_CHUNK_PX)
        for path, units in zip(_MAP_LAYERS, ("rad", "1"), strict=True):
            layer = self._file.create_dataset(path, (0, 0), np.float32, maxshape=(None, None), chunks=chunks)
            layer.attrs.update({"units": units, "axes": "y:x", "interpretation": "image"})
        self._file[_MAP_ORIGIN] = np.full(2, math.nan)
        self._file[_MAP_PIXEL] = math.nan
        self._file[_MAP_ORIGIN].attrs.update({"units": "m", "axes": "y:x"})
        self._file[_MAP_PIXEL].attrs["units"] = "m"

    def _map_bytes(self) -> int:
        return _map_bytes(self._file[_MAP_LAYERS[0]].shape) if self._file and MAP in self._file else 0

    def _write_block(self) -> None:
        if self._num_in_block:
            with self._named():
                self._extend(_PHASE, self._num_written, self._block[: self._num_in_block])
            self._num_written += self._num_in_block
            self._num_in_block = 0

    def _write_rows(self) -> None:
        """Write the columns of what is written; rows that fail stay, so that no prediction is without its id."""
        first = self._num_written - len(self._rows)
        if self._rows:
            with self._named():
                for (name, dtype, _, _), values in zip(_COLUMNS, zip(*self._rows, strict=True), strict=True):
                    self._extend(f"{DATA}/{name}", first, np.array(values, dtype))
            self._rows = []

    def _write_late_positions(self) -> None:
        """Write positions that have come since, in one stretch: the rows of those that wait lie close together."""
        known = [late.done() for _, late in self._late]  # asked once, as they come in another thread
        came = [(row, late.result()) for (row, late), is_known in zip(self._late, known, strict=True) if is_known]
        if came:
            first, last = came[0][0], came[-1][0]
            with self._named():
                positions_m = self._file[_POSITION][first : last + 1]
                for row, position_m in came:
                    positions_m[row - first] = position_m or _NOWHERE_M
                self._file[_POSITION][first : last + 1] = positions_m
            self._late = [one for one, is_known in zip(self._late, known, strict=True) if not is_known]

    def _extend(self, path: str, first: int, rows: NDArray[Any]) -> None:
        dataset = self._file[path]
        dataset.resize(first + len(rows), axis=0)
        dataset[first:] = rows

    def _settle(self) -> None:
        with self._refused():
            self._disk.settle()

    def _reserve(self) -> None:
        with self._refused():
            self._disk.reserve(_INDEX_BYTES)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DiskRefused(f"{self.path}: the disk does not take it: {error}") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Give the operating system's and HDF5's errors the name of the file."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, OverflowError) as error:
            full = isinstance(error, OSError) and error.errno in _FULL
            raise (DiskRefused if full else ScanFileError)(f"{self.path}: cannot be written: {error}") from error


def _map_bytes(shape: tuple[int, ...]) -> int:
    """What the two layers of a map of that shape take, in whole chunks."""
    return 8 * math.prod(-(-side // _MAP_CHUNK_PX) * _MAP_CHUNK_PX for side in shape)


def _read_map(file: h5py.File) -> StitchedMap | None:
    if MAP not in file:
        return None
    phase_rad, weight = (scanlayout.dataset(file, path)[()] for path in _MAP_LAYERS)
    y_m, x_m = scanlayout.dataset(file, _MAP_ORIGIN)[()].tolist()
    return StitchedMap(phase_rad, weight, (y_m, x_m), scanlayout.number(file, _MAP_PIXEL))


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise ScanFileError(f"{path}: not an HDF5 file, truncated or damaged: {error}") from error
    except ScanFileError as error:
        raise ScanFileError(f"{path}: {error}") from error
