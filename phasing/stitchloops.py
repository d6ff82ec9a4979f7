"""The loops over pixels that stitching a prediction takes, compiled: one pass over memory, without Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

from phasing.accumulate import MEAN_WEIGHT, PHASE, WEIGHT

_LEAST_WEIGHT = np.float32(1e-30)
"""Added to every pixel's weight, whose largest is 1, so that nothing is ever divided by 0."""
_ZERO, _ONE = np.float32(0), np.float32(1)

Loop = TypeVar("Loop", bound=Callable[..., Any])


def _compiled(loop: Loop) -> Loop:
    """A loop as machine code, kept on disk where there is a place for it; sums may be taken in any order."""
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
    try:
        made: Loop = numba.njit(loop, cache=True, **how)
    except RuntimeError:  # neither this folder nor the user's own can be written
        made = numba.njit(loop, **how)
    return made


@_compiled
def place(
    phase_rad: Any,
    weight: Any,
    reference_rad: float,
    row_fraction: float,
    column_fraction: float,
    placed_rad: Any,
    placed_weight: Any,
) -> tuple[float, float]:
    """Interpolate phase, less the reference, and weight, (n, n), at [i + row_fraction, j + column_fraction].

    Fills placed_rad and placed_weight, (n - 1, n - 1) float32. Returns the sums of w and of w x, in float64 of rows
    summed in float32, as are all sums here.
    """
    down, right = np.float32(row_fraction), np.float32(column_fraction)
    here, beside = (_ONE - down) * (_ONE - right), (_ONE - down) * right
    below, across = down * (_ONE - right), down * right
    reference = np.float32(reference_rad)
    total = weighted = np.float64(0.0)
    for i in range(placed_rad.shape[0]):
        row_total, row_weighted = _ZERO, _ZERO
        for j in range(placed_rad.shape[1]):
            x = (
                here * phase_rad[i, j]
                + beside * phase_rad[i, j + 1]
                + below * phase_rad[i + 1, j]
                + across * phase_rad[i + 1, j + 1]
                - reference
            )
            w = (
                here * weight[i, j]
                + beside * weight[i, j + 1]
                + below * weight[i + 1, j]
                + across * weight[i + 1, j + 1]
                + _LEAST_WEIGHT
            )
            placed_rad[i, j], placed_weight[i, j] = x, w
            row_total += w
            row_weighted += w * x
        total += row_total
        weighted += row_weighted
    return total, weighted


@_compiled
def merge(placed_rad: Any, placed_weight: Any, block: Any) -> tuple[float, float, float, float]:
    """Add a placed prediction to its part of the canvas, (3, n - 1, n - 1) float32.

    Returns what the sums of w (x - m)^2, w x, w x^2 and sum(w^2) / sum(w) grow by (see phasing.accumulate.Sums).
    """
    deviation = weighted = square = mean_weight = np.float64(0.0)
    for i in range(placed_rad.shape[0]):
        row_deviation, row_weighted, row_square, row_mean_weight = _ZERO, _ZERO, _ZERO, _ZERO
        for j in range(placed_rad.shape[1]):
            x, w = placed_rad[i, j], placed_weight[i, j]
            held = block[WEIGHT, i, j]
            gain = w / (held + w)
            difference = x - block[PHASE, i, j]
            step = gain * difference
            grown = (w - block[MEAN_WEIGHT, i, j]) * gain
            block[WEIGHT, i, j] = held + w
            block[PHASE, i, j] += step
            block[MEAN_WEIGHT, i, j] += grown
            row_deviation += held * step * difference
            row_weighted += w * x
            row_square += w * x * x
            row_mean_weight += grown
        deviation += row_deviation
        weighted += row_weighted
        square += row_square
        mean_weight += row_mean_weight
    return deviation, weighted, square, mean_weight


@_compiled
def overlaps(placed_rad: Any, placed_weight: Any, block: Any) -> tuple[float, float]:
    """The sums of h and of h (x - m) over a placed prediction and its part of the canvas, h = w W / (w + W)."""
    total = weighted = np.float64(0.0)
    for i in range(placed_rad.shape[0]):
        row_total, row_weighted = _ZERO, _ZERO
        for j in range(placed_rad.shape[1]):
            w, held = placed_weight[i, j], block[WEIGHT, i, j]
            shared = w * held / (w + held)
            row_total += shared
            row_weighted += shared * (placed_rad[i, j] - block[PHASE, i, j])
        total += row_total
        weighted += row_weighted
    return total, weighted
