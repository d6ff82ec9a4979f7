"""One small simulated scan, its reconstruction and its training pairs, made once for all tests of the science."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import make_tiny_pairs

from phasing.card import ModelCard
from phasing.export import export_onnx
from phasing.geometry import Geometry
from phasing.pairs import PairSet, make_pairs
from phasing.retrieve import Reconstruction, RetrieveSettings, retrieve
from phasing.scanfile import Frame, Scan, ScanWriter, read_scan
from phasing.simulate import Optics, SimulatedScan, spiral
from phasing.train import TrainSettings, train

DEFOCUS_M = -75e-6


@pytest.fixture(scope="session")
def simulated() -> SimulatedScan:
    """120 frames of 64 x 64 with 26 nm pixels in the sample plane."""
    geometry = Geometry(
        energy_ev=10_400.0, distance_m=0.768, pixel_size_m=55e-6, detector_shape_px=(64, 64), crop_px=64
    )
    positions_m = spiral(120, 80e-9, center_m=(1e-6, -2e-6))
    return SimulatedScan(geometry, positions_m, optics=Optics(defocus_m=DEFOCUS_M), seed=3)


@pytest.fixture(scope="session")
def scan(simulated: SimulatedScan, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    writer = ScanWriter(path, "simulated", simulated.geometry, dtype=np.dtype(np.uint16))
    for index, counts in enumerate(simulated.frames()):
        y_m, x_m = simulated.position_m[index]
        writer.append(Frame(100 + index, 1.7e9 + index, "simulated", counts, (float(y_m), float(x_m))))
    return read_scan(writer.close())


@pytest.fixture(scope="session")
def settings() -> RetrieveSettings:
    return RetrieveSettings(num_epochs=20, batch_size=30, defocus_m=DEFOCUS_M, preview_every=10)


@pytest.fixture(scope="session")
def reconstruction(scan: Scan, settings: RetrieveSettings) -> Reconstruction:
    return retrieve(scan, settings, lambda report: None)


@pytest.fixture(scope="session")
def pairs(scan: Scan, reconstruction: Reconstruction, tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return make_pairs(scan, reconstruction, tmp_path_factory.mktemp("pairs") / "scan")


@pytest.fixture
def tiny_geometry() -> Geometry:
    return Geometry(energy_ev=10_000.0, distance_m=1.0, pixel_size_m=50e-6, detector_shape_px=(16, 16), crop_px=16)


@pytest.fixture
def tiny_pairs(tiny_geometry: Geometry, tmp_path: Path) -> Callable[..., PairSet]:
    """Makes pair sets of 80 frames of 16 x 16 whose phase can be read off the frame's brightness."""
    return partial(make_tiny_pairs, tiny_geometry, tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one short round on 16 x 16 frames."""
    geometry = Geometry(energy_ev=10_000.0, distance_m=1.0, pixel_size_m=50e-6, detector_shape_px=(16, 16), crop_px=16)
    folder = tmp_path_factory.mktemp("round")
    settings = TrainSettings(num_epochs=2, batch_size=16, threads=1, device="cpu")
    return train([make_tiny_pairs(geometry, folder)], settings, None, folder, lambda report: None).checkpoint_path


@dataclass(frozen=True)
class Exported:
    """A network as it travels: the ONNX file, the checkpoint it came from, and the draft of its card."""

    onnx_path: Path
    checkpoint_path: Path
    draft: ModelCard


@pytest.fixture(scope="session")
def exported(trained: Path) -> Exported:
    onnx_path = trained.with_name("model.onnx")
    return Exported(onnx_path, trained, export_onnx(trained, onnx_path, lineage="test-0123456789"))
