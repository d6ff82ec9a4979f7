import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from stitch_samples import BEAM, PIXEL_M, SIDE, bilinear, cut, positions, stitched, truth, waves, whole

from phasing.errors import FrameRejected
from phasing.stitch import BeyondMap, Stitcher


def test_patches_cut_anywhere_give_the_map_back_exactly_where_interpolation_is_exact() -> None:
    result = whole(stitched(cut(bilinear, positions())))
    known = np.isfinite(result.phase_rad)
    assert known.mean() > 0.9
    np.testing.assert_allclose(result.phase_rad[known], truth(result, bilinear)[known], atol=2e-5)


def test_patches_cut_anywhere_give_a_smooth_map_back() -> None:
    result = whole(stitched(cut(waves, positions())))
    known = result.weight > 0.1
    error = np.abs(result.phase_rad - truth(result, waves))[known]
    # Linear interpolation errs by (2 pi pixel / period)^2 / 8: 0.026 for both waves together.
    assert error.max() < 0.026
    shifted = np.abs(np.roll(result.phase_rad, 1, axis=0) - truth(result, waves))[known]
    assert np.median(shifted) > 10 * np.median(error)


def test_a_patch_lies_with_its_centre_pixel_at_its_position() -> None:
    patch = np.zeros((SIDE, SIDE), np.float32)
    patch[SIDE // 2, SIDE // 2] = 1
    result = whole(stitched([(patch, (7 * PIXEL_M, -3 * PIXEL_M))]))
    row, column = np.unravel_index(np.nanargmax(result.phase_rad), result.phase_rad.shape)
    assert result.origin_m[0] + row * PIXEL_M == pytest.approx(7 * PIXEL_M)
    assert result.origin_m[1] + column * PIXEL_M == pytest.approx(-3 * PIXEL_M)
    assert result.phase_rad[row, column] == pytest.approx(1, abs=1e-5)


def test_overlaps_are_averaged_by_weight() -> None:
    stitcher = Stitcher(SIDE, PIXEL_M, np.ones((SIDE, SIDE)))
    for value in (0.0, 1.0, 5.0):
        stitcher.add(np.full((SIDE, SIDE), value, np.float32), (0.0, 0.0))
    result = whole(stitcher)
    np.testing.assert_allclose(result.phase_rad, 2, atol=1e-6)
    np.testing.assert_allclose(result.weight, 3, atol=1e-6)


def test_pixels_without_weight_are_nan() -> None:
    weight = np.zeros((SIDE, SIDE))
    weight[10:20, 10:20] = 1
    result = whole(stitched(cut(waves, [(0.0, 0.0)]), weight))
    assert (np.isnan(result.phase_rad) == (result.weight == 0)).all()
    assert np.isfinite(result.phase_rad).sum() == 100


def test_the_order_of_patches_does_not_matter() -> None:
    patches = list(cut(waves, positions()))
    one, two = whole(stitched(patches)), whole(stitched(patches[::-1]))
    assert one.origin_m == two.origin_m
    np.testing.assert_allclose(one.phase_rad, two.phase_rad, atol=1e-5)


def test_the_map_grows_in_all_directions() -> None:
    for step in itertools.product((-1, 0, 1), repeat=2):
        places = [(10 * i * step[0] * PIXEL_M, 10 * i * step[1] * PIXEL_M) for i in range(40)]
        result = whole(stitched(cut(bilinear, places)))
        assert [side > 400 for side in result.phase_rad.shape] == [abs(one) == 1 for one in step]
        known = np.isfinite(result.phase_rad)
        np.testing.assert_allclose(result.phase_rad[known], truth(result, bilinear)[known], atol=1e-4)


def test_the_map_does_not_grow_without_bound() -> None:
    stitcher = Stitcher(SIDE, PIXEL_M, BEAM, max_canvas_px=64)
    patch = np.ones((SIDE, SIDE), np.float32)
    stitcher.add(patch, (0.0, 0.0))
    stitcher.add(patch, (30 * PIXEL_M, -30 * PIXEL_M))
    with pytest.raises(BeyondMap, match="64 px"):
        stitcher.add(patch, (40 * PIXEL_M, 0.0))
    assert whole(stitcher).phase_rad.shape == (61, 61)
    stitcher.add(patch, (0.0, 0.0))


@pytest.mark.parametrize("place_m", [(float("nan"), 0.0), (0.0, float("inf")), (0.0, 1e308)])
def test_a_position_that_is_not_finite_is_rejected(place_m: tuple[float, float]) -> None:
    with pytest.raises(FrameRejected, match="position"):
        Stitcher(SIDE, PIXEL_M, BEAM).add(np.ones((SIDE, SIDE), np.float32), place_m)


def test_a_prediction_that_is_not_finite_or_of_another_shape_is_rejected() -> None:
    stitcher = stitched(cut(waves, [(0.0, 0.0)]))
    spoilt = np.ones((SIDE, SIDE), np.float32)
    spoilt[3, 3] = np.nan
    for patch in (spoilt, np.ones((SIDE, SIDE - 1), np.float32)):
        with pytest.raises(FrameRejected, match="prediction"):
            stitcher.add(patch, (0.0, 0.0))
    assert np.isfinite(whole(stitcher).phase_rad).all()


@pytest.mark.parametrize("weight", [np.ones((SIDE, 3)), np.zeros((SIDE, SIDE)), -BEAM, BEAM * np.nan])
def test_an_unusable_weight_is_refused(weight: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="weight"):
        Stitcher(SIDE, PIXEL_M, weight)


def test_reset_forgets() -> None:
    stitcher = stitched(cut(waves, positions()))
    stitcher.reset()
    assert stitcher.map() is None and stitcher.consistency_rad is None and stitcher.consistency_ratio is None
    stitcher.add(np.full((SIDE, SIDE), 2, np.float32), (0.0, 0.0))
    np.testing.assert_allclose(whole(stitcher).phase_rad, 2)


def test_consistency_is_none_without_overlap() -> None:
    assert stitched(cut(waves, [(0.0, 0.0)])).consistency_rad is None
    assert stitched(cut(waves, [(0.0, 0.0), (50 * PIXEL_M, 0.0)])).consistency_rad is None


def test_consistency_is_zero_when_overlaps_agree() -> None:
    spread_rad = stitched(cut(bilinear, positions())).consistency_rad
    assert spread_rad is not None and spread_rad < 1e-5


@pytest.mark.parametrize("offset_rad", [0.0, 3.0])
@pytest.mark.parametrize("noise_rad", [1e-3, 0.3])
def test_consistency_is_the_noise_of_one_prediction(noise_rad: float, offset_rad: float) -> None:
    rng = np.random.default_rng(1)
    # Whole pixels, as interpolation would average the noise of neighbours.
    places = [tuple(np.round(np.array(place) / PIXEL_M) * PIXEL_M) for place in positions(300)]
    noisy = [
        (np.float32(offset_rad) + noise_rad * rng.standard_normal((SIDE, SIDE), np.float32), place) for place in places
    ]
    spread_rad = stitched(noisy).consistency_rad
    assert spread_rad == pytest.approx(noise_rad, rel=0.05)


def test_a_neighbour_s_faint_rim_does_not_pass_for_agreement() -> None:
    rng = np.random.default_rng(1)
    places = [(20 * i * PIXEL_M, 20 * j * PIXEL_M) for i in range(12) for j in range(12)]
    noisy = [(0.3 * rng.standard_normal((SIDE, SIDE), np.float32), place) for place in places]
    assert stitched(noisy).consistency_rad == pytest.approx(0.3, rel=0.1)


def test_the_ratio_ranks_a_collapsed_network_below_a_noisy_one() -> None:
    rng = np.random.default_rng(2)
    places = positions(300)
    sample = np.random.default_rng(3).standard_normal((SIDE, SIDE))
    good = [(patch + rng.normal(0, 0.3, patch.shape).astype(np.float32), place) for patch, place in cut(waves, places)]
    poor = [(patch + rng.normal(0, 1.0, patch.shape).astype(np.float32), place) for patch, place in cut(waves, places)]
    collapsed = [((0.1 * sample + rng.normal(0, 0.01, sample.shape)).astype(np.float32), place) for place in places]
    spreads = [stitched(patches).consistency_rad for patches in (good, poor, collapsed)]
    ratios = [stitched(patches).consistency_ratio for patches in (good, poor, collapsed)]
    assert spreads[2] is not None and spreads[0] is not None and spreads[2] < spreads[0]
    assert None not in ratios and ratios == sorted(ratios, key=lambda ratio: ratio or 0.0)


def test_the_ratio_of_a_flat_map_is_none() -> None:
    flat = [(np.ones((SIDE, SIDE), np.float32), place) for place in positions(5)]
    assert stitched(flat).consistency_ratio is None
