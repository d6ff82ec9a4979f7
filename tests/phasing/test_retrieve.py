import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from phasing.compare import map_correlation
from phasing.convert import tike_to_scan
from phasing.errors import RetrievalError
from phasing.initial import initial_object, initial_probe, propagate, valid_pixels
from phasing.reconstruction import flatten
from phasing.retrieve import EpochReport, Reconstruction, RetrievalCancelled, RetrieveSettings, retrieve
from phasing.scanfile import Scan, ScanWriter, read_scan
from phasing.simulate import SimulatedScan
from phasing.stitch import StitchedMap


def true_map(simulated: SimulatedScan, like: Reconstruction, shift_px: int = 0) -> StitchedMap:
    height, width = like.object.shape
    y_m = like.origin_m[0] + (np.arange(height) + shift_px) * like.pixel_size_m
    x_m = like.origin_m[1] + np.arange(width) * like.pixel_size_m
    phase_rad = simulated.sample.phase_rad(y_m, x_m, simulated.geometry.wavelength_m)
    return StitchedMap(phase_rad, like.illumination(), like.origin_m, like.pixel_size_m)


def test_finds_the_simulated_sample_at_its_place(reconstruction: Reconstruction, simulated: SimulatedScan) -> None:
    here = map_correlation(true_map(simulated, reconstruction), reconstruction.phase_map())
    assert here > 0.95
    for shift_px in (-2, 2):
        assert map_correlation(true_map(simulated, reconstruction, shift_px), reconstruction.phase_map()) < here


def test_the_probe_holds_the_frames_photons(reconstruction: Reconstruction, scan: Scan) -> None:
    photons = scan.counts().sum(axis=(1, 2)).mean()
    assert np.sum(np.abs(reconstruction.probe) ** 2) == pytest.approx(photons, rel=0.3)


def test_the_same_seed_gives_the_same_bits(scan: Scan, settings: RetrieveSettings) -> None:
    short = replace(settings, num_epochs=2)
    one, two = (retrieve(scan, short, lambda report: None) for _ in range(2))
    assert np.array_equal(one.object, two.object)
    assert np.array_equal(one.probe, two.probe)


def test_reports_every_epoch_and_a_preview_now_and_then(
    scan: Scan, settings: RetrieveSettings, capfd: pytest.CaptureFixture[str]
) -> None:
    reports: list[EpochReport] = []
    result = retrieve(scan, replace(settings, num_epochs=5, preview_every=2), reports.append)
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert [report.preview_rad is not None for report in reports] == [False, True, False, True, True]
    assert tuple(report.error for report in reports) == result.error_history
    assert reports[-1].error < reports[0].error
    assert reports[-1].preview_rad is not None
    assert reports[-1].preview_rad.shape == result.object.shape
    assert capfd.readouterr() == ("", "")


def test_can_be_cancelled_between_epochs(scan: Scan, settings: RetrieveSettings) -> None:
    reports: list[EpochReport] = []
    with pytest.raises(RetrievalCancelled, match="before epoch 3"):
        retrieve(scan, settings, reports.append, lambda: len(reports) == 2)


@pytest.mark.parametrize("cancelled", [False, True])
def test_torch_is_left_as_it_was(scan: Scan, settings: RetrieveSettings, cancelled: bool) -> None:
    with suppress(RetrievalCancelled):
        retrieve(scan, replace(settings, num_epochs=1), lambda report: None, lambda: cancelled)
    assert torch.overrides._get_current_function_mode_stack() == [], "a default device is a mode on that stack"


def test_several_probe_modes(scan: Scan, settings: RetrieveSettings) -> None:
    result = retrieve(scan, replace(settings, num_epochs=2, num_modes=2), lambda report: None)
    assert result.probe.shape == (2, 64, 64)


def test_goes_on_from_a_former_reconstruction(
    scan: Scan, settings: RetrieveSettings, reconstruction: Reconstruction, simulated: SimulatedScan
) -> None:
    short = replace(settings, num_epochs=1)
    anew = retrieve(scan, short, lambda report: None)
    further = retrieve(scan, short, lambda report: None, former=reconstruction)
    assert further.error_history[0] < 1.05 * reconstruction.error_history[-1] < 0.5 * anew.error_history[0]
    assert map_correlation(true_map(simulated, further), further.phase_map()) > 0.95
    more_modes = retrieve(scan, replace(short, num_modes=3), lambda report: None, former=reconstruction)
    assert more_modes.probe.shape == (3, 64, 64)
    assert more_modes.error_history[0] < 0.5 * anew.error_history[0]


