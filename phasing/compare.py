"""Comparing two phase maps of one region: live map against reconstruction, one model against another.

A phase map is known up to a constant, and a ramp in it is a shift of the diffraction patterns; both are removed from
each map, by least squares over the region that the two share, before anything is compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phasing.errors import PhaselineError
from phasing.stitch import StitchedMap

# Pixels lit by less than a tenth of the best lit one are left out of a comparison: there, a map is mostly guesswork.
_LEAST_WEIGHT_SHARE = 0.1
_LEAST_PIXELS = 16


def map_correlation(one: StitchedMap, two: StitchedMap) -> float:
    """Return Pearson's correlation of two maps, -1 to 1, over the region they share; 0 when one of them is flat.

    The maps may differ in grid, extent and pixel size: two is interpolated onto one's grid. Pixels weigh by the
    geometric mean of both weights. Raises PhaselineError when the maps share fewer than 16 pixels.
    """
    first, second, weight = flattened(one, two)
    weight = weight / weight.sum()
    norm = np.sqrt((weight * first**2).sum() * (weight * second**2).sum())
    return float((weight * first * second).sum() / norm) if norm > 1e-12 else 0.0


def map_difference(one: StitchedMap, two: StitchedMap) -> StitchedMap:
    """Return one minus two on one's grid, constant and ramp removed from each, NaN outside the shared region.

    Raises PhaselineError when the maps share fewer than 16 pixels.
    """
    first, second, weight = flattened(one, two)
    phase_rad = np.where(weight > 0, first - second, np.nan).astype(np.float32)
    return StitchedMap(phase_rad, weight.astype(np.float32), one.origin_m, one.pixel_size_m)


def flattened(
    one: StitchedMap, two: StitchedMap
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return both phases on one's grid, without constant and ramp, and the joint weight; all 0 where not shared.

    Raises PhaselineError when the maps share fewer than 16 pixels.
    """
    phase_two, weight_two = _resampled(two, one)
    phase_one, weight_one = one.phase_rad.astype(np.float64), one.weight.astype(np.float64)
    shared = _well_lit(phase_one, weight_one, one) & _well_lit(phase_two, weight_two, two)
    if np.count_nonzero(shared) < _LEAST_PIXELS:
        raise PhaselineError("the two maps do not show the same region")
    weight = np.where(shared, np.sqrt(np.where(shared, weight_one * weight_two, 0)), 0)
    return _without_ramp(phase_one, weight, shared), _without_ramp(phase_two, weight, shared), weight


def _well_lit(phase: NDArray[np.float64], weight: NDArray[np.float64], source: StitchedMap) -> NDArray[np.bool_]:
    lit: NDArray[np.bool_] = np.isfinite(phase) & (weight > _LEAST_WEIGHT_SHARE * source.weight.max())
    return lit


def _without_ramp(
    phase: NDArray[np.float64], weight: NDArray[np.float64], shared: NDArray[np.bool_]
) -> NDArray[np.float64]:
    rows, columns = np.nonzero(shared)
    root = np.sqrt(weight[shared])
    plane = np.stack([np.ones(len(rows)), rows / len(phase), columns / phase.shape[1]], axis=1)
    coefficients = np.linalg.lstsq(plane * root[:, None], phase[shared] * root, rcond=None)[0]
    flat = np.zeros_like(phase)
    flat[shared] = phase[shared] - plane @ coefficients
    return flat


def _resampled(source: StitchedMap, grid: StitchedMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolate a map's phase and weight bilinearly onto another's grid; NaN and 0 outside."""
    whole: list[NDArray[np.intp]] = []
    fraction: list[NDArray[np.float64]] = []
    inside: list[NDArray[np.bool_]] = []
    for axis in (0, 1):
        place_m = grid.origin_m[axis] + np.arange(grid.phase_rad.shape[axis]) * grid.pixel_size_m
        # A rounding error must not push a pixel at the very edge outside.
        place_px = np.round((place_m - source.origin_m[axis]) / source.pixel_size_m, 6)
        last = source.phase_rad.shape[axis] - 1
        inside.append((place_px >= 0) & (place_px <= last))
        floor = np.clip(np.floor(place_px), 0, max(0, last - 1))
        whole.append(floor.astype(np.intp))
        fraction.append(np.clip(place_px - floor, 0, 1))
    outside = ~(inside[0][:, None] & inside[1])
    phase, weight = (_interpolated(layer, whole, fraction) for layer in (source.phase_rad, source.weight))
    phase[outside], weight[outside] = np.nan, 0
    return phase, weight


def _interpolated(
    layer: NDArray[np.float32], whole: list[NDArray[np.intp]], fraction: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    height, width = layer.shape
    below, right = np.minimum(whole[0] + 1, height - 1), np.minimum(whole[1] + 1, width - 1)
    row, column = fraction[0][:, None], fraction[1]
    upper = layer[whole[0][:, None], whole[1]] * (1 - column) + layer[whole[0][:, None], right] * column
    lower = layer[below[:, None], whole[1]] * (1 - column) + layer[below[:, None], right] * column
    between: NDArray[np.float64] = upper * (1 - row) + lower * row
    return between
