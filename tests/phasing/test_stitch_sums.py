"""What is kept up to date with every prediction is what a look at the whole map would give."""

import math
import tracemalloc
from threading import Event, Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from stitch_samples import BEAM, PIXEL_M, SIDE, bilinear, cut, positions, truth, waves, whole

from phasing.stitch import StitchedMap, Stitcher, patch_weight

LIMIT_S = 300.0


def direct(
    patches: list[NDArray[np.float32]], corners: NDArray[np.int64], weight: NDArray[np.float64]
) -> tuple[float, float]:
    """Spread in rad and its ratio to the map's contrast, from all predictions at once, at whole pixels."""
    side = len(weight)
    size = int(corners.max()) + side
    values, weights = np.zeros((len(patches), size, size)), np.zeros((len(patches), size, size))
    for index, (row, column) in enumerate(corners):
        values[index, row : row + side, column : column + side] = patches[index]
        weights[index, row : row + side, column : column + side] = weight
    total = weights.sum(axis=0)
    lit = total > 0
    values, weights, total = values[:, lit], weights[:, lit], total[lit]
    mean = (values * weights).sum(axis=0) / total
    freedom = total - (weights**2).sum(axis=0) / total
    spread_rad = math.sqrt((weights * (values - mean) ** 2).sum() / freedom.sum())
    return spread_rad, spread_rad / math.sqrt(float(np.cov(mean, aweights=total, ddof=0)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("offset_rad", [0.0, 30.0])
def test_trust_is_that_of_a_direct_look_at_all_predictions(seed: int, offset_rad: float) -> None:
    rng = np.random.default_rng(seed)
    side, num = int(rng.integers(2, 40)), int(rng.integers(5, 40))
    weight = rng.uniform(0, 1, (side, side)) ** 3 * (rng.uniform(0, 1, (side, side)) > 0.2) + 1e-3 * np.eye(side)
    # At whole pixels, a patch of n gives n - 1 rows and columns: the last ones are only interpolated towards.
    corners = rng.integers(0, 2 * side, (num, 2))
    patches = [(offset_rad + rng.normal(0, 0.5, (side, side)) + 0.3 * np.sin(row)).astype("f4") for row, _ in corners]
    # A power of two, so that whole pixels stay whole in m.
    stitcher = Stitcher(side, 2.0**-25, weight)
    for patch, (row, column) in zip(patches, corners, strict=True):
        stitcher.add(patch, ((row + side // 2) * 2.0**-25, (column + side // 2) * 2.0**-25))
    spread_rad, ratio = direct([patch[:-1, :-1] for patch in patches], corners, weight[:-1, :-1])
    assert stitcher.consistency_rad == pytest.approx(spread_rad, rel=1e-4)
    assert stitcher.consistency_ratio == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("align_offsets", [False, True])
def test_the_ratio_is_to_the_contrast_of_the_map_that_is_shown(align_offsets: bool) -> None:
    stitcher = Stitcher(SIDE, PIXEL_M, BEAM, align_offsets=align_offsets)
    rng = np.random.default_rng(4)
    for patch, place_m in cut(waves, positions()):
        stitcher.add(patch + rng.normal(2, 0.4, patch.shape).astype("f4"), place_m)
    result = whole(stitcher)
    lit = result.weight > 0
    contrast_rad = math.sqrt(float(np.cov(result.phase_rad[lit], aweights=result.weight[lit], ddof=0)))
    assert stitcher.consistency_rad is not None
    assert stitcher.consistency_ratio == pytest.approx(stitcher.consistency_rad / contrast_rad, rel=1e-4)


def test_sums_stay_true_over_many_predictions_at_one_place() -> None:
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((8, 8)).astype("f4")
    noise = (0.2 * rng.standard_normal((64, 8, 8))).astype("f4")
    noise -= noise.mean(axis=0)
    stitcher = Stitcher(8, PIXEL_M, np.ones((8, 8)))
    for index in range(64 * 200):
        stitcher.add(sample + noise[index % 64], (0.0, 0.0))
    spread_rad = math.sqrt(float((noise[:, :-1, :-1] ** 2).mean()))
    assert stitcher.consistency_rad == pytest.approx(spread_rad, rel=1e-3)
    assert stitcher.consistency_ratio == pytest.approx(spread_rad / sample[:-1, :-1].std(), rel=1e-3)
    np.testing.assert_allclose(whole(stitcher).phase_rad, sample[:-1, :-1], atol=1e-3)


def test_a_flat_map_has_no_ratio_whatever_its_level() -> None:
    for level_rad in (0.1, -3.0, 1.7):
        stitcher = Stitcher(SIDE, PIXEL_M, BEAM)
        for place_m in positions(50):
            stitcher.add(np.full((SIDE, SIDE), level_rad, np.float32), place_m)
        assert stitcher.consistency_ratio is None


def test_adding_takes_no_memory_whatever_the_canvas() -> None:
    side = 128
    stitcher = Stitcher(side, PIXEL_M, np.ones((side, side)), align_offsets=True)
    patch = np.random.default_rng(0).standard_normal((side, side), "f4")
    for end in (-700, 700):
        stitcher.add(patch, (end * PIXEL_M, end * PIXEL_M))
    stitcher.add(patch, (0.0, 0.0))
    tracemalloc.start()
    try:
        for step in range(20):
            stitcher.add(patch, (1.3 * step * PIXEL_M, -0.7 * step * PIXEL_M))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * patch.nbytes  # a hundredth of the canvas; other threads of this process take memory as well


def test_a_map_taken_while_another_thread_adds_is_right_in_every_pixel() -> None:
    stitcher = Stitcher(SIDE, PIXEL_M, BEAM)
    places = positions(800, reach_px=300.0)
    patches = list(cut(bilinear, places))
    stitcher.add(*patches[0])
    found: list[StitchedMap] = []
    begun, done = Event(), Event()

    def take_maps() -> None:
        while not done.is_set():
            found.append(whole(stitcher))
            begun.set()

    thread = Thread(target=take_maps)
    thread.start()
    try:
        assert begun.wait(LIMIT_S)
        for patch, place_m in patches:
            stitcher.add(patch, place_m)
    finally:
        done.set()
        thread.join(LIMIT_S)
    assert not thread.is_alive()
    for result in [found[0], *found[-5:]]:
        assert (np.isnan(result.phase_rad) == (result.weight == 0)).all()
        known = np.isfinite(result.phase_rad)
        np.testing.assert_allclose(result.phase_rad[known], truth(result, bilinear)[known], atol=1e-3)


def test_a_map_is_a_copy() -> None:
    stitcher = Stitcher(SIDE, PIXEL_M, BEAM)
    patch = np.ones((SIDE, SIDE), np.float32)
    stitcher.add(patch, (0.0, 0.0))
    former = whole(stitcher)
    stitcher.add(3 * patch, (0.0, 0.0))
    np.testing.assert_allclose(former.phase_rad, 1)
    np.testing.assert_allclose(whole(stitcher).phase_rad, 2)


def test_the_weight_is_the_probe_s_or_flat_or_falls_from_the_centre() -> None:
    probe, flat = patch_weight(7 * BEAM, "probe"), patch_weight(7 * BEAM, "flat")
    np.testing.assert_allclose(probe, BEAM / BEAM.max(), rtol=1e-6)
    assert (flat == 1).all()
    centre = patch_weight(BEAM, "center")
    assert centre.dtype == np.float32 and centre.shape == BEAM.shape
    assert centre[SIDE // 2, SIDE // 2] == centre.max() == 1 and centre.min() > 0
    assert (np.diff(centre[SIDE // 2, SIDE // 2 :]) < 0).all() and (np.diff(centre[: SIDE // 2 + 1, 3]) > 0).all()
    for weight in (probe, flat, centre):
        Stitcher(SIDE, PIXEL_M, weight)


@pytest.mark.parametrize("intensity", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.ones(4)])
def test_a_probe_that_lights_nothing_gives_no_weight(intensity: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="probe"):
        patch_weight(intensity, "flat")


def test_an_unknown_kind_of_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="flat or center"):
        patch_weight(BEAM, "round")  # type: ignore[arg-type]
