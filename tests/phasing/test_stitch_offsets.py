"""Constants between predictions: taken out where they should be, and no help to a network that knows nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray
from stitch_samples import PIXEL_M, SIDE, Patches, bilinear, cut, positions, stitched, truth, waves, whole

from phasing.stitch import StitchedMap, Stitcher


def raster(lines: int = 14, step_px: float = 5.3) -> list[tuple[float, float]]:
    steps = (np.arange(lines) - lines / 2) * step_px * PIXEL_M
    return [(float(y_m), float(x_m)) for y_m in steps for x_m in steps]


def aligned(patches: Patches) -> Stitcher:
    return stitched(patches, align_offsets=True)


def with_constants(patches: Patches, spread_rad: float, noise_rad: float = 0.0) -> Patches:
    rng = np.random.default_rng(5)
    return [
        (
            patch
            + np.float32(rng.normal(0, spread_rad))
            + np.float32(noise_rad) * rng.standard_normal(patch.shape, "f4"),
            at,
        )
        for patch, at in patches
    ]


def mean_rad(result: StitchedMap, error: NDArray[np.floating]) -> float:
    return float(np.average(np.where(result.weight > 0, error, 0), weights=result.weight))


def rms_rad(result: StitchedMap, error: NDArray[np.floating]) -> float:
    """Weighted standard deviation: an error of the map as a whole does not count."""
    return float(np.sqrt(mean_rad(result, (error - mean_rad(result, error)) ** 2)))


def test_random_constants_leave_no_trace_but_one_for_the_whole_map() -> None:
    places = raster()
    result = whole(aligned(with_constants(cut(bilinear, places), 1.0)))
    error = result.phase_rad - truth(result, bilinear)
    known = np.isfinite(error)
    np.testing.assert_allclose(error[known], error[known].mean(), atol=1e-3)
    rough = whole(stitched(with_constants(cut(bilinear, places), 1.0)))
    assert rms_rad(rough, rough.phase_rad - truth(rough, bilinear)) > 0.1


def test_the_mean_of_the_map_stays_that_of_the_predictions() -> None:
    patches = list(with_constants(cut(waves, raster()), 1.0))
    one, two = whole(stitched(patches)), whole(aligned(patches))
    assert mean_rad(two, two.phase_rad) == pytest.approx(mean_rad(one, one.phase_rad), abs=1e-4)


def test_constants_of_zero_change_nothing() -> None:
    one, two = whole(stitched(cut(bilinear, raster()))), whole(aligned(cut(bilinear, raster())))
    np.testing.assert_array_equal(one.weight, two.weight)
    np.testing.assert_allclose(one.phase_rad, two.phase_rad, atol=1e-4)


def test_predictions_that_do_not_overlap_keep_their_constants() -> None:
    flat = [(np.full((SIDE, SIDE), value, np.float32), (0.0, value * 100 * PIXEL_M)) for value in (1.0, 5.0, 2.5)]
    result = whole(aligned(flat))
    lit = result.phase_rad[result.weight > 0.5]
    assert set(np.round(lit, 4)) == {1.0, 2.5, 5.0}


def test_noise_does_not_let_the_constants_drift_over_a_long_scan() -> None:
    patches = list(with_constants(cut(waves, raster(40, 6.3)), 0.5, noise_rad=0.3))
    smooth = whole(aligned(patches))
    rough = whole(stitched(patches))
    error_rad = [rms_rad(result, result.phase_rad - truth(result, waves)) for result in (smooth, rough)]
    assert error_rad[0] < 0.5 * error_rad[1]
    error = smooth.phase_rad - truth(smooth, waves)
    quarters = [part for half in np.array_split(error[20:-20, 20:-20], 2) for part in np.array_split(half, 2, axis=1)]
    assert np.ptp([np.nanmean(quarter) for quarter in quarters]) < 0.1


def test_constants_count_as_disagreement() -> None:
    patches = list(cut(bilinear, raster()))
    agreed, disagreed = aligned(patches).consistency_rad, aligned(with_constants(patches, 0.4)).consistency_rad
    assert agreed is not None and agreed < 1e-3
    assert disagreed is not None and disagreed == pytest.approx(0.4, rel=0.15)


@pytest.mark.parametrize("collapse", ["noise", "constants", "pattern", "ramp"])
def test_a_collapsed_network_is_trusted_least_though_constants_are_taken(collapse: str) -> None:
    rng = np.random.default_rng(2)
    places = raster(24, 5.3)
    good = with_constants(cut(waves, places), 0.2, noise_rad=0.3)
    fixed = {
        "noise": np.zeros((SIDE, SIDE)),
        "constants": np.zeros((SIDE, SIDE)),
        "pattern": 0.1 * rng.standard_normal((SIDE, SIDE)),
        "ramp": np.add.outer(np.linspace(-0.5, 0.5, SIDE), np.linspace(-0.5, 0.5, SIDE)),
    }[collapse]
    always = [(fixed.astype(np.float32), place) for place in places]
    collapsed = with_constants(always, 0.1 if collapse == "constants" else 0.0, noise_rad=0.01)
    ratio_good, ratio_collapsed = (aligned(patches).consistency_ratio for patches in (good, collapsed))
    assert ratio_good is not None and ratio_collapsed is not None
    assert ratio_collapsed > max(0.85, 2 * ratio_good)


def test_positions_in_any_order_give_the_same_map_once_all_overlap() -> None:
    patches = list(with_constants(cut(bilinear, positions(60, reach_px=10.0)), 1.0))
    one, two = whole(aligned(patches)), whole(aligned(patches[::-1]))
    np.testing.assert_allclose(one.phase_rad, two.phase_rad, atol=2e-3)
