"""What a scan file does not say itself: where its frames and attributes lie, its geometry, and its positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from phasing import scanlayout
from phasing.errors import GeometryError, ScanFileError
from phasing.geometry import Geometry
from phasing.positionfile import PositionFile, PositionFileError, PositionTable
from phasing.positions import to_sample_plane


@dataclass(frozen=True)
class Axes:
    """What holds x, y and frame ids, and how the numbers become (y, x) in m; see phasing.positions.to_sample_plane.

    x, y: attributes of the frames by name or path, or columns or datasets of a position file. unique_id: the column or
    dataset of frame ids in a position file; empty for the usual names.
    """

    x: str = "PositionX"
    y: str = "PositionY"
    unique_id: str = ""
    unit_m: float = 1e-6
    sign_x: int = 1
    sign_y: int = 1
    swap: bool = False
    rotation_deg: float = 0.0

    def placed(self, yx: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn (N, 2) numbers as they were recorded into (y, x) in m in the sample plane."""
        how = {name: getattr(self, name) for name in ("unit_m", "sign_y", "sign_x", "swap", "rotation_deg")}
        with np.errstate(over="ignore", invalid="ignore"):
            return np.stack(to_sample_plane(yx[:, 0], yx[:, 1], **how), axis=1)


@dataclass(frozen=True)
class Readings:
    """Attributes of the frames that tell the scan's id, the energy and the distance, with their units.

    Within `tolerance`, a share, they say the same as the configured geometry, which then holds; else they hold.
    """

    scan_id: str = "ScanId"
    energy: str = "Energy"
    energy_unit_ev: float = 1.0
    distance: str = "DetectorDistance"
    distance_unit_m: float = 1.0
    tolerance: float = 1e-3


@dataclass(frozen=True, eq=False)
class Supplement:
    """How the scan files of a beamline are to be read.

    geometry: of files that hold none. data, attributes: the dataset of frames and the group of their attributes.
    numbered: how further files of the same scan are called, beside the first: `{stem}` stands for its name, `*` for a
    number; empty for none. position_file: where positions come from instead of from the scan file. max_missing: so many
    frames may lack a position, and are left out, or positions a frame.
    """

    geometry: Geometry
    data: str = scanlayout.AREA_DETECTOR_DATA
    attributes: str = scanlayout.ATTRIBUTES
    numbered: str = ""
    axes: Axes = field(default_factory=Axes)
    readings: Readings = field(default_factory=Readings)
    position_file: Path | None = None
    max_missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return all as JSON values."""
        values = {name: getattr(self, name) for name in ("data", "attributes", "numbered", "max_missing")}
        path = None if self.position_file is None else str(self.position_file)
        blocks = {"geometry": self.geometry.to_json(), "axes": asdict(self.axes), "readings": asdict(self.readings)}
        return values | blocks | {"position_file": path}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what to_json made; raises ScanFileError for anything else."""
        try:
            path = values["position_file"]
            return cls(
                **{
                    **values,
                    "geometry": Geometry.from_json(values["geometry"]),
                    "axes": Axes(**values["axes"]),
                    "readings": Readings(**values["readings"]),
                    "position_file": None if path is None else Path(path),
                }
            )
        except (GeometryError, TypeError, KeyError, ValueError) as error:
            raise ScanFileError(f"what supplements the scan file cannot be read: {error}") from error

    def joined(self, unique_id: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.float64]] | None:
        """What `join` gives for the position file, or None where there is none; raises ScanFileError."""
        if self.position_file is None:
            return None
        file = PositionFile(self.position_file, x=self.axes.x, y=self.axes.y, unique_id=self.axes.unique_id)
        try:
            table = file.read()
        except PositionFileError as error:
            raise ScanFileError(f"positions: {error}") from error
        assert table is not None, "a file at rest is read whole"
        position_m = self.axes.placed(table.yx)
        if not np.isfinite(position_m).all():
            raise ScanFileError(f"positions: {self.position_file}: one is too large for a number of metres")
        return join(unique_id, replace(table, yx=position_m), self.max_missing)


def join(
    unique_id: NDArray[np.int64], table: PositionTable, max_missing: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Give each frame the position of its id: the frames that have one, (M,) indices ascending, and (M, 2) m.

    A table without ids counts points from 0: it fits when frames are as many and their ids without gap. Raises
    ScanFileError naming both numbers when more than `max_missing` frames lack a position, or positions a frame.
    """
    counts = f"{len(unique_id)} frames but {len(table.unique_id)} positions"
    ids = unique_id - unique_id.min() if table.counted else unique_id
    found = np.isin(ids, table.unique_id)
    if table.counted and not (len(ids) == len(table.unique_id) and found.all()):
        raise ScanFileError(f"{counts}, which have no frame ids: they fit only when as many as frames without a gap")
    lacking, unused = np.flatnonzero(~found), np.setdiff1d(table.unique_id, ids)
    at_most = f"at most {max_missing} may be missing"
    if len(lacking) > max_missing or len(lacking) == len(ids):
        first = unique_id[lacking[0]]
        raise ScanFileError(f"{counts}: {len(lacking)} frames have none, the first is {first}; {at_most}")
    if len(unused) > max_missing:
        raise ScanFileError(f"{counts}: {len(unused)} belong to no frame, the first to id {unused[0]}; {at_most}")
    kept = np.flatnonzero(found)
    return kept, table.yx[np.searchsorted(table.unique_id, ids[kept])]
