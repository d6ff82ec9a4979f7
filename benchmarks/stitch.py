"""What one prediction costs to stitch: the published way against ours, and ours on canvases of growing size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from phasing.stitch import Stitcher

PATCH_PX = 128
PIXEL_M = 10e-9
CANVAS_PX = 512
SIZES_PX = (512, 1024, 2048)
_PREDICTIONS = 64
_ROUNDS = 12
_OURS_A_ROUND = 100
_STEP_PX = 10.3
_GROWN = 5


class AuthorsCanvas:
    """The authors' offline stitching (Babu et al. 2023): every prediction interpolated onto the whole canvas.

    Linear interpolation, nothing outside the prediction; the sum is divided by the number of contributions in the end.
    """

    def __init__(self, canvas_px: int) -> None:
        self._axis_m = (np.arange(canvas_px) - canvas_px // 2) * PIXEL_M
        self._points_m = np.stack(np.meshgrid(self._axis_m, self._axis_m, indexing="ij"), axis=-1)
        self._sum = np.zeros((canvas_px, canvas_px))
        self._count = np.zeros((canvas_px, canvas_px))

    def add(self, phase_rad: NDArray[np.float32], position_m: tuple[float, float]) -> None:
        """Add one prediction, (n, n) float32 rad, centred at position_m (y, x)."""
        offset_m = (np.arange(PATCH_PX) - PATCH_PX // 2) * PIXEL_M
        axes = (position_m[0] + offset_m, position_m[1] + offset_m)
        placed_rad = RegularGridInterpolator(axes, phase_rad, bounds_error=False, fill_value=np.nan)(self._points_m)
        inside = np.isfinite(placed_rad)
        self._sum[inside] += placed_rad[inside]
        self._count += inside

    def map(self) -> NDArray[np.float64]:
        """The mean of all contributions, (canvas, canvas) float64 rad; 0 where there are none."""
        return self._sum / np.maximum(self._count, 1)


def measure() -> dict[str, float]:
    """Medians: the authors' way and ours on canvases of three sizes, in turn; what growing and a map beside cost.

    stitch_ratio: the authors' time over ours, 512 px. stitch_flatness: ours on the largest canvas over ours on the
    smallest. stitch_aligned_ratio: ours with constants taken over ours without. stitch_growth_worst_ms: the longest add
    of a scan that grows to 2000 px. stitch_beside_map_*: adds while another thread takes maps of 1024 px without pause.
    """
    predictions = np.random.default_rng(0).standard_normal((_PREDICTIONS, PATCH_PX, PATCH_PX)).astype(np.float32)
    offset = np.arange(PATCH_PX) - PATCH_PX // 2
    probe = np.exp(-np.add.outer(offset**2, offset**2) / (2 * 20.0**2))
    stitchers = {
        (size, align): _filled(size, predictions, probe, align) for size in SIZES_PX for align in (False, True)
    }
    authors, theirs_s = AuthorsCanvas(CANVAS_PX), []
    ours_s: dict[tuple[int, bool], list[float]] = {key: [] for key in stitchers}
    for number in range(_ROUNDS):
        theirs_s += _times(authors.add, predictions, _positions(CANVAS_PX, number, 1))
        for key, stitcher in stitchers.items():
            positions = _positions(key[0], number * _OURS_A_ROUND, _OURS_A_ROUND)
            ours_s[key] += _times(stitcher.add, predictions, positions)
    median_us = {key: float(np.median(times)) * 1e6 for key, times in ours_s.items()}
    smallest, largest = SIZES_PX[0], SIZES_PX[-1]
    figures = {
        "stitch_ratio": float(np.median(theirs_s)) * 1e6 / median_us[smallest, False],
        "stitch_authors_us": float(np.median(theirs_s)) * 1e6,
        "stitch_flatness": median_us[largest, False] / median_us[smallest, False],
        "stitch_aligned_ratio": median_us[smallest, True] / median_us[smallest, False],
    }
    figures |= {f"stitch_us_{size}": median_us[size, False] for size in SIZES_PX}
    figures |= _growth(predictions, probe) | _waiting(stitchers[1024, False], predictions)
    return {key: round(value, 3) for key, value in figures.items()}


def main() -> None:
    """Print the figures as JSON."""
    print(json.dumps(measure(), indent=2))


def _growth(predictions: NDArray[np.float32], probe: NDArray[np.float64]) -> dict[str, float]:
    line = [(0.5 * step * PIXEL_M * PATCH_PX, 0.5 * step * PIXEL_M * PATCH_PX) for step in range(30)]
    worst_s = [max(_times(Stitcher(PATCH_PX, PIXEL_M, probe).add, predictions, line)) for _ in range(_GROWN)]
    return {"stitch_growth_worst_ms": float(np.median(worst_s)) * 1e3}


def _waiting(stitcher: Stitcher, predictions: NDArray[np.float32]) -> dict[str, float]:
    positions = _positions(1024, 0, 2000)
    alone_s = _times(stitcher.add, predictions, positions)
    done, maps_s = Event(), []

    def take_maps() -> None:
        while not done.is_set():
            started_s = time.perf_counter()
            stitcher.map()
            maps_s.append(time.perf_counter() - started_s)

    thread = Thread(target=take_maps)
    thread.start()
    try:
        beside_s = _times(stitcher.add, predictions, positions)
    finally:
        done.set()
        thread.join()
    return {
        "stitch_map_ms": float(np.median(maps_s)) * 1e3,
        "stitch_alone_99_ms": float(np.percentile(alone_s, 99)) * 1e3,
        "stitch_alone_worst_ms": max(alone_s) * 1e3,
        "stitch_beside_map_99_ms": float(np.percentile(beside_s, 99)) * 1e3,
        "stitch_beside_map_worst_ms": max(beside_s) * 1e3,
    }


def _filled(
    canvas_px: int, predictions: NDArray[np.float32], probe: NDArray[np.float64], align_offsets: bool
) -> Stitcher:
    """A map of canvas_px on a side, in which every pixel is known."""
    stitcher = Stitcher(PATCH_PX, PIXEL_M, probe, align_offsets=align_offsets)
    reach = np.arange(-(canvas_px - PATCH_PX) // 2, (canvas_px - PATCH_PX) // 2 + 1, PATCH_PX // 2) * PIXEL_M
    for y_m in reach:
        for x_m in reach:
            stitcher.add(predictions[0], (float(y_m), float(x_m)))
    return stitcher


def _positions(canvas_px: int, first: int, num: int) -> list[tuple[float, float]]:
    """Positions first to first + num of a raster scan, to and fro, that never ends."""
    side = int((canvas_px - PATCH_PX) / _STEP_PX)
    lines, columns = np.divmod(np.arange(first, first + num), side)
    columns = np.where(lines % 2, side - 1 - columns, columns)
    return [
        (float(row - side / 2) * _STEP_PX * PIXEL_M, float(column - side / 2) * _STEP_PX * PIXEL_M)
        for row, column in zip(lines % side, columns, strict=True)
    ]


def _times(
    add: Callable[[NDArray[np.float32], tuple[float, float]], None],
    predictions: NDArray[np.float32],
    positions: list[tuple[float, float]],
) -> list[float]:
    """Seconds of every call."""
    times_s = []
    for index, position_m in enumerate(positions):
        prediction = predictions[index % len(predictions)]
        started_s = time.perf_counter()
        add(prediction, position_m)
        times_s.append(time.perf_counter() - started_s)
    return times_s


if __name__ == "__main__":
    main()
