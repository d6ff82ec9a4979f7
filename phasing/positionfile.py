"""Position files: one row for each sample, joined to frames by id; several rows of one id become their mean.

CSV: a header line names the columns (comma, semicolon or tab between them), each further line is one row. The file may
grow while it is read. HDF5: one dataset for each axis and one for the ids, of equal length; a dataset (N, K) holds K
samples for each id, and x and y may both name one (N, 2) or (N, 3) dataset with x in its first column and y in its
second, as CXI's translation has them. MDA (synApps' sscan record): x, y and the id are recorded columns, by PV,
readback or description; without an id, points are counted. Numbers are returned as the file has them:
phasing.positions.to_sample_plane makes lengths of them.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from phasing import scanlayout
from phasing.errors import PhaselineError, ScanFileError
from phasing.mdafile import SIGNATURES as _MDA_SIGNATURES
from phasing.mdafile import MdaFile

ID_COLUMNS = ("NDArrayUniqueId", "unique_id", "id")
_ID_PV = ":UniqueId_RBV"
"""How the PV of areaDetector ends that an sscan record reads to know a frame's id."""
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DELIMITERS = (",", ";", "\t")
_LARGEST_MDA_ID = 2.0**24  # MDA has detectors' values in single precision
_LARGEST_ID = 2.0**53  # beyond, a number that was written with a decimal point is no longer exact
# What h5py raises for a file that is none, or whose bytes contradict one another.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError)


class PositionFileError(PhaselineError):
    """A position file that cannot be used; the text names the file, and the line and column or the dataset."""


@dataclass(frozen=True, eq=False)
class PositionTable:
    """unique_id (N,) int64, ascending, each once; yx (N, 2) float64, (y, x) in the file's own unit.

    counted: the file has no ids, and these number its points from 0.
    """

    unique_id: NDArray[np.int64]
    yx: NDArray[np.float64]
    counted: bool = False

    def find(self, unique_id: int) -> tuple[float, float] | None:
        """Return (y, x) of a frame; None when the table does not have it."""
        at = int(np.searchsorted(self.unique_id, unique_id))
        if at == len(self.unique_id) or self.unique_id[at] != unique_id:
            return None
        y, x = self.yx[at].tolist()
        return y, x


class PositionFile:
    """One file, read again as it grows: of a CSV file that was only appended to, nothing is read twice."""

    def __init__(self, path: Path, *, x: str, y: str, unique_id: str = "") -> None:
        """`x` and `y` name columns, or the datasets of an HDF5 file by path or by NDAttribute.

        `unique_id` names what holds the frame ids; by default one of ID_COLUMNS.
        """
        self.path, self._names = path, (y, x)
        self._ids = (unique_id,) if unique_id else ID_COLUMNS
        self._csv = _Csv(self._names, self._ids)

    def read(self, *, may_grow: bool = False, at_rest: bool = True) -> PositionTable | None:
        """Read what is new in the file and return all of its positions.

        Where it `may_grow`, a last line that no line end follows is left for later: its writer may have written a part
        of it, and half a number is another number. Unless it is `at_rest`, the last id of a CSV file is left for later
        too, for it may get more rows, and an HDF5 or MDA file is not touched (None). Raises PositionFileError when the
        file cannot be read, a column or dataset is missing or comes twice, numbers of rows differ, or a value is NaN,
        infinite or no number.
        """
        try:
            with self.path.open("rb") as file:
                begin = file.read(len(_HDF5_SIGNATURE))
                if begin == _HDF5_SIGNATURE:
                    return _read_hdf5(self.path, self._names, self._ids) if at_rest else None
                if begin[:4] in _MDA_SIGNATURES:
                    return _mda_table(MdaFile(self.path), self._names, self._ids) if at_rest else None
                file.seek(0)
                return self._csv.read(file.read(), may_grow=may_grow, at_rest=at_rest)
        except OSError as error:
            raise PositionFileError(f"{self.path}: {error.strerror}") from error
        except (PositionFileError, ScanFileError) as error:
            raise PositionFileError(f"{self.path}: {error}") from error


