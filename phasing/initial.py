"""What phase retrieval starts from: the probe and the mask of usable pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phasing.errors import RetrievalError
from phasing.frames import measured

if TYPE_CHECKING:
    from phasing.scanfile import Scan

_HIGHER_MODE_SHARE = 0.05


def initial_probe(
    scan: Scan, counts: NDArray[np.float32], defocus_m: float | None, num_modes: int, seed: int
) -> NDArray[np.complex64]:
    """First guess of the probe, (M, n, n) complex64, with as many photons as the mean of the frames.

    counts: (N, n, n) float32, prepared. The scan file's guess where it has one, else the mean frame's amplitude taken
    back from the far field and brought out of focus. Higher modes are the first one with a random phase.
    Raises RetrievalError when the guess does not fit the frames.
    """
    if scan.probe_guess is not None:
        first = scan.probe_guess.astype(np.complex128)
        if first.shape != counts.shape[1:]:
            raise RetrievalError(f"the scan's probe has shape {first.shape}, its frames {counts.shape[1:]}")
    else:
        first = _focus(counts.mean(axis=0, dtype=np.float64))
        first = propagate(first, defocus_m or 0.0, scan.geometry.wavelength_m, scan.geometry.object_pixel_size_m)
    generator = np.random.default_rng(seed)
    turns = np.exp(2j * np.pi * generator.random((num_modes - 1, *first.shape)))
    modes = np.concatenate([first[None], np.sqrt(_HIGHER_MODE_SHARE) * first * turns])
    return _scaled(modes, float(counts.sum(axis=(1, 2), dtype=np.float64).mean()))


def propagate(
    field: NDArray[np.complex128], distance_m: float, wavelength_m: float, pixel_size_m: float
) -> NDArray[np.complex128]:
    """Carry a field (n, n) through free space, by the angular spectrum in Fresnel's approximation."""
    if distance_m == 0.0:
        return field
    frequency = np.fft.fftfreq(field.shape[0], pixel_size_m)
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    kernel = np.exp(-1j * np.pi * wavelength_m * distance_m * squared)
    return np.asarray(np.fft.ifft2(np.fft.fft2(field) * kernel))


def valid_pixels(scan: Scan) -> NDArray[np.bool_]:
    """Pixels of a prepared frame that were measured, (n, n) bool; reads frames until all but the masked ones were."""
    unmasked = measured(np.zeros((1, *scan.geometry.detector_shape_px), np.float32), scan.geometry)
    valid = np.zeros_like(unmasked)
    for counts in scan.blocks():
        valid |= measured(counts, scan.geometry)
        if np.array_equal(valid, unmasked):
            break
    return valid


def _focus(mean_counts: NDArray[np.float64]) -> NDArray[np.complex128]:
    amplitude = np.fft.ifftshift(np.sqrt(mean_counts))
    return np.asarray(np.fft.fftshift(np.fft.ifft2(amplitude)))


def _scaled(modes: NDArray[np.complex128], photons: float) -> NDArray[np.complex64]:
    """Scale so that the far field, by an orthonormal Fourier transform, holds this many photons."""
    power = float(np.sum(np.abs(modes) ** 2))
    if power <= 0.0:
        raise RetrievalError("the first guess of the probe is empty")
    return np.asarray(modes * np.sqrt(photons / power), np.complex64)
