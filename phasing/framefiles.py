"""Frames of one scan in one or several datasets of one or several files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filters of files that a detector compressed
import numpy as np
from numpy.typing import NDArray

from phasing.errors import ScanFileError


@dataclass(frozen=True)
class Segment:
    """Frames that follow one another in one dataset, (N, H, W) counts."""

    path: Path
    dataset: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return self.shape[0]


@dataclass(frozen=True, eq=False)
class FrameFiles:
    """The frames of all segments one after the other, of which `rows` (N,), ascending indices, are the scan's."""

    segments: tuple[Segment, ...]
    rows: NDArray[np.intp]

    @classmethod
    def whole(cls, segments: Sequence[Segment]) -> FrameFiles:
        """All frames of all segments; raises ScanFileError when they differ in shape or dtype."""
        kinds = {(segment.shape[1:], segment.dtype) for segment in segments}
        if len(kinds) > 1:
            raise ScanFileError(f"its frames differ: {', '.join(sorted(f'{shape} {dtype}' for shape, dtype in kinds))}")
        return cls(tuple(segments), np.arange(sum(segment.num_frames for segment in segments)))

    @property
    def num_frames(self) -> int:
        """How many frames of the scan there are."""
        return len(self.rows)

    @property
    def num_stored(self) -> int:
        """How many frames the files hold."""
        return sum(segment.num_frames for segment in self.segments)

    @property
    def shape_px(self) -> tuple[int, int]:
        """A frame's (H, W)."""
        return self.segments[0].shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the counts."""
        return self.segments[0].dtype

    def chosen(self, rows: NDArray[np.intp]) -> FrameFiles:
        """Some of these frames, by their (M,) indices among them, ascending."""
        return FrameFiles(self.segments, self.rows[rows])

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read frames start to stop, (N, H, W).

        Raises ScanFileError when a file has become shorter, and what h5py raises.
        """
        rows = self.rows[start:stop]
        parts, first = [], 0
        for segment in self.segments:
            here = rows[(rows >= first) & (rows < first + segment.num_frames)] - first
            first += segment.num_frames
            if len(here):
                parts.append(_read(segment, here))
        if not parts:
            return np.empty((0, *self.shape_px), self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def segment(file: h5py.File, path: Path, dataset: str) -> Segment:
    """One dataset as a segment; raises ScanFileError (without the file's name) when it holds no (N, H, W) counts."""
    item = file.get(dataset)
    if not isinstance(item, h5py.Dataset):
        raise ScanFileError(f"{dataset} is missing")
    if item.ndim != 3 or item.dtype.kind not in "iuf":
        raise ScanFileError(f"frames must be (N, H, W) counts, not {item.shape} {item.dtype}")
    return Segment(path, dataset, item.shape, item.dtype)


def frame_ids(column: NDArray[Any]) -> NDArray[np.int64]:
    """Read (N,) numbers as frame ids; raises ScanFileError when one is not whole, or comes twice."""
    if column.dtype.kind == "f" and not (np.isfinite(column) & (column == np.rint(column))).all():
        raise ScanFileError("a frame id is not a whole number")
    unique_id = column.astype(np.int64)
    values, repeats = np.unique(unique_id, return_counts=True)
    if (repeats > 1).any():
        raise ScanFileError(f"frame id {values[repeats > 1][0]} comes more than once")
    return unique_id


def _read(segment: Segment, rows: NDArray[np.intp]) -> NDArray[Any]:
    first, stop = int(rows[0]), int(rows[-1]) + 1
    with h5py.File(segment.path, "r") as file:
        frames: NDArray[Any] = file[segment.dataset][first:stop]
    if len(frames) < stop - first:
        raise ScanFileError(f"{segment.path}: frame {first + len(frames)} is no longer in it")
    return frames if len(frames) == len(rows) else frames[rows - first]
