"""Fourier ring correlation of maps whose agreement is known."""

import numpy as np
import pytest

from phasing.errors import PhaselineError
from phasing.ring import ring_correlation
from phasing.stitch import StitchedMap

PIXEL_M = 10e-9
SIDE = 96


def phase_map(phase_rad: np.ndarray, origin_m: tuple[float, float] = (0.0, 0.0)) -> StitchedMap:
    weight = np.zeros((SIDE, SIDE), np.float32)
    weight[8:-8, 8:-8] = 1.0
    return StitchedMap(phase_rad.astype(np.float32), weight, origin_m, PIXEL_M)


def noise(seed: int, cutoff: float = 1.0) -> np.ndarray:
    """White noise, 1 rad, without what lies above a share of Nyquist's frequency."""
    white = np.fft.fft2(np.random.default_rng(seed).normal(size=(SIDE, SIDE)))
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    white[radius > 0.5 * cutoff] = 0
    return np.real(np.fft.ifft2(white))


def test_the_same_map_agrees_at_all_frequencies_whatever_its_constant_and_ramp() -> None:
    first = noise(0)
    rows, columns = np.indices(first.shape)
    rings = ring_correlation(phase_map(first), phase_map(first + 0.4 + 0.01 * rows - 0.02 * columns))
    assert rings.correlation.min() > 0.99
    assert rings.mean == pytest.approx(1.0, abs=0.01)
    assert rings.resolution_m == 2 * PIXEL_M
    assert rings.frequency_per_m[-1] == pytest.approx(0.5 / PIXEL_M)


def test_two_noises_do_not_agree() -> None:
    rings = ring_correlation(phase_map(noise(0)), phase_map(noise(1)))
    assert abs(rings.mean) < 0.2
    assert rings.resolution_m > 10 * PIXEL_M


@pytest.mark.parametrize("cutoff", [0.3, 0.6])
def test_the_resolution_is_where_the_agreement_ends(cutoff: float) -> None:
    shared = noise(0, cutoff)
    maps = [phase_map(shared + 0.3 * (noise(seed) - noise(seed, cutoff))) for seed in (1, 2)]
    assert ring_correlation(*maps).resolution_m == pytest.approx(2 * PIXEL_M / cutoff, rel=0.15)


@pytest.mark.parametrize("shift_px", [(0.4, -0.3), (1.5, 2.0)])
def test_a_shift_between_the_two_is_found_and_does_not_count(shift_px: tuple[float, float]) -> None:
    smooth = noise(0, 0.3)
    rows, columns = np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)
    turn = np.exp(-2j * np.pi * (shift_px[0] * rows + shift_px[1] * columns))
    moved = np.real(np.fft.ifft2(np.fft.fft2(smooth) * turn))
    rings = ring_correlation(phase_map(smooth), phase_map(moved))
    assert rings.correlation[:10].min() > 0.9


def test_maps_of_different_places_are_refused() -> None:
    with pytest.raises(PhaselineError, match="do not show the same region"):
        ring_correlation(phase_map(noise(0)), phase_map(noise(0), (1e-3, 0.0)))
    with pytest.raises(PhaselineError, match="share a square of"):
        ring_correlation(phase_map(noise(0)), phase_map(noise(0), (70 * PIXEL_M, 0.0)))
