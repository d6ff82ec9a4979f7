import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from phasing.frames import prepare
from phasing.geometry import Geometry
from phasing.simulate import Optics, Sample, SimulatedScan, simulate_frames, spiral

GEOMETRY = Geometry(energy_ev=10_400.0, distance_m=1.55, pixel_size_m=110e-6, detector_shape_px=(64, 64), crop_px=64)
POSITION_M = spiral(40, 100e-9, center_m=(2e-6, -3e-6))
ORIENTATIONS = list(itertools.product([False, True], [False, True], [False, True]))


def oriented_geometry(orientation: tuple[bool, bool, bool]) -> Geometry:
    transpose, flip_rows, flip_columns = orientation
    return replace(GEOMETRY, transpose=transpose, flip_rows=flip_rows, flip_columns=flip_columns)


def far_field(probe: NDArray[np.complex64], index: int, sample: Sample) -> NDArray[np.float64]:
    grid_m = (np.arange(64) - 32) * GEOMETRY.object_pixel_size_m
    y_m, x_m = POSITION_M[index]
    patch = sample.transmission(y_m + grid_m, x_m + grid_m, GEOMETRY.wavelength_m)
    intensity: NDArray[np.float64] = np.abs(np.fft.fftshift(np.fft.fft2(probe * patch))) ** 2
    return intensity


def test_beam_is_about_600_nm_wide_and_fills_the_cone() -> None:
    probe = Optics().probe(GEOMETRY)
    assert probe.dtype == np.complex64 and probe.shape == (64, 64)
    intensity = np.abs(probe) ** 2
    assert intensity.mean() == pytest.approx(1, rel=1e-5)
    profile = intensity[32] > intensity[32].max() / 2
    width_m = (np.flatnonzero(profile)[-1] - np.flatnonzero(profile)[0] + 1) * GEOMETRY.object_pixel_size_m
    assert 450e-9 < width_m < 700e-9
    cone = np.abs(np.fft.fftshift(np.fft.fft2(probe))) ** 2
    lit = np.flatnonzero(cone[32] > cone.max() / 2)
    assert 53 <= lit[-1] - lit[0] + 1 <= 58
    assert cone[32, 32] < 1e-3 * cone.max()


def test_defocus_spreads_the_beam() -> None:
    focused = np.abs(Optics(defocus_m=0.0).probe(GEOMETRY)) ** 2
    assert focused.max() > 5 * (np.abs(Optics().probe(GEOMETRY)) ** 2).max()


