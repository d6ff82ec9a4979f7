"""Fourier ring correlation: up to which spatial frequency two maps of the same region agree.

Source: W. O. Saxton and W. Baumeister, J. Microsc. 127, 127 (1982). Before the rings are compared, constant and ramp of
both are removed and the shift between the two, which phase retrieval cannot know, is found and taken back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phasing.compare import flattened
from phasing.errors import PhaselineError
from phasing.stitch import StitchedMap

HALF = 0.5
_LEAST_SIDE_PX = 16
_REGISTERED_BELOW = 0.1
"""Cycles a pixel below which the shift is read off the phases of the cross spectrum."""
_REGISTRATIONS = 3
_SMOOTHED_RINGS = 3


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation by ring: frequency_per_m (R,), ascending to Nyquist's, and correlation (R,), -1 to 1."""

    frequency_per_m: NDArray[np.float64]
    correlation: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean over all rings up to half of Nyquist's frequency."""
        return float(self.correlation[: max(1, len(self.correlation) // 2)].mean())

    @property
    def resolution_m(self) -> float:
        """The period at which the correlation falls below a half; two pixels where it never does."""
        kernel = np.ones(_SMOOTHED_RINGS) / _SMOOTHED_RINGS
        smooth = np.convolve(np.pad(self.correlation, _SMOOTHED_RINGS // 2, mode="edge"), kernel, mode="valid")
        below = np.flatnonzero(smooth < HALF)
        return float(1.0 / self.frequency_per_m[below[0] if len(below) else -1])


def ring_correlation(one: StitchedMap, two: StitchedMap) -> RingCorrelation:
    """Correlate two maps ring by ring over the largest square about the middle of what they share, under Hann's window.

    The maps may differ in grid; two is interpolated onto one's. Raises PhaselineError when the square is too small.
    """
    first, second, weight = flattened(one, two)
    square = _shared_square(weight > 0)
    side = square[0].stop - square[0].start
    if side < _LEAST_SIDE_PX:
        raise PhaselineError(f"the two maps share a square of {side} pixels: {_LEAST_SIDE_PX} are needed")
    window = np.outer(np.hanning(side), np.hanning(side))
    spectra = [np.fft.fft2((phase[square] - phase[square].mean()) * window) for phase in (first, second)]
    columns = np.asarray(np.fft.fftfreq(side), np.float64)
    rows = columns[:, None]
    cross = spectra[0] * spectra[1].conj()
    for _ in range(_REGISTRATIONS):
        cross = cross * np.exp(-2j * np.pi * _slope(cross, rows, columns))
    rings = np.rint(np.hypot(rows, columns) * side).astype(int)
    number = side // 2 + 1
    sums = [
        np.bincount(rings.ravel(), np.asarray(values, np.float64).ravel(), side)[1:number]
        for values in (cross.real, np.abs(spectra[0]) ** 2, np.abs(spectra[1]) ** 2)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(sums[0] / np.sqrt(sums[1] * sums[2]))
    frequency_per_m = np.arange(1, number) / (side * one.pixel_size_m)
    return RingCorrelation(frequency_per_m, correlation)


def _shared_square(shared: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The largest square, of even side, about the centroid of what is shared, that lies within it."""
    row, column = (round(float(indices.mean())) for indices in np.nonzero(shared))
    half = 0
    while True:
        wider = half + 1
        top, left = row - wider, column - wider
        square = slice(top, row + wider), slice(left, column + wider)
        inside = top >= 0 and left >= 0 and row + wider <= shared.shape[0] and column + wider <= shared.shape[1]
        if not inside or not shared[square].all():
            return slice(row - half, row + half), slice(column - half, column + half)
        half = wider


def _slope(
    cross: NDArray[np.complex128], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The plane through the phases of a cross spectrum at low frequencies, in turns: what a shift makes of it."""
    low = (np.hypot(rows, columns) <= _REGISTERED_BELOW) & (np.abs(cross) > 0)
    weight = np.sqrt(np.abs(cross[low]))
    plane = np.stack([np.broadcast_to(axis, cross.shape)[low] for axis in (rows, columns)], axis=1)
    turns = np.angle(cross[low]) / (2 * np.pi)
    slopes = np.linalg.lstsq(plane * weight[:, None], turns * weight, rcond=None)[0]
    return np.asarray(slopes[0] * rows + slopes[1] * columns)