def test_the_former_object_lies_where_it_lay(reconstruction: Reconstruction) -> None:
    """Between pixels it is the mean of its neighbours, which is exact for a plane; beyond it there is nothing."""
    pixel_m, (height, width) = reconstruction.pixel_size_m, reconstruction.object.shape
    rows, columns = np.indices((height, width))
    former = replace(reconstruction, object=(2j + 0.01 * rows - 0.02j * columns).astype(np.complex64))
    origin_m = (former.origin_m[0] - 3.25 * pixel_m, former.origin_m[1] + 1.5 * pixel_m)
    found = initial_object((height, width), origin_m, former.geometry, former)
    inside = np.s_[4 : height + 2, 0 : width - 3]
    expected = 2j + 0.01 * (rows - 3.25) - 0.02j * (columns + 1.5)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    assert (found[:3] == 1).all() and (found[:, width - 2 :] == 1).all()


def test_refuses_to_start_from_what_does_not_fit(
    scan: Scan, settings: RetrieveSettings, reconstruction: Reconstruction
) -> None:
    elsewhere = replace(reconstruction, origin_m=(1.0, 1.0))
    larger = replace(reconstruction, pixel_size_m=1.1 * reconstruction.pixel_size_m)
    cropped = replace(reconstruction, probe=reconstruction.probe[:, :32, :32])
    for former, text in ((elsewhere, "lies elsewhere"), (larger, "64 pixels"), (cropped, "32 pixels")):
        with pytest.raises(RetrievalError, match=f"to start from .*{text}"):
            retrieve(scan, settings, lambda report: None, former=former)


def test_refuses_a_scan_without_counts(scan: Scan, settings: RetrieveSettings, tmp_path: Path) -> None:
    empty = tmp_path / "empty.h5"
    empty.write_bytes(scan.path.read_bytes())
    with h5py.File(empty, "r+") as file:
        file["/entry_1/data_1/data"][:] = 0
    with pytest.raises(RetrievalError, match="no counts"):
        retrieve(read_scan(empty), settings, lambda report: None)


WRONG = [
    ({"num_epochs": 0}, "num_epochs must be at least 1"),
    ({"num_modes": 0}, "num_modes must be at least 1"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"num_gpus": 0}, "num_gpus must be at least 1"),
    ({"engine": "epie"}, "no phase retrieval engine is called 'epie': choose ptychi or tike"),
    ({"num_gpus": 2}, "num_gpus must be 1 with ptychi"),
    ({"engine": "tike", "object_alpha": 0.1}, "must be the same with tike"),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG)
