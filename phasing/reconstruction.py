"""The result of phase retrieval: what it is, how it is kept on disk, and its phase as a map of the sample."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from phasing.errors import GeometryError, RetrievalError
from phasing.files import replaced_file
from phasing.geometry import Geometry
from phasing.stitch import StitchedMap


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """The sample's transmission and the probe of one scan, rows first.

    object: (H, W) complex64, dimensionless; the centre of its pixel [0, 0] lies at origin_m (y, x), its pixels are
    pixel_size_m. probe: (M, n, n) complex64, sqrt(counts), incoherent modes. position_m: (N, 2) float64 (y, x) with
    unique_id (N,) int64: where the pixel [n // 2, n // 2] of each frame's patch lies. error_history: by epoch.
    """

    scan_id: str
    object: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    pixel_size_m: float
    origin_m: tuple[float, float]
    position_m: NDArray[np.float64]
    unique_id: NDArray[np.int64]
    error_history: tuple[float, ...]
    geometry: Geometry

    def position_px(self) -> NDArray[np.float64]:
        """Positions in pixels of the object, (N, 2) float64 (row, column)."""
        position_px: NDArray[np.float64] = (self.position_m - np.asarray(self.origin_m)) / self.pixel_size_m
        return position_px

    def probe_intensity(self) -> NDArray[np.float32]:
        """Intensity of all probe modes, (n, n) float32, maximum 1."""
        intensity = probe_intensity(self.probe)
        return np.asarray(intensity / intensity.max(), np.float32)

    def illumination(self) -> NDArray[np.float32]:
        """Sum of the probe's intensity over all positions, (H, W) float32, counts."""
        height, width = self.object.shape
        return illumination((height, width), probe_intensity(self.probe), self.position_px())

    def flat_object(self) -> NDArray[np.complex64]:
        """The object with the phase of its central third at 0 and without its linear ramp, (H, W) complex64."""
        return flatten(self.object, self.illumination())

    def phase_map(self) -> StitchedMap:
        """The phase as a map of the sample, weighted by the illumination; phase reference as in flat_object."""
        phase_rad = np.angle(self.flat_object()).astype(np.float32)
        return StitchedMap(phase_rad, self.illumination(), self.origin_m, self.pixel_size_m)

    def save(self, path: Path) -> None:
        """Write an HDF5 file as a whole or not at all; made in memory, as HDF5 cannot bear a full disk."""
        facts = {"scan_id": self.scan_id, "pixel_size_m": self.pixel_size_m, "origin_m": self.origin_m}
        facts |= {"error_history": self.error_history, "geometry": self.geometry.to_json()}
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.attrs["phaseline_reconstruction"] = json.dumps(facts)
            for name in ("object", "probe", "position_m", "unique_id"):
                file[name] = getattr(self, name)
        with replaced_file(path) as part:
            part.write_bytes(content.getbuffer())

    @classmethod
    def load(cls, path: Path) -> Reconstruction:
        """Read what save wrote. Raises RetrievalError naming the file when it is missing or damaged."""
        try:
            with h5py.File(path, "r") as file:
                facts = json.loads(file.attrs["phaseline_reconstruction"])
                arrays = {name: file[name][()] for name in ("object", "probe", "position_m", "unique_id")}
            origin_y_m, origin_x_m = facts["origin_m"]
            return cls(
                scan_id=facts["scan_id"],
                pixel_size_m=facts["pixel_size_m"],
                origin_m=(origin_y_m, origin_x_m),
                error_history=tuple(facts["error_history"]),
                geometry=Geometry.from_json(facts["geometry"]),
                **arrays,
            )
        except (OSError, KeyError, ValueError, TypeError, GeometryError) as error:
            raise RetrievalError(f"{path} is not a readable reconstruction: {error}") from error


def probe_intensity(probe: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Intensity of all modes (M, n, n) together, (n, n) float32 counts."""
    return np.asarray(np.sum(np.abs(probe) ** 2, axis=0), np.float32)


def illumination(
    shape: tuple[int, int], intensity: NDArray[np.float32], position_px: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sum of the probe's intensity (n, n) over all positions, to the nearest pixel; (H, W) float32, counts."""
    n = len(intensity)
    total = np.zeros(shape, np.float32)
    for row, column in np.rint(position_px).astype(int) - n // 2:
        total[row : row + n, column : column + n] += intensity
    return total


def flatten(transmission: NDArray[np.complex64], weight: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Remove what phase retrieval cannot know: the mean phase of the central third, and the linear ramp.

    transmission: (H, W) complex64. weight: (H, W) float32, the illumination. The ramp is the weighted mean of the
    phase steps between neighbours, which does not mind wraps, and then a least squares fit to what is left.
    """
    rows, columns = (np.arange(side) - side / 2 for side in transmission.shape)
    slopes = [_mean_step(transmission, weight, axis) for axis in (0, 1)]
    level = _turned_back(transmission, slopes[0] * rows[:, None] + slopes[1] * columns)
    level = _turned_back(level, _central_phase_rad(level, weight))
    fitted = _fitted_slopes(np.angle(level), weight, rows, columns)
    level = _turned_back(level, fitted[0] * rows[:, None] + fitted[1] * columns)
    return _turned_back(level, _central_phase_rad(level, weight))


def _turned_back(field: NDArray[np.complex64], phase_rad: NDArray[np.float64] | float) -> NDArray[np.complex64]:
    return np.asarray(field * np.exp(-1j * phase_rad), np.complex64)


def _mean_step(field: NDArray[np.complex64], weight: NDArray[np.float32], axis: int) -> float:
    ahead, behind = [slice(None)] * 2, [slice(None)] * 2
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    steps = field[tuple(ahead)] * field[tuple(behind)].conj() * weight[tuple(behind)]
    return float(np.angle(steps.sum(dtype=np.complex128)))


def _central_phase_rad(field: NDArray[np.complex64], weight: NDArray[np.float32]) -> float:
    height, width = field.shape
    center = np.s_[height // 3 : height - height // 3, width // 3 : width - width // 3]
    return float(np.angle((field[center] * weight[center]).sum(dtype=np.complex128)))


def _fitted_slopes(
    phase_rad: NDArray[np.float32], weight: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Slopes in rad a pixel along rows and columns, by weighted least squares beside a constant.

    All sums are taken along one axis first: maps may be so large that their basis would not fit into memory.
    """
    across, down = weight.sum(axis=1, dtype=np.float64), weight.sum(axis=0, dtype=np.float64)
    mixed = rows @ np.einsum("ij,j->i", weight, columns)
    normal = [
        [across @ rows**2, mixed, across @ rows],
        [mixed, down @ columns**2, down @ columns],
        [across @ rows, down @ columns, across.sum()],
    ]
    weighted = weight * phase_rad
    across, down = weighted.sum(axis=1, dtype=np.float64), weighted.sum(axis=0, dtype=np.float64)
    return np.asarray(np.linalg.solve(normal, [across @ rows, down @ columns, across.sum()])[:2])