class _Csv:
    """The rows of a CSV file until now, and how far into its bytes they reach."""

    def __init__(self, names: tuple[str, str], id_names: tuple[str, ...]) -> None:
        self._names, self._id_names = names, id_names
        self._length = self._checksum = 0
        self._start_over()

    def read(self, content: bytes, *, may_grow: bool, at_rest: bool) -> PositionTable:
        if not self._goes_on(content):
            self._start_over()
        end = content.rfind(b"\n") + 1 if may_grow else len(content)
        try:
            self._take(content[self._length : end])
        except PositionFileError:
            self._start_over()
            raise
        self._length, self._checksum, self._ended = end, zlib.crc32(content[:end]), content[:end].endswith(b"\n")
        if at_rest and not self._columns:
            raise PositionFileError("it is empty, without even a header line")
        table = _mean_by_id(np.array(self._ids, np.int64), np.array([self._ys, self._xs], np.float64).T)
        return table if at_rest or not self._ids else _without(table, self._ids[-1])

    def _start_over(self) -> None:
        self._length = self._checksum = self._lines = 0
        self._ended = True
        self._header: list[str] = []
        self._columns: tuple[int, ...] = ()
        self._delimiter = ","
        self._ids: list[int] = []
        self._ys: list[float] = []
        self._xs: list[float] = []

    def _goes_on(self, content: bytes) -> bool:
        """Whether the file is the one that was read before, perhaps with more behind it."""
        if len(content) < self._length or zlib.crc32(content[: self._length]) != self._checksum:
            return False
        return self._ended or len(content) == self._length

    def _take(self, added: bytes) -> None:
        try:
            lines = added.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise PositionFileError(f"it is neither HDF5 nor text: {error.reason}") from error
        for line in lines:
            self._lines += 1
            if not line.strip():
                continue
            if not self._columns:
                self._take_header(line)
            elif not line.startswith("#"):
                self._take_row(line)

    def _take_header(self, line: str) -> None:
        self._delimiter = max(_DELIMITERS, key=line.count)
        self._header = [name.strip() for name in self._cells(line.lstrip("\ufeff# "))]
        twice = sorted({name for name in self._header if self._header.count(name) > 1})
        if twice:
            raise PositionFileError(f"line {self._lines}: column {twice[0]} comes more than once")
        ids = [name for name in self._id_names if name in self._header]
        for name in self._names:
            if name not in self._header:
                raise PositionFileError(f"line {self._lines}: no column {name} among {', '.join(self._header)}")
        if len(ids) != 1:
            what = f"columns {' and '.join(ids)} both hold ids" if ids else f"no column {' or '.join(self._id_names)}"
            raise PositionFileError(f"line {self._lines}: {what}")
        self._columns = tuple(map(self._header.index, (ids[0], *self._names)))

    def _take_row(self, line: str) -> None:
        cells = self._cells(line)
        if len(cells) != len(self._header):
            raise PositionFileError(f"line {self._lines}: {len(cells)} columns, the header has {len(self._header)}")
        at_id, at_y, at_x = self._columns
        try:
            unique_id, y, x = float(cells[at_id]), float(cells[at_y]), float(cells[at_x])
        except ValueError:
            raise self._wrong(cells, _is_number, "no number") from None
        if not (math.isfinite(unique_id) and math.isfinite(y) and math.isfinite(x)):
            raise self._wrong(cells, lambda cell: math.isfinite(float(cell)), "not finite")
        if unique_id != int(unique_id) or abs(unique_id) > _LARGEST_ID:
            raise self._wrong(cells, lambda _: False, "no frame id")  # the id is the first of the columns
        self._ids.append(int(unique_id))
        self._ys.append(y)
        self._xs.append(x)

    def _cells(self, line: str) -> list[str]:
        if '"' not in line:
            return line.split(self._delimiter)
        try:
            return next(csv.reader([line], delimiter=self._delimiter))
        except csv.Error as error:
            raise PositionFileError(f"line {self._lines}: {error}") from error

    def _wrong(self, cells: list[str], is_right: Callable[[str], bool], what: str) -> PositionFileError:
        """The error that names the first column whose cell is not right."""
        column = next(column for column in self._columns if not is_right(cells[column]))
        return PositionFileError(f"line {self._lines}, column {self._header[column]}: {cells[column]!r} is {what}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _mean_by_id(unique_id: NDArray[np.int64], yx: NDArray[np.float64]) -> PositionTable:
    """Average the rows of each id; unique_id (N,), yx (N, 2), in any order."""
    values, inverse, counts = np.unique(unique_id, return_inverse=True, return_counts=True)
    sums = [np.bincount(inverse, weights=column, minlength=len(values)) for column in yx.T]
    return PositionTable(values, np.stack(sums, axis=1) / counts[:, None])


def _without(table: PositionTable, unique_id: int) -> PositionTable:
    others = table.unique_id != unique_id
    return PositionTable(table.unique_id[others], table.yx[others])


def _mda_table(file: MdaFile, names: tuple[str, str], id_names: tuple[str, ...]) -> PositionTable:
    y, x = (_mda_column(file, name) for name in names)
    unique_id = next((ids for name in id_names if (ids := file.column(name)) is not None), None)
    if unique_id is None and id_names == ID_COLUMNS:
        unique_id = file.ending(_ID_PV)
    elif unique_id is None:
        raise PositionFileError(f"no column {id_names[0]} among {', '.join(file.names)}")
    yx = np.stack([y, x], axis=1)
    if not np.isfinite(yx).all():
        raise PositionFileError(f"a value of {' or '.join(names)} is NaN or infinite")
    if unique_id is None:
        return PositionTable(np.arange(len(yx)), yx, counted=True)
    if not (np.isfinite(unique_id) & (unique_id == np.rint(unique_id)) & (unique_id <= _LARGEST_MDA_ID)).all():
        raise PositionFileError(f"the column of frame ids holds what is none, or one above {_LARGEST_MDA_ID:g}")
    return _mean_by_id(unique_id.astype(np.int64), yx)


def _mda_column(file: MdaFile, name: str) -> NDArray[np.float64]:
    values = file.column(name)
    if values is None:
        raise PositionFileError(f"no column {name} among {', '.join(file.names)}")
    return values


def _read_hdf5(path: Path, names: tuple[str, str], id_names: tuple[str, ...]) -> PositionTable:
    try:
        # A lock of ours would keep a writer from opening the file: we stand in nobody's way.
        with h5py.File(path, "r", locking=False) as file:
            return _hdf5_table(file, names, id_names)
    except _DAMAGED as error:
        raise PositionFileError(f"not an HDF5 file, truncated or damaged: {error}") from error


def _hdf5_table(file: h5py.File, names: tuple[str, str], id_names: tuple[str, ...]) -> PositionTable:
    paths = [_axis_path(file, name) for name in names]
    id_path = _id_path(file, paths[0], id_names)
    unique_id = _numbers(file, id_path)
    if unique_id.ndim != 1:
        raise PositionFileError(f"{id_path} must be (N,) frame ids, not {unique_id.shape}")
    if not np.array_equal(unique_id, np.rint(unique_id)):
        raise PositionFileError(f"{id_path} holds what is no frame id")
    if paths[0] == paths[1]:
        columns = _numbers(file, paths[0])
        if columns.ndim != 2 or columns.shape[1] not in (2, 3):
            raise PositionFileError(f"{paths[0]} is for x and y: it must be (N, 2) or (N, 3), not {columns.shape}")
        y, x = columns[:, 1], columns[:, 0]
    else:
        y, x = (_axis(file, path) for path in paths)
    for axis_path, axis in zip(paths, (y, x), strict=True):
        if len(axis) != len(unique_id):
            raise PositionFileError(f"{len(unique_id)} ids in {id_path} but {len(axis)} positions in {axis_path}")
    return _mean_by_id(unique_id.astype(np.int64), np.stack([y, x], axis=1).astype(np.float64))


def _axis_path(file: h5py.File, name: str) -> str:
    candidates = [name] if name.startswith("/") else [f"/{name}", f"{scanlayout.ATTRIBUTES}/{name}"]
    for path in candidates:
        if isinstance(file.get(path), h5py.Dataset):
            return path
    raise PositionFileError(f"no dataset {' or '.join(candidates)}")


def _id_path(file: h5py.File, axis_path: str, id_names: tuple[str, ...]) -> str:
    """The ids' dataset: beside the positions, or where areaDetector and our scan files have it."""
    beside = axis_path.rpartition("/")[0]
    candidates = [name if name.startswith("/") else f"{beside}/{name}" for name in id_names]
    if id_names == ID_COLUMNS:
        candidates.append(scanlayout.UNIQUE_ID)
    for path in candidates:
        if isinstance(file.get(path), h5py.Dataset):
            return path
    raise PositionFileError(f"no frame ids: none of the datasets {', '.join(candidates)}")


def _axis(file: h5py.File, path: str) -> NDArray[np.float64]:
    values = _numbers(file, path).astype(np.float64)
    if values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise PositionFileError(f"{path} must be (N,) or (N, K) positions, not {values.shape}")
    return values if values.ndim == 1 else values.mean(axis=1)


def _numbers(file: h5py.File, path: str) -> NDArray[np.float64] | NDArray[np.int64]:
    item = scanlayout.dataset(file, path)
    if item.dtype.kind not in "iuf":
        raise PositionFileError(f"{path} must hold numbers, not {item.dtype}")
    values: NDArray[np.float64] | NDArray[np.int64] = item[()]
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise PositionFileError(f"{path} is NaN or infinite at index {', '.join(map(str, bad[0].tolist()))}")
    return values
