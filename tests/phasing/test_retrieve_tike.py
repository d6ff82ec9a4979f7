"""tike as the engine of phase retrieval: on a real GPU where there is one, and what it says where there is none."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_retrieve import true_map

from phasing.compare import map_correlation
from phasing.engines.hardware import has_gpu
from phasing.errors import MissingExtra, RetrievalError
from phasing.retrieve import EpochReport, Reconstruction, RetrievalCancelled, RetrieveSettings, retrieve
from phasing.scanfile import Scan, ScanWriter, read_scan
from phasing.simulate import SimulatedScan

HAS_TIKE = has_gpu() and all(importlib.util.find_spec(name) for name in ("cupy", "tike"))
on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not HAS_TIKE, reason="there is no CUDA GPU with tike here")]


def with_marks(test: object) -> object:
    for mark in on_gpu:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def tike_settings() -> RetrieveSettings:
    return RetrieveSettings(engine="tike", num_epochs=40, batch_size=30, defocus_m=-75e-6, preview_every=10)


@pytest.fixture(scope="module")
def by_tike(scan: Scan, tike_settings: RetrieveSettings) -> Reconstruction:
    return retrieve(scan, tike_settings, lambda report: None)


@with_marks
def test_finds_the_simulated_sample_at_its_place(by_tike: Reconstruction, simulated: SimulatedScan) -> None:
    here = map_correlation(true_map(simulated, by_tike), by_tike.phase_map())
    assert here > 0.95
    for shift_px in (-1, 1):
        assert map_correlation(true_map(simulated, by_tike, shift_px), by_tike.phase_map()) < here


@with_marks
def test_agrees_with_ptychi(by_tike: Reconstruction, reconstruction: Reconstruction) -> None:
    assert map_correlation(by_tike.phase_map(), reconstruction.phase_map()) > 0.97
    overlap = np.vdot(by_tike.probe[0], reconstruction.probe[0])
    powers = [float(np.sum(np.abs(one.probe[0]) ** 2)) for one in (by_tike, reconstruction)]
    assert abs(overlap) / np.sqrt(powers[0] * powers[1]) > 0.95
    assert powers[0] == pytest.approx(powers[1], rel=0.3)
    assert by_tike.error_history[-1] == pytest.approx(reconstruction.error_history[-1], rel=1.0)
    assert by_tike.error_history[-1] < 0.5 * by_tike.error_history[0]


@with_marks
def test_goes_on_from_a_former_reconstruction(scan: Scan, tike_settings: RetrieveSettings) -> None:
    short = replace(tike_settings, num_epochs=10)
    first = retrieve(scan, short, lambda report: None)
    further = retrieve(scan, replace(short, num_epochs=1), lambda report: None, former=first)
    assert further.error_history[0] < 1.1 * first.error_history[-1] < 0.8 * first.error_history[0]


@with_marks
def test_reports_every_epoch_and_a_preview_now_and_then(scan: Scan, tike_settings: RetrieveSettings) -> None:
    reports: list[EpochReport] = []
    result = retrieve(scan, replace(tike_settings, num_epochs=5, preview_every=2), reports.append)
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert [report.preview_rad is not None for report in reports] == [False, True, False, True, True]
    assert tuple(report.error for report in reports) == result.error_history


@with_marks
def test_can_be_cancelled_between_epochs_and_begun_again(scan: Scan, tike_settings: RetrieveSettings) -> None:
    reports: list[EpochReport] = []
    with pytest.raises(RetrievalCancelled, match="before epoch 3"):
        retrieve(scan, tike_settings, reports.append, lambda: len(reports) == 2)
    assert retrieve(scan, replace(tike_settings, num_epochs=1), lambda report: None).error_history


@with_marks
def test_several_probe_modes(scan: Scan, tike_settings: RetrieveSettings, simulated: SimulatedScan) -> None:
    """The simulated light is coherent: the second mode fades, slowly, as tike shares a step out among modes."""
    result = retrieve(scan, replace(tike_settings, num_modes=2, num_epochs=160), lambda report: None)
    assert result.probe.shape == (2, 64, 64)
    power = np.sum(np.abs(result.probe) ** 2, axis=(1, 2))
    assert power[1] < 0.03 * power[0]
    assert map_correlation(true_map(simulated, result), result.phase_map()) > 0.97


@with_marks
def test_bad_pixels_count_for_nothing(
    scan: Scan, tike_settings: RetrieveSettings, simulated: SimulatedScan, tmp_path: Path
) -> None:
    mask = np.zeros((64, 64), bool)
    mask[30:32, 33:35] = True
    path = tmp_path / "hot.h5"
    with ScanWriter(path, scan.scan_id, replace(scan.geometry, mask=mask), dtype=np.uint16) as writer:
        for frame in scan.frames():
            counts = frame.counts.copy()
            counts[mask] = 60_000
            writer.append(replace(frame, counts=counts))
    result = retrieve(read_scan(path), tike_settings, lambda report: None)
    assert map_correlation(true_map(simulated, result), result.phase_map()) > 0.93


@with_marks
def test_more_gpus_than_there_are_are_refused(scan: Scan, tike_settings: RetrieveSettings) -> None:
    with pytest.raises(RetrievalError, match="tike needs 99 CUDA GPUs, and"):
        retrieve(scan, replace(tike_settings, num_gpus=99), lambda report: None)


def test_without_cupy_the_extra_is_named(
    scan: Scan, tike_settings: RetrieveSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingExtra, match=r"cupy is not installed: pip install 'phaseline\[tike\]'"):
        retrieve(scan, tike_settings, lambda report: None)


def test_without_a_gpu_it_says_so(scan: Scan, tike_settings: RetrieveSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriverError(Exception):
        """As CuPy's own."""

    def count() -> int:
        raise NoDriverError

    runtime = SimpleNamespace(CUDARuntimeError=NoDriverError, getDeviceCount=count)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    with pytest.raises(RetrievalError, match="tike needs 1 CUDA GPU, and 0 are here"):
        retrieve(scan, tike_settings, lambda report: None)
