import numpy as np
import pytest

from phasing.geometry import Geometry
from phasing.simulate import Optics
from phasing.symmetry import OPERATIONS, probe_overlaps, turned


def frame(exit_wave: np.ndarray) -> np.ndarray:
    """What a far-field detector counts, zero frequency at [n // 2, n // 2]."""
    return np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(exit_wave)))) ** 2


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
def test_the_frame_of_the_turned_sample_is_the_turned_frame_where_the_probe_allows(operation: int) -> None:
    geometry = Geometry(
        energy_ev=10_400.0, distance_m=0.768, pixel_size_m=55e-6, detector_shape_px=(64, 64), crop_px=64
    )
    round_probe = Optics(defocus_m=-75e-6).probe(geometry)
    generator = np.random.default_rng(0)
    sample = np.exp(1j * generator.normal(0, 0.5, (64, 64)))
    turned_frame, of_turned = (
        turned(frame(round_probe * sample), operation),
        frame(round_probe * turned(sample, operation)),
    )
    scale = of_turned.max()
    # the wave at the highest frequency's row has no mirror image: it is as good as dark
    assert np.abs(turned_frame - of_turned).max() < 1e-3 * scale
    skew = round_probe * np.exp(1j * np.linspace(0, 3, 64))[:, None] * np.linspace(0, 1, 64)
    allowed = probe_overlaps(skew[None])[operation] > 0.99
    assert allowed == (
        np.abs(turned(frame(skew * sample), operation) - frame(skew * turned(sample, operation))).max() < 1e-3 * scale
    )


def test_a_round_probe_is_its_own_image_and_a_skew_one_is_not() -> None:
    axis = np.arange(16) - 8
    gauss = np.exp(-(axis[:, None] ** 2 + axis**2) / 8.0)
    assert probe_overlaps(np.stack([gauss, 1j * gauss])) == pytest.approx([1.0] * 8, abs=1e-6)
    upright = np.exp(-(axis[:, None] ** 2 / 16.0 + axis**2 / 4.0))
    overlaps = dict(zip(OPERATIONS, probe_overlaps(upright[None]), strict=True))
    assert overlaps[False, True, True] == pytest.approx(1.0, abs=1e-6)
    assert overlaps[True, False, False] < 0.9


def test_turning_keeps_the_middle_and_is_undone_by_its_inverse() -> None:
    patch = np.arange(64.0).reshape(1, 8, 8)
    for operation, (transpose, *flips) in enumerate(OPERATIONS):
        found = turned(patch, operation)
        assert found[0, 4, 4] == patch[0, 4, 4]
        # a turn by a quarter is undone by three more
        times = 4 if transpose and sum(flips) == 1 else 2
        for _ in range(times - 1):
            found = turned(found, operation)
        assert np.array_equal(found, patch)
