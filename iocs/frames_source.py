"""Where the detector IOC's frames come from: a simulated scan, or one that was written before."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from phasing.errors import ScanFileError
from phasing.geometry import Geometry
from phasing.scanfile import Scan, read_scan
from phasing.simulate import Optics, Sample, SimulatedScan, spiral

Part = Literal["Whole", "Left half", "Right half"]
BLOCK_FRAMES, BLOCK_PX = 16, 16 * 64 * 64
"""Simulated frames are made some at a time, for speed; not more pixels than this, for nobody can stop a block."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One exposure: raw counts (H, W), the position (y, x) in m, and the id it had where it was measured."""

    counts: npt.NDArray[Any]
    position_m: tuple[float, float]
    unique_id: int | None


class FrameSource(Protocol):
    """A scan's frames, in the order they are taken."""

    scan_id: str
    geometry: Geometry
    dtype: np.dtype[Any]
    probe_guess: npt.NDArray[np.complex64] | None

    @property
    def num_frames(self) -> int:
        """How many frames there are."""

    def shot(self, index: int) -> Shot:
        """The frame with that index."""


@dataclass(frozen=True)
class Simulation:
    """What a simulated scan is made of; lengths in m, `region_m` is the scan's centre (y, x) on the sample."""

    num_frames: int
    step_m: float
    region_m: tuple[float, float]
    photons: float
    sample_seed: int
    defocus_m: float


class SimulatedSource:
    """A spiral scan of the simulated sample."""

    def __init__(self, simulation: Simulation, geometry: Geometry, scan_id: str) -> None:
        """`scan_id` empty makes a new one; the noise is seeded by it, so a scan is the same when made again."""
        self.scan_id = scan_id or str(uuid.uuid4())
        self.geometry = geometry
        self.dtype = np.dtype(np.uint16)
        self.probe_guess: npt.NDArray[np.complex64] | None = None
        positions = spiral(simulation.num_frames, simulation.step_m, center_m=simulation.region_m)
        seed = uuid.uuid5(uuid.NAMESPACE_OID, self.scan_id).int % 2**32
        self._scan = SimulatedScan(
            geometry,
            positions,
            optics=Optics(defocus_m=simulation.defocus_m),
            sample=Sample(seed=simulation.sample_seed),
            photons=simulation.photons,
            seed=seed,
        )
        height, width = geometry.detector_shape_px
        self._block_frames = max(1, min(BLOCK_FRAMES, BLOCK_PX // (height * width)))
        self._block: npt.NDArray[np.uint16] | None = None
        self._block_start = 0

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return self._scan.num_frames

    def shot(self, index: int) -> Shot:
        """The frame with that index; frames are made in blocks."""
        if self._block is None or not 0 <= index - self._block_start < len(self._block):
            self._block, self._block_start = self._scan.frames(index, index + self._block_frames), index
        y_m, x_m = self._scan.position_m[index]
        return Shot(self._block[index - self._block_start], (float(y_m), float(x_m)), None)


class ReplayedSource:
    """The frames of a scan file, or of its left or right half, under the ids they had."""

    def __init__(self, path: Path, part: Part) -> None:
        """ScanFileError when the file cannot be read, or no position lies in that part of it."""
        self._scan: Scan = read_scan(path)
        self.scan_id = self._scan.scan_id
        self.geometry = self._scan.geometry
        self.dtype = self._scan.counts(0, 1).dtype
        self.probe_guess = self._scan.probe_guess
        x_m = self._scan.position_m[:, 1]
        middle = (x_m.min() + x_m.max()) / 2
        chosen = {"Whole": np.ones(len(x_m), bool), "Left half": x_m < middle, "Right half": x_m >= middle}[part]
        self._index = np.flatnonzero(chosen)
        if not len(self._index):
            raise ScanFileError(f"{path}: no position lies in its {part.lower()}")

    @property
    def num_frames(self) -> int:
        """How many frames there are."""
        return len(self._index)

    def shot(self, index: int) -> Shot:
        """The frame with that index; ScanFileError when the file has it no longer."""
        i = int(self._index[index])
        (counts,) = self._scan.counts(i, i + 1)
        y_m, x_m = self._scan.position_m[i]
        return Shot(counts, (float(y_m), float(x_m)), int(self._scan.unique_id[i]))
