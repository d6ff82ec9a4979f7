import bz2
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from phasing.convert import tike_to_scan
from phasing.errors import GeometryError, ScanFileError
from phasing.frames import prepare
from phasing.scanfile import read_scan

NOMINAL = {"energy_ev": 8800.0, "distance_m": 1.92, "pixel_size_m": 75e-6}


def arrays(**changes: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "data": rng.integers(0, 900, (1, 20, 16, 16)).astype(np.float32),
        "scan": rng.uniform(-50, 50, (1, 20, 2)).astype(np.float32),
        "probe": (rng.random((1, 1, 1, 2, 16, 16)) + 1j).astype(np.complex64),
        **changes,
    }


def archive(path: Path, content: dict[str, NDArray[Any]]) -> Path:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **content)
    path.write_bytes(bz2.compress(buffer.getvalue()) if path.suffix == ".bz2" else buffer.getvalue())
    return path


@pytest.mark.parametrize("name", ["a.npz", "a.npz.bz2"])
def test_an_archive_becomes_a_scan(tmp_path: Path, name: str) -> None:
    content = arrays()
    output = tike_to_scan(archive(tmp_path / name, content), tmp_path / "scan.h5", **NOMINAL)
    scan = read_scan(output)
    np.testing.assert_array_equal(scan.counts(), np.fft.fftshift(content["data"][0], axes=(1, 2)))
    assert scan.counts().dtype == np.uint16
    np.testing.assert_allclose(scan.position_m / scan.geometry.object_pixel_size_m, content["scan"][0], rtol=1e-6)
    assert scan.probe_guess is not None
    np.testing.assert_array_equal(scan.probe_guess, content["probe"][0, 0, 0, 0])
    assert scan.unique_id.tolist() == list(range(1, 21))
    assert scan.nominal == ("energy_ev", "distance_m", "pixel_size_m")
    assert scan.geometry.energy_ev == pytest.approx(8800) and scan.geometry.distance_m == 1.92
    # Zero frequency, at [0, 0] in the archive, is where prepare promises it.
    np.testing.assert_array_equal(prepare(scan.counts(), scan.geometry)[:, 8, 8], content["data"][0, :, 0, 0])


def test_the_same_archive_is_always_the_same_scan(tmp_path: Path) -> None:
    ids = [
        read_scan(tike_to_scan(archive(tmp_path / f"{name}.npz", content), tmp_path / f"{name}.h5", **NOMINAL)).scan_id
        for name, content in (("a", arrays()), ("b", arrays()), ("c", arrays(scan=np.zeros((1, 20, 2)))))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_fractional_counts_stay_fractional(tmp_path: Path) -> None:
    content = arrays(data=arrays()["data"] + np.float32(0.25))
    scan = read_scan(tike_to_scan(archive(tmp_path / "a.npz", content), tmp_path / "scan.h5", **NOMINAL))
    assert scan.counts().dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scan": np.zeros((1, 19, 2))}, "20 frames but 19 positions"),
        ({"scan": np.full((1, 20, 2), np.nan)}, "NaN"),
        ({"scan": np.zeros((20, 2))}, "scan must be"),
        ({"data": np.zeros((20, 16, 16))}, "data must be"),
        ({"data": np.full((1, 20, 16, 16), np.nan)}, "NaN"),
        ({"scan": np.full((1, 20, 2), "a")}, "scan must be"),
        ({"scan": np.ones((1, 20, 2), complex)}, "scan must be"),
        ({"data": np.zeros((1, 0, 16, 16)), "scan": np.zeros((1, 0, 2))}, "no frames"),
        ({"probe": np.ones((1, 8, 8), np.complex64)}, "probe"),
        ({"probe": np.ones((0, 16, 16), np.complex64)}, "probe must be"),
        ({"probe": np.full((16, 16), "a")}, "probe must be"),
        ({"probe": np.full((16, 16), np.nan)}, "NaN"),
    ],
)
def test_a_contradictory_archive_is_refused(tmp_path: Path, changes: dict[str, NDArray[Any]], reason: str) -> None:
    source = archive(tmp_path / "a.npz", arrays(**changes))
    with pytest.raises(ScanFileError, match=reason):
        tike_to_scan(source, tmp_path / "scan.h5", **NOMINAL)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.npz.bz2", arrays()).read_bytes()
    for name, content in (("cut.npz.bz2", whole[:-500]), ("text.npz", b"no archive"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanFileError, match=name):
            tike_to_scan(tmp_path / name, tmp_path / "scan.h5", **NOMINAL)
    with pytest.raises(ScanFileError, match="missing"):
        tike_to_scan(tmp_path / "missing.npz", tmp_path / "scan.h5", **NOMINAL)
    with pytest.raises(ScanFileError, match="scan"):
        tike_to_scan(archive(tmp_path / "b.npz", {"data": np.zeros(3)}), tmp_path / "scan.h5", **NOMINAL)


def test_an_impossible_geometry_is_refused_by_name(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.npz", arrays())
    with pytest.raises(GeometryError, match="distance_m"):
        tike_to_scan(source, tmp_path / "scan.h5", **{**NOMINAL, "distance_m": 0.0})


def test_the_measured_siemens_star(tmp_path: Path) -> None:
    folder = os.environ.get("PHASELINE_DATA")
    if not folder or not (Path(folder) / "siemens-star-small.npz.bz2").is_file():
        pytest.skip("PHASELINE_DATA names no folder with siemens-star-small.npz.bz2")
    scan = read_scan(tike_to_scan(Path(folder) / "siemens-star-small.npz.bz2", tmp_path / "star.h5", **NOMINAL))
    assert scan.num_frames == 516 and scan.geometry.frame_px == 128
    prepared = prepare(scan.counts(), scan.geometry)
    assert prepared.sum(axis=(1, 2)).mean() == pytest.approx(461_000, rel=0.01)
    # The beam's cone surrounds zero frequency.
    mean = prepared.mean(axis=0)
    rows = np.arange(128)
    assert abs((mean.sum(axis=1) * rows).sum() / mean.sum() - 64) < 5
    assert abs((mean.sum(axis=0) * rows).sum() / mean.sum() - 64) < 5
