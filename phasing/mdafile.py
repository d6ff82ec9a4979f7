"""Reading the MDA files of synApps' sscan record: what was recorded at each point, by name.

The format (saveData, versions 1.2 to 1.4) is XDR: https://epics-modules.github.io/sscan/MDAFormat.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phasing.errors import ScanFileError

SIGNATURES = tuple(struct.pack(">f", version) for version in (1.2, 1.3, 1.4))
_MAX_POINTS = 100_000_000


@dataclass(frozen=True, eq=False)
class _Column:
    names: tuple[str, ...]
    values: NDArray[np.float64]


class MdaFile:
    """The columns of a scan, one value for each point of the innermost dimension, in the order of acquisition.

    What an outer dimension recorded holds for all points of its inner ones. Points that were not acquired are left out.
    """

    def __init__(self, path: Path) -> None:
        """Read the whole file. Raises OSError, and ScanFileError (without the file's name) for one that is damaged."""
        content = path.read_bytes()
        if content[:4] not in SIGNATURES:
            raise ScanFileError("not an MDA file of version 1.2 to 1.4")
        try:
            reader = _Reader(content, 8)
            rank = reader.integer()
            _require(1 <= rank <= 16, f"a scan of {rank} dimensions")
            reader.skip(4 * (rank + 2))
            _, self._columns = _scan(content, reader.at, rank)
        except (struct.error, UnicodeDecodeError) as error:
            raise ScanFileError("truncated or damaged") from error

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each column."""
        return tuple(column.names[0] for column in self._columns)

    def column(self, name: str) -> NDArray[np.float64] | None:
        """The (N,) values of the column with this PV, readback or description; None when there is none.

        Raises ScanFileError when there are several.
        """
        found = [column for column in self._columns if name in column.names]
        if len(found) > 1:
            raise ScanFileError(f"column {name} comes more than once")
        return found[0].values if found else None

    def ending(self, end: str) -> NDArray[np.float64] | None:
        """The values of the first column with a name that ends so; None when there is none."""
        return next((column.values for column in self._columns if any(n.endswith(end) for n in column.names)), None)


class _Reader:
    """XDR from one place of a file on."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self.at = content, at

    def skip(self, num_bytes: int) -> None:
        self.at += num_bytes

    def integer(self) -> int:
        (value,) = struct.unpack_from(">i", self._content, self.at)
        self.at += 4
        return int(value)

    def text(self) -> str:
        """A counted string: its length, and where that is not 0 the length once more with the characters."""
        if self.integer() == 0:
            return ""
        length = self.integer()
        _require(0 <= length <= len(self._content) - self.at, f"a text of {length} characters")
        text = self._content[self.at : self.at + length].decode("latin-1")
        self.at += (length + 3) // 4 * 4
        return text

    def texts(self, number: int) -> tuple[str, ...]:
        return tuple(self.text() for _ in range(number))

    def numbers(self, dtype: str, number: int) -> NDArray[np.float64]:
        size = np.dtype(dtype).itemsize * number
        if self.at + size > len(self._content):
            raise struct.error
        values = np.frombuffer(self._content, dtype, number, self.at).astype(np.float64)
        self.at += size
        return values


def _scan(content: bytes, at: int, rank: int) -> tuple[int, list[_Column]]:
    """The points of the scan that begins at a byte, and its columns with those of the scans inside it."""
    reader = _Reader(content, at)
    found, requested, acquired = reader.integer(), reader.integer(), reader.integer()
    _require(found == rank, f"a scan of {found} dimensions where one of {rank} is expected")
    _require(0 <= acquired <= requested <= _MAX_POINTS, f"{acquired} of {requested} points")
    inner = [reader.integer() for _ in range(requested)] if rank > 1 else []
    reader.texts(2)  # name and time
    columns = list(_columns(reader, requested, acquired))
    return (acquired, columns) if rank == 1 else _with_inner(content, columns, inner[:acquired], rank - 1)


def _columns(reader: _Reader, requested: int, acquired: int) -> Iterator[_Column]:
    num_positioners, num_detectors, num_triggers = (reader.integer() for _ in range(3))
    _require(min(num_positioners, num_detectors, num_triggers) >= 0, "less than no columns")
    names: list[tuple[str, ...]] = []
    for _ in range(num_positioners):
        reader.skip(4)  # its number
        name, description, _, _, readback, readback_description, _ = reader.texts(7)
        names.append((name, readback, description, readback_description))
    for _ in range(num_detectors):
        reader.skip(4)
        name, description, _ = reader.texts(3)
        names.append((name, description))
    for _ in range(num_triggers):
        reader.skip(4)
        reader.text()
        reader.skip(4)  # its command
    for number, given in enumerate(names):
        values = reader.numbers(">f8" if number < num_positioners else ">f4", requested)[:acquired]
        yield _Column(tuple(name for name in given if name) or (f"column {number + 1}",), values)


def _with_inner(content: bytes, outer: list[_Column], inner: list[int], rank: int) -> tuple[int, list[_Column]]:
    _require(all(0 < at < len(content) for at in inner), "an inner scan that was never written")
    scans = [_scan(content, at, rank) for at in inner]
    _require(len({tuple(c.names for c in columns) for _, columns in scans}) <= 1, "inner scans of different columns")
    points = [number for number, _ in scans]
    repeated = [_Column(column.names, np.repeat(column.values, points)) for column in outer]
    joined = [
        _Column(parts[0].names, np.concatenate([part.values for part in parts]))
        for parts in zip(*(columns for _, columns in scans), strict=True)
    ]
    return sum(points), repeated + joined


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ScanFileError(f"damaged: it tells of {otherwise}")
