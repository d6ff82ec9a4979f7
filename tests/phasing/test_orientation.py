"""The right orientation of the detector gives the sample, each of the seven wrong ones does not."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from phasing.compare import map_correlation
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.retrieve import RetrieveSettings, retrieve
from phasing.scanfile import Scan, ScanWriter, read_scan
from phasing.simulate import Optics, Sample, SimulatedScan, spiral
from phasing.stitch import StitchedMap

Orientation = tuple[bool, bool, bool]
ORIENTATIONS = list(product((False, True), repeat=3))
OPTICS = Optics(defocus_m=-150e-6)
FINE_SAMPLE = Sample(feature_m=120e-9)
SETTINGS = RetrieveSettings(num_epochs=15, batch_size=25, defocus_m=-150e-6, preview_every=0)


def geometry(orientation: Orientation) -> Geometry:
    transpose, flip_rows, flip_columns = orientation
    return Geometry(
        energy_ev=10_400.0,
        distance_m=0.768,
        pixel_size_m=55e-6,
        detector_shape_px=(68, 72),
        crop_px=64,
        crop_center_px=(33, 37),
        transpose=transpose,
        flip_rows=flip_rows,
        flip_columns=flip_columns,
    )


def measured(orientation: Orientation, path: Path) -> tuple[SimulatedScan, Scan]:
    simulated = SimulatedScan(geometry(orientation), spiral(100, 80e-9), optics=OPTICS, sample=FINE_SAMPLE)
    writer = ScanWriter(path, "asymmetric", simulated.geometry, dtype=np.dtype(np.uint16))
    for index, counts in enumerate(simulated.frames()):
        y_m, x_m = simulated.position_m[index]
        writer.append(Frame(index, 1.7e9, "asymmetric", counts, (float(y_m), float(x_m))))
    return simulated, read_scan(writer.close())


def correlation(simulated: SimulatedScan, scan: Scan, orientation: Orientation) -> float:
    result = retrieve(replace(scan, geometry=geometry(orientation)), SETTINGS, lambda report: None)
    y_m, x_m = (
        result.origin_m[axis] + np.arange(side) * result.pixel_size_m for axis, side in enumerate(result.object.shape)
    )
    truth_rad = simulated.sample.phase_rad(y_m, x_m, simulated.geometry.wavelength_m)
    truth = StitchedMap(truth_rad, result.illumination(), result.origin_m, result.pixel_size_m)
    return map_correlation(truth, result.phase_map())


@pytest.mark.parametrize("true", [(False, False, False), (True, True, False)])
def test_only_the_true_orientation_gives_the_sample(true: Orientation, tmp_path: Path) -> None:
    simulated, scan = measured(true, tmp_path / "scan.h5")
    found = {orientation: correlation(simulated, scan, orientation) for orientation in ORIENTATIONS}
    assert found.pop(true) > 0.9
    assert max(found.values()) < 0.5, found