@pytest.mark.parametrize(("crop_px", "bin_px"), [(64, 1), (64, 2), (62, 2), (63, 3), (60, 4)])
def test_the_focus_lies_in_the_middle_pixel_of_even_and_odd_frames(crop_px: int, bin_px: int) -> None:
    geometry = replace(GEOMETRY, crop_px=crop_px, bin_px=bin_px)
    intensity = np.abs(Optics(defocus_m=0.0).probe(geometry)) ** 2
    assert np.unravel_index(intensity.argmax(), intensity.shape) == (geometry.frame_px // 2,) * 2


def test_binning_cuts_the_probe_out_of_the_same_wave() -> None:
    whole = Optics().probe(GEOMETRY)[16:48, 16:48]
    binned = Optics().probe(replace(GEOMETRY, bin_px=2))
    assert binned.shape == (32, 32)
    scale = np.vdot(whole, binned) / np.vdot(whole, whole)
    np.testing.assert_allclose(binned, scale * whole, atol=1e-5)


def test_sample_is_one_and_the_same_wherever_it_is_looked_at() -> None:
    grid_m = np.arange(50) * 26e-9
    phase = Sample(seed=3).phase_rad(grid_m, grid_m, GEOMETRY.wavelength_m)
    part = Sample(seed=3).phase_rad(grid_m[20:30], grid_m[40:], GEOMETRY.wavelength_m)
    np.testing.assert_array_equal(phase[20:30, 40:], part)
    assert np.abs(phase - Sample(seed=4).phase_rad(grid_m, grid_m, GEOMETRY.wavelength_m)).mean() > 0.5


def test_sample_is_tungsten_that_never_wraps() -> None:
    grid_m = np.arange(400) * 26e-9
    wave = Sample().transmission(grid_m, grid_m, GEOMETRY.wavelength_m)
    phase = Sample().phase_rad(grid_m, grid_m, GEOMETRY.wavelength_m)
    np.testing.assert_allclose(np.angle(wave), phase, atol=1e-5)
    assert phase.min() == pytest.approx(-2.0, abs=0.1) and phase.max() == pytest.approx(0, abs=1e-3)
    assert np.abs(wave).min() == pytest.approx(0.73, abs=0.01)
    assert 0.4 < (phase < -1).mean() < 0.6


def test_sample_has_no_symmetry() -> None:
    grid_m = np.arange(200) * 26e-9
    phase = Sample().phase_rad(grid_m, grid_m, GEOMETRY.wavelength_m)
    for transpose, flip_rows, flip_columns in ORIENTATIONS[1:]:
        other = phase.T if transpose else phase
        other = other[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        assert abs(np.corrcoef(phase.ravel(), other.ravel())[0, 1]) < 0.3


def test_frames_are_poisson_counts_of_the_far_field() -> None:
    scan = SimulatedScan(GEOMETRY, POSITION_M, photons=4e6)
    frames = scan.frames()
    assert frames.dtype == np.uint16 and frames.shape == (40, 64, 64)
    expected = far_field(scan.optics.probe(GEOMETRY), 7, scan.sample)
    expected *= frames[7].sum() / expected.sum()
    deviation = (frames[7] - expected) / np.sqrt(expected + 1)
    assert 0.9 < deviation.std() < 1.1


def test_photons_count_what_falls_on_the_sample() -> None:
    total = simulate_frames(GEOMETRY, POSITION_M, photons=2e5).sum(axis=(1, 2))
    assert (total < 2e5).all() and (total > 0.5 * 2e5).all()


def test_a_frame_is_the_same_in_whichever_block_it_comes() -> None:
    scan = SimulatedScan(GEOMETRY, POSITION_M)
    np.testing.assert_array_equal(scan.frames()[19:23], scan.frames(19, 23))
    assert len(scan.frames(38, 99)) == 2 and len(scan.frames(40, 41)) == 0
    assert (SimulatedScan(GEOMETRY, POSITION_M, seed=1).frames(0, 1) != scan.frames(0, 1)).any()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_prepare_restores_the_orientation_and_no_other_does(orientation: tuple[bool, bool, bool]) -> None:
    raw = SimulatedScan(oriented_geometry(orientation), POSITION_M).frames(0, 4)
    upright = SimulatedScan(GEOMETRY, POSITION_M).frames(0, 4)
    for other in ORIENTATIONS:
        prepared = prepare(raw, oriented_geometry(other))
        agrees = np.corrcoef(prepared.ravel(), upright.ravel())[0, 1] > 0.9
        assert agrees == (other == orientation)


def test_an_off_centre_crop_of_a_larger_detector_is_found_again() -> None:
    geometry = replace(GEOMETRY, detector_shape_px=(80, 100), crop_center_px=(33, 60), transpose=True)
    prepared = prepare(SimulatedScan(geometry, POSITION_M).frames(0, 2), geometry)
    np.testing.assert_array_equal(prepared, SimulatedScan(GEOMETRY, POSITION_M).frames(0, 2))


def test_true_phase_is_the_sample_about_the_position() -> None:
    scan = SimulatedScan(GEOMETRY, POSITION_M)
    y_m, x_m = POSITION_M[5]
    at_center = scan.sample.phase_rad(np.array([y_m]), np.array([x_m]), GEOMETRY.wavelength_m)
    assert scan.phase_rad(5)[32, 32] == at_center[0, 0]


def test_spiral_has_one_position_per_step_squared() -> None:
    position_m = spiral(2000, 50e-9, center_m=(1e-6, 2e-6))
    np.testing.assert_allclose(position_m.mean(axis=0), (1e-6, 2e-6), atol=20e-9)
    radius_m = np.hypot(*(position_m - (1e-6, 2e-6)).T)
    assert np.pi * radius_m.max() ** 2 / 2000 == pytest.approx((50e-9) ** 2, rel=0.01)
    distance_m = np.hypot(*(position_m[:, None] - position_m).transpose(2, 0, 1)) + np.eye(2000)
    assert distance_m.min(axis=1).min() > 35e-9
