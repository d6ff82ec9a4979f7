"""Patches cut from known phases, and what stitching them should give."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasing.stitch import StitchedMap, Stitcher

PIXEL_M = 26e-9
SIDE = 32
OFFSET_M = (np.arange(SIDE) - SIDE // 2) * PIXEL_M
BEAM = np.exp(-np.add.outer(OFFSET_M**2, OFFSET_M**2) / (2 * (6 * PIXEL_M) ** 2))

Places = NDArray[np.floating[Any]]
Phase = Callable[[Places, Places], NDArray[np.float64]]
Patches = Iterable[tuple[NDArray[np.float32], tuple[float, float]]]


def bilinear(y_m: Places, x_m: Places) -> NDArray[np.float64]:
    y_px, x_px = y_m[:, None] / PIXEL_M, x_m / PIXEL_M
    return np.asarray(0.3 + 0.01 * y_px - 0.02 * x_px + 1e-4 * y_px * x_px, np.float64)


def waves(y_m: Places, x_m: Places) -> NDArray[np.float64]:
    return np.asarray(np.sin(2 * np.pi * y_m[:, None] / 600e-9) + np.cos(2 * np.pi * x_m / 450e-9))


def positions(num: int = 120, reach_px: float = 40.0) -> list[tuple[float, float]]:
    places = np.random.default_rng(0).uniform(-reach_px * PIXEL_M, reach_px * PIXEL_M, (num, 2))
    return [(float(y_m), float(x_m)) for y_m, x_m in places]


def cut(phase: Phase, places: Iterable[tuple[float, float]]) -> Patches:
    for y_m, x_m in places:
        yield phase(y_m + OFFSET_M, x_m + OFFSET_M).astype(np.float32), (y_m, x_m)


def stitched(patches: Patches, weight: NDArray[np.float64] = BEAM, *, align_offsets: bool = False) -> Stitcher:
    stitcher = Stitcher(SIDE, PIXEL_M, weight, align_offsets=align_offsets)
    for patch, place_m in patches:
        stitcher.add(patch, place_m)
    return stitcher


def whole(stitcher: Stitcher) -> StitchedMap:
    result = stitcher.map()
    assert result is not None
    return result


def truth(result: StitchedMap, phase: Phase) -> NDArray[np.float64]:
    height, width = result.phase_rad.shape
    y_m = result.origin_m[0] + np.arange(height) * PIXEL_M
    x_m = result.origin_m[1] + np.arange(width) * PIXEL_M
    return phase(y_m, x_m)
