"""Reading the HDF5 files of areaDetector's file plugin, which hold frames and their attributes and little else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from phasing import scanlayout
from phasing.errors import GeometryError, ScanFileError
from phasing.framefiles import FrameFiles, Segment, frame_ids, segment
from phasing.geometry import Geometry
from phasing.linkedfiles import numbered_files
from phasing.positionfile import PositionTable
from phasing.supplement import Supplement, join

_UNIQUE_ID, _TIME_S = "NDArrayUniqueId", "NDArrayTimeStamp"
_SECONDS, _NANOSECONDS = "NDArrayEpicsTSSec", "NDArrayEpicsTSnSec"


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a plain areaDetector file says of a scan, and its supplement of the rest.

    unique_id (N,) int64; time_s (N,) float64, Unix, 0 where unknown; scan_id: empty where there is none.
    """

    frames: FrameFiles
    unique_id: NDArray[np.int64]
    time_s: NDArray[np.float64]
    scan_id: str
    geometry: Geometry
    positions: PositionTable | None

    def placed(self, supplement: Supplement) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The frames that have a position, and these, as phasing.supplement.join gives them."""
        if self.positions is not None:
            return join(self.unique_id, self.positions, supplement.max_missing)
        joined = supplement.joined(self.unique_id)
        assert joined is not None, "positions come from the one or the other"
        return joined


def is_plain(file: h5py.File, supplement: Supplement | None) -> bool:
    """Whether a file holds frames where areaDetector puts them, and is no scan file of ours."""
    data = scanlayout.AREA_DETECTOR_DATA if supplement is None else supplement.data
    return scanlayout.DATA not in file and bool(frame_datasets(file, data))


def frame_datasets(file: h5py.File, data: str) -> list[str]:
    """The paths of all datasets of frames: the one called so, or those that are numbered behind that name.

    Detectors that write themselves number them (`data_000001`, ...) and have each in a file of its own, behind a link.
    """
    if data in file:
        return [data]
    folder, _, name = data.rpartition("/")
    group = file.get(folder or "/")
    names = group.keys() if isinstance(group, h5py.Group) else ()
    numbered = [(int(match[1]), one) for one in names if (match := re.fullmatch(re.escape(name) + r"_?(\d+)", one))]
    return [f"{folder}/{one}" for _, one in sorted(numbered)]


def read_recorded(path: Path, supplement: Supplement) -> Recorded:
    """Read all but the frames, and no positions where a position file has them.

    Raises ScanFileError (without the file's name), and what h5py raises.
    """
    with ExitStack() as opened:
        files = {
            file: opened.enter_context(h5py.File(file, "r"))
            for file in (path, *numbered_files(path, supplement.numbered))
        }
        frames = FrameFiles.whole([part for file, h5 in files.items() for part in _segments(file, h5, supplement.data)])
        attributes = _Attributes(list(files.values()), supplement.attributes)
        num_frames = frames.num_frames
        if num_frames == 0:
            raise ScanFileError("it holds no frames")
        unique_id = frame_ids(attributes.column(_UNIQUE_ID, num_frames))
        positions = None if supplement.position_file else _positions(attributes, supplement, unique_id)
        geometry = _geometry(attributes, supplement, frames.shape_px)
        scan_id = scanlayout.text(files[path], scanlayout.SCAN_ID) if scanlayout.SCAN_ID in files[path] else ""
        return Recorded(
            frames=frames,
            unique_id=unique_id,
            time_s=_time_s(attributes, num_frames),
            scan_id=scan_id or attributes.word(supplement.readings.scan_id),
            geometry=geometry,
            positions=positions,
        )


class _Attributes:
    """The attributes of the frames, one column each, over all files."""

    def __init__(self, files: list[h5py.File], group: str) -> None:
        self._files, self._group = files, group

    def __contains__(self, name: str) -> bool:
        return all(isinstance(file.get(self._path(name)), h5py.Dataset) for file in self._files)

    def column(self, name: str, num_frames: int) -> NDArray[np.float64] | NDArray[np.int64]:
        """One number for each frame, (N,)."""
        column = self.values(name)
        if len(column) != num_frames:
            raise ScanFileError(f"{num_frames} frames but {len(column)} values of {self._path(name)}")
        return column

    def values(self, name: str) -> NDArray[np.float64] | NDArray[np.int64]:
        """All numbers, however many."""
        path = self._path(name)
        values: NDArray[np.float64] | NDArray[np.int64]
        values = np.concatenate([self._numbers(file, path) for file in self._files])
        return values

    def word(self, name: str) -> str:
        """The one text that all frames have; empty where there is none, or several."""
        if name not in self:
            return ""
        words: set[Any] = set()
        for file in self._files:
            item = scanlayout.dataset(file, self._path(name))
            if h5py.check_string_dtype(item.dtype) is None:
                return ""
            words |= set(np.ravel(item.asstr()[()]).tolist())
        return str(words.pop()) if len(words) == 1 else ""

    def _numbers(self, file: h5py.File, path: str) -> NDArray[np.float64] | NDArray[np.int64]:
        item = scanlayout.dataset(file, path)
        if item.dtype.kind not in "iuf" or item.ndim not in (1, 2) or item.shape[1:] not in ((), (1,)):
            raise ScanFileError(f"{path} must be (N,) numbers, not {item.shape} {item.dtype}")
        values: NDArray[np.float64] | NDArray[np.int64] = item[()].reshape(-1)
        return values

    def _path(self, name: str) -> str:
        return name if name.startswith("/") else f"{self._group}/{name}"


def _segments(path: Path, file: h5py.File, data: str) -> Iterator[Segment]:
    found = frame_datasets(file, data)
    if not found:
        raise ScanFileError(f"{path.name} holds no frames ({data} is missing)")
    for dataset in found:
        yield segment(file, path, dataset)


def _geometry(attributes: _Attributes, supplement: Supplement, shape: tuple[int, int]) -> Geometry:
    geometry, readings = supplement.geometry, supplement.readings
    if geometry.detector_shape_px != shape:
        raise ScanFileError(
            f"its frames are {shape} pixels, but the configured geometry is for {geometry.detector_shape_px}"
        )

    def measured(name: str, unit: float, configured: float) -> float:
        value = float(np.median(attributes.values(name))) * unit if name in attributes else configured
        differs = np.isfinite(value) and abs(value / configured - 1.0) > readings.tolerance
        return value if differs else configured

    try:
        return replace(
            geometry,
            energy_ev=measured(readings.energy, readings.energy_unit_ev, geometry.energy_ev),
            distance_m=measured(readings.distance, readings.distance_unit_m, geometry.distance_m),
        )
    except GeometryError as error:
        raise ScanFileError(f"attributes {readings.energy} and {readings.distance}: {error}") from error


def _positions(attributes: _Attributes, supplement: Supplement, unique_id: NDArray[np.int64]) -> PositionTable:
    """The positions among the attributes; frames without a finite one are not in the table."""
    axes = supplement.axes
    missing = [name for name in (axes.y, axes.x) if name not in attributes]
    if missing:
        raise ScanFileError(
            f"it holds no positions (no attribute {' or '.join(missing)}), and no position file is given"
        )
    yx = np.stack([attributes.column(name, len(unique_id)).astype(np.float64) for name in (axes.y, axes.x)], axis=1)
    position_m = axes.placed(yx)
    there = np.isfinite(position_m).all(axis=1)
    order = np.argsort(unique_id[there])
    return PositionTable(unique_id[there][order], position_m[there][order])


def _time_s(attributes: _Attributes, num_frames: int) -> NDArray[np.float64]:
    def column(name: str) -> NDArray[np.float64]:
        return attributes.column(name, num_frames).astype(np.float64)

    if _TIME_S in attributes:
        return column(_TIME_S) + scanlayout.EPICS_EPOCH_S
    if _SECONDS in attributes and _NANOSECONDS in attributes:
        return column(_SECONDS) + 1e-9 * column(_NANOSECONDS) + scanlayout.EPICS_EPOCH_S
    return np.zeros(num_frames)