def test_refuses_settings_that_cannot_be(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(RetrievalError, match=text):
        RetrieveSettings(**wrong)  # type: ignore[arg-type]


def test_is_kept_on_disk_as_it_is(reconstruction: Reconstruction, tmp_path: Path) -> None:
    path = tmp_path / "reconstruction.h5"
    reconstruction.save(path)
    loaded = Reconstruction.load(path)
    for name in ("object", "probe", "position_m", "unique_id"):
        assert np.array_equal(getattr(loaded, name), getattr(reconstruction, name))
    assert loaded.origin_m == reconstruction.origin_m
    assert loaded.error_history == reconstruction.error_history
    assert loaded.geometry.differences(reconstruction.geometry) == ()
    assert [entry.name for entry in tmp_path.iterdir()] == ["reconstruction.h5"]


def test_refuses_a_damaged_file(reconstruction: Reconstruction, tmp_path: Path) -> None:
    path = tmp_path / "reconstruction.h5"
    with pytest.raises(RetrievalError, match=r"reconstruction\.h5"):
        Reconstruction.load(path)
    reconstruction.save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(RetrievalError, match=r"reconstruction\.h5"):
        Reconstruction.load(path)


def test_flatten_removes_constant_and_ramp_even_when_it_wraps() -> None:
    generator = np.random.default_rng(0)
    pattern = generator.normal(0.0, 0.1, (90, 80))
    rows, columns = np.indices(pattern.shape)
    weight = np.ones(pattern.shape, np.float32)
    straight = flatten(np.exp(1j * pattern).astype(np.complex64), weight)
    tilted = np.exp(1j * (pattern + 0.4 * rows - 0.9 * columns + 2.0)).astype(np.complex64)
    assert np.abs(np.angle(flatten(tilted, weight) / straight)).max() < 1e-3


@pytest.mark.parametrize("scale", [1e6, 1e200, 1e308])
def test_positions_that_cannot_be_metres_are_refused(scan: Scan, settings: RetrieveSettings, scale: float) -> None:
    elsewhere = replace(scan, position_m=scan.position_m * scale)
    with pytest.raises(RetrievalError, match="are they metres") as raised:
        retrieve(elsewhere, settings, lambda report: None)
    assert len(str(raised.value)) < 150


def test_propagating_there_and_back_changes_nothing() -> None:
    field = np.random.default_rng(1).normal(size=(32, 32)).astype(np.complex128)
    there = propagate(field, 1e-4, 1.2e-10, 26e-9)
    assert not np.allclose(there, field)
    assert np.allclose(propagate(there, -1e-4, 1.2e-10, 26e-9), field)
    assert np.sum(np.abs(there) ** 2) == pytest.approx(np.sum(np.abs(field) ** 2))


def test_takes_the_scans_own_probe_and_refuses_one_that_does_not_fit(scan: Scan) -> None:
    counts = scan.counts().astype(np.float32)
    guess = np.zeros((64, 64), np.complex64)
    guess[32, 32] = 5.0
    probe = initial_probe(replace(scan, probe_guess=guess), counts, None, 1, 0)
    assert np.count_nonzero(probe) == 1
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(counts.sum(axis=(1, 2)).mean(), rel=1e-5)
    with pytest.raises(RetrievalError, match="shape"):
        initial_probe(replace(scan, probe_guess=guess[:32]), counts, None, 1, 0)


def test_masked_pixels_and_gaps_are_not_valid(scan: Scan, tmp_path: Path) -> None:
    mask = np.zeros((64, 64), bool)
    mask[3, 5] = True
    geometry = replace(scan.geometry, mask=mask, dark_counts=np.full((64, 64), 9.0, np.float32))
    with ScanWriter(tmp_path / "gap.h5", scan.scan_id, geometry, dtype=np.uint16) as writer:
        for frame in scan.frames(0, 3):
            gap = frame.counts.copy()
            gap[40:42, 7] = 65_535
            writer.append(replace(frame, counts=gap))
    valid = valid_pixels(read_scan(writer.path))
    assert np.argwhere(~valid).tolist() == [[3, 5], [40, 7], [41, 7]]


@pytest.mark.skipif("PHASELINE_DATA" not in os.environ, reason="PHASELINE_DATA names no folder with the real scan")
def test_the_real_siemens_star_shows_spokes(tmp_path: Path) -> None:
    source = Path(os.environ["PHASELINE_DATA"]) / "siemens-star-small.npz.bz2"
    path = tike_to_scan(source, tmp_path / "star.h5", energy_ev=8800.0, distance_m=2.335, pixel_size_m=75e-6)
    result = retrieve(read_scan(path), RetrieveSettings(num_epochs=8, preview_every=0), lambda report: None)
    assert _spoke_share(np.angle(result.flat_object()), -np.asarray(result.origin_m) / result.pixel_size_m) > 0.5


def _spoke_share(phase_rad: NDArray[np.float32], zero_px: NDArray[np.float64]) -> float:
    """Share of the phase's variance along a circle about the star's centre that lies at 27 to 31 spokes a turn.

    The star's centre was read off a long reconstruction: 28 pixels left of the position (0, 0).
    """
    angles_rad = np.linspace(0.0, 2.0 * np.pi, 720, endpoint=False)
    rows = np.rint(zero_px[0] + 110 * np.sin(angles_rad)).astype(int)
    columns = np.rint(zero_px[1] - 28 + 110 * np.cos(angles_rad)).astype(int)
    power = np.abs(np.fft.rfft(phase_rad[rows, columns])) ** 2
    return float(power[27:32].sum() / power[1:].sum())
