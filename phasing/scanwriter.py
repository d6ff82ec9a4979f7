"""Writing a scan file while the detector runs: NAME.part until it is complete, then NAME."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from phasing import scanlayout
from phasing.errors import DiskRefused, ScanFileError
from phasing.files import appear, fsync
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.heldfile import HeldFile

_CHUNK_BYTES = 2**18


class _Row(NamedTuple):
    unique_id: int
    time_s: float
    position_m: tuple[float, float]


def part_path(path: Path) -> Path:
    """Name the file that stands in for path until it is complete."""
    return path.with_name(path.name + ".part")


class ScanWriter:
    """Appends frames to a new scan file, which appears under its name only when it is closed.

    dtype is the detector's; probe_guess (n, n) complex, n = geometry.frame_px; nominal names the fields of the geometry
    (energy_ev, distance_m, pixel_size_m) that are assumed, not measured. As a context manager it closes the file, or
    aborts it when the block raised. Used by one thread at a time. Raises ScanFileError, also when path or NAME.part
    exists, and DiskRefused while the disk is full: no frame is lost by that, and a later call goes on.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        scan_id: str,
        geometry: Geometry,
        *,
        dtype: DTypeLike,
        probe_guess: NDArray[Any] | None = None,
        nominal: tuple[str, ...] = (),
    ) -> None:
        """Create NAME.part with everything but frames."""
        self.path = Path(path)
        for taken in (self.path, part_path(self.path)):
            if taken.exists():
                raise ScanFileError(f"{taken}: exists already")
        unknown = set(nominal) - set(scanlayout.MEASURED)
        if unknown:
            raise ScanFileError(f"{self.path}: {sorted(unknown)} cannot be nominal")
        if probe_guess is not None and probe_guess.shape != (geometry.frame_px, geometry.frame_px):
            raise ScanFileError(
                f"{self.path}: a probe of {probe_guess.shape} does not fit {geometry.frame_px} px frames"
            )
        self._scan_id = scan_id
        self._dtype = np.dtype(dtype)
        self._shape = geometry.detector_shape_px
        frame_bytes = self._dtype.itemsize * self._shape[0] * self._shape[1]
        self._chunk_frames = max(1, _CHUNK_BYTES // frame_bytes)
        self._counts = np.empty((self._chunk_frames, *self._shape), self._dtype)
        self._pending: list[_Row] = []
        self._ids: set[int] = set()
        self._num_written = self._num_flushed = 0
        with self._named():
            self._disk = HeldFile(part_path(self.path))
            self._file = h5py.File(self._disk, "w")
        try:
            with self._named():
                self._create(geometry, probe_guess, nominal)
        except ScanFileError:
            self.abort()
            raise

    @property
    def num_frames(self) -> int:
        """How many frames were appended."""
        return self._num_written + len(self._pending)

    @property
    def num_flushed(self) -> int:
        """How many frames NAME.part holds for certain, whatever happens to this process."""
        return self._num_flushed

    def append(self, frame: Frame) -> None:
        """Add one frame, by copy; without position its row becomes NaN, and the reader will refuse the file.

        DiskRefused when the disk has not taken the frames before: then this one is not added either.
        """
        if frame.scan_id != self._scan_id:
            raise ScanFileError(f"{self.path}: a frame of scan {frame.scan_id} does not belong to {self._scan_id}")
        if frame.counts.shape != self._shape:
            raise ScanFileError(f"{self.path}: a frame of shape {frame.counts.shape} does not fit {self._shape}")
        if not np.can_cast(frame.counts.dtype, self._dtype, "safe"):
            raise ScanFileError(f"{self.path}: a frame of {frame.counts.dtype} does not fit into {self._dtype}")
        if frame.unique_id in self._ids:
            raise ScanFileError(f"{self.path}: frame id {frame.unique_id} comes more than once")
        self._settle()
        self._ids.add(frame.unique_id)
        self._counts[len(self._pending)] = frame.counts
        self._pending.append(_Row(frame.unique_id, frame.time_s, frame.position_m or (math.nan, math.nan)))
        if self.num_frames % self._chunk_frames == 0:
            self._write_pending()

    def flush(self) -> None:
        """Hand all frames so far to the operating system, so that NAME.part can be read if this process dies."""
        self._write_pending()
        with self._named():
            self._file.flush()
        self._settle()
        self._num_flushed = self.num_frames

    def close(self) -> Path:
        """Finish the file, make it durable, give it its name, and return that; a file without frames is discarded.

        After DiskRefused it may be called again; what was flushed before is in NAME.part.
        """
        if self.num_frames == 0:
            self.abort()
            raise ScanFileError(f"{self.path}: not written, as there were no frames")
        self._write_pending()
        with self._named():
            self._file.close()
        self._settle()
        self._num_flushed = self.num_frames
        with self._named():
            fsync(part_path(self.path))
            self._disk.close()
            appear(part_path(self.path), self.path)
        return self.path

    def abort(self) -> None:
        """Discard the file."""
        self._pending.clear()
        with self._named():
            self._file.close()
            self._disk.close()
            part_path(self.path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file, or discard it after an exception."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def _create(self, geometry: Geometry, probe_guess: NDArray[Any] | None, nominal: tuple[str, ...]) -> None:
        scanlayout.create_groups(self._file)
        scanlayout.write_geometry(self._file, geometry, nominal)
        self._file[scanlayout.SCAN_ID] = self._scan_id
        if probe_guess is not None:
            self._file[scanlayout.PROBE] = np.asarray(probe_guess, np.complex64)
        self._create_columns()
        scanlayout.link(self._file)

    def _create_columns(self) -> None:
        chunk = self._chunk_frames
        columns: tuple[tuple[str, DTypeLike, tuple[int, ...]], ...] = (
            (scanlayout.DATA, self._dtype, self._shape),
            (scanlayout.TRANSLATION, np.float64, (3,)),
            (scanlayout.UNIQUE_ID, np.int64, ()),
            (scanlayout.TIME_STAMP, np.float64, ()),
        )
        for path, dtype, shape in columns:
            rows = chunk if path == scanlayout.DATA else 1024
            self._file.create_dataset(path, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape))
        self._file[scanlayout.TRANSLATION].attrs.update(
            {"units": "m", "axes": "translation:y:x", "interpretation": "image"}
        )
        self._file[scanlayout.TIME_STAMP].attrs.update({"units": "s", "epoch": "1990-01-01T00:00:00Z"})

    def _write_pending(self) -> None:
        if not self._pending:
            return
        rows = self._pending
        with self._named():
            self._extend(scanlayout.DATA, self._counts[: len(rows)])
            self._extend(scanlayout.TRANSLATION, np.array([(*row.position_m[::-1], 0.0) for row in rows]))
            self._extend(scanlayout.UNIQUE_ID, np.array([row.unique_id for row in rows], np.int64))
            time_s = np.array([row.time_s for row in rows], np.float64)
            self._extend(scanlayout.TIME_STAMP, time_s - scanlayout.EPICS_EPOCH_S)
            if self._num_written == 0:
                self._file[scanlayout.START_TIME] = datetime.fromtimestamp(rows[0].time_s, UTC).isoformat()
        self._num_written += len(rows)
        self._pending = []

    def _extend(self, path: str, rows: NDArray[Any]) -> None:
        dataset = self._file[path]
        dataset.resize(self._num_written + len(rows), axis=0)
        dataset[self._num_written :] = rows

    def _settle(self) -> None:
        try:
            self._disk.settle()
        except OSError as error:
            raise DiskRefused(f"{self.path}: the disk does not take it: {error}") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Give the operating system's and HDF5's errors the name of the file."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # a text that HDF5 cannot hold is a ValueError
            raise ScanFileError(f"{self.path}: cannot be written: {error}") from error
