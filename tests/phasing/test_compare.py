from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from phasing.compare import map_correlation, map_difference
from phasing.errors import PhaselineError
from phasing.stitch import StitchedMap


def picture(
    shape: tuple[int, int] = (80, 100), origin_m: tuple[float, float] = (-1e-6, 2e-6), pixel_size_m: float = 26e-9
) -> StitchedMap:
    y_m = origin_m[0] + np.arange(shape[0])[:, None] * pixel_size_m
    x_m = origin_m[1] + np.arange(shape[1]) * pixel_size_m
    phase = np.sin(2 * np.pi * y_m / 500e-9) * np.cos(2 * np.pi * x_m / 700e-9) + np.sin(2 * np.pi * (x_m + y_m) / 1e-6)
    return StitchedMap(phase.astype(np.float32), np.ones(shape, np.float32), origin_m, pixel_size_m)


def changed(source: StitchedMap, phase_rad: NDArray[np.floating]) -> StitchedMap:
    return replace(source, phase_rad=phase_rad.astype(np.float32))


def ramp(source: StitchedMap) -> NDArray[np.float64]:
    rows, columns = np.indices(source.phase_rad.shape)
    return np.asarray(3 + 0.05 * rows - 0.03 * columns)


def test_a_map_is_one_with_itself_and_minus_one_with_its_negative() -> None:
    one = picture()
    assert map_correlation(one, one) == pytest.approx(1)
    assert map_correlation(one, changed(one, -one.phase_rad)) == pytest.approx(-1)


def test_constant_ramp_and_scale_do_not_matter() -> None:
    one = picture()
    assert map_correlation(one, changed(one, 0.5 * one.phase_rad + ramp(one))) == pytest.approx(1, abs=1e-5)
    assert map_correlation(changed(one, one.phase_rad + 2 * ramp(one)), one) == pytest.approx(1, abs=1e-5)


def test_a_ramp_is_no_agreement() -> None:
    one = picture()
    noise = np.random.default_rng(0).standard_normal(one.phase_rad.shape)
    two = changed(one, noise + 10 * ramp(one))
    assert abs(map_correlation(changed(one, one.phase_rad + 10 * ramp(one)), two)) < 0.05


def test_maps_on_other_grids_agree_where_they_overlap() -> None:
    one = picture()
    for other in (
        picture((90, 60), (-0.5e-6 + 7e-9, 2.5e-6 + 11e-9)),
        picture((200, 150), (-1.1e-6, 1.9e-6), 13e-9),
        picture((60, 60), (-1.2e-6, 1.9e-6), 40e-9),
    ):
        assert map_correlation(one, other) > 0.99
        assert map_correlation(other, one) > 0.99


def test_a_map_in_the_wrong_place_does_not_agree() -> None:
    one = picture()
    assert map_correlation(one, replace(one, origin_m=(one.origin_m[0] + 250e-9, one.origin_m[1]))) < 0.6


def test_dim_pixels_are_left_out() -> None:
    one = picture()
    weight = np.ones_like(one.weight)
    spoilt = one.phase_rad.copy()
    weight[:, :30], spoilt[:, :30] = 0.05, np.random.default_rng(0).normal(0, 20, (80, 30))
    weight[:10], spoilt[:10] = 0, np.nan
    two = StitchedMap(spoilt, weight, one.origin_m, one.pixel_size_m)
    assert map_correlation(one, two) == pytest.approx(1, abs=1e-5)
    assert map_correlation(two, one) == pytest.approx(1, abs=1e-5)


def test_pixels_count_by_their_weight() -> None:
    one = picture()
    spoilt = one.phase_rad.copy()
    spoilt[:, :50] *= -1
    weight = np.ones_like(one.weight)
    weight[:, :50] = 0.2
    two = StitchedMap(spoilt, weight, one.origin_m, one.pixel_size_m)
    assert map_correlation(one, two) > map_correlation(one, replace(two, weight=np.ones_like(weight))) + 0.2


def test_a_flat_map_agrees_with_nothing() -> None:
    one = picture()
    assert map_correlation(one, changed(one, np.full_like(one.phase_rad, 1.5))) == 0


@pytest.mark.parametrize("away_m", [1e-3, -80 * 26e-9])
def test_maps_that_share_no_region_are_refused(away_m: float) -> None:
    one = picture()
    two = replace(one, origin_m=(one.origin_m[0] + away_m, one.origin_m[1]))
    for compare in (map_correlation, map_difference):
        with pytest.raises(PhaselineError, match="same region"):
            compare(one, two)


def test_difference_shows_what_differs_but_for_a_ramp() -> None:
    one = picture()
    bump = np.zeros_like(one.phase_rad)
    bump[40:44, 50:54] = 1
    difference = map_difference(changed(one, one.phase_rad + bump + ramp(one)), one)
    assert difference.origin_m == one.origin_m and difference.pixel_size_m == one.pixel_size_m
    inner = difference.phase_rad[:-1, :-1]
    np.testing.assert_allclose(inner, bump[:-1, :-1], atol=0.02)


def test_difference_is_nan_where_only_one_map_is() -> None:
    one = picture()
    two = picture((40, 100))
    difference = map_difference(one, two)
    assert np.isnan(difference.phase_rad[41:]).all() and (difference.weight[41:] == 0).all()
    assert np.isfinite(difference.phase_rad[:39, :99]).all()
