"""What phase retrieval starts from: the probe, the object, and the mask of usable pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phasing.errors import RetrievalError
from phasing.frames import measured

if TYPE_CHECKING:
    from phasing.geometry import Geometry
    from phasing.reconstruction import Reconstruction
    from phasing.scanfile import Scan

_HIGHER_MODE_SHARE = 0.05
_SAME_PIXELS = 1e-3
"""How much, as a share, the pixels of a former reconstruction may differ."""


def initial_probe(
    scan: Scan,
    counts: NDArray[np.float32],
    defocus_m: float | None,
    num_modes: int,
    seed: int,
    former: Reconstruction | None = None,
) -> NDArray[np.complex64]:
    """First guess of the probe, (M, n, n) complex64.

    counts: (N, n, n) float32, prepared. The modes of a former reconstruction where one is given; else, with as many
    photons as the mean of the frames, the scan file's guess where it has one, or the mean frame's amplitude taken back
    from the far field and brought out of focus. Modes that this does not give are the first one with a random phase.
    Raises RetrievalError when the guess does not fit the frames.
    """
    if former is not None:
        given = former.probe[:num_modes].astype(np.complex128)
    elif scan.probe_guess is not None:
        given = scan.probe_guess[None].astype(np.complex128)
        if given.shape[1:] != counts.shape[1:]:
            raise RetrievalError(f"the scan's probe has shape {given.shape[1:]}, its frames {counts.shape[1:]}")
    else:
        first = _focus(counts.mean(axis=0, dtype=np.float64))
        given = propagate(first, defocus_m or 0.0, scan.geometry.wavelength_m, scan.geometry.object_pixel_size_m)[None]
    generator = np.random.default_rng(seed)
    turns = np.exp(2j * np.pi * generator.random((num_modes - len(given), *given.shape[1:])))
    modes = np.concatenate([given, np.sqrt(_HIGHER_MODE_SHARE) * given[0] * turns])
    if former is not None:  # its object has the scale that goes with its probe
        return modes.astype(np.complex64)
    return _scaled(modes, float(counts.sum(axis=(1, 2), dtype=np.float64).mean()))


def initial_object(
    shape: tuple[int, int], origin_m: tuple[float, float], geometry: Geometry, former: Reconstruction | None
) -> NDArray[np.complex64]:
    """First guess of the object, (H, W) complex64: a former reconstruction where it lies, and else 1, which is nothing.

    The grids have the same pixels, a fraction of one apart: between them lies the mean of the four nearest. Raises
    RetrievalError for a former reconstruction of other frames or pixels, and for one of another place.
    """
    guess = np.ones(shape, np.complex64)
    if former is None:
        return guess
    pixel_size_m, frame_px = geometry.object_pixel_size_m, geometry.frame_px
    ratio = former.pixel_size_m / pixel_size_m
    if former.probe.shape[-1] != frame_px or abs(ratio - 1.0) > _SAME_PIXELS:
        was = f"frames of {former.probe.shape[-1]} pixels, {former.pixel_size_m * 1e9:.3f} nm in the sample"
        raise RetrievalError(
            f"the reconstruction to start from is of {was}; now {frame_px}, {pixel_size_m * 1e9:.3f} nm"
        )
    shift_px = (np.asarray(origin_m) - former.origin_m) / pixel_size_m
    places = []
    for axis, side in enumerate(shape):
        at_px = np.arange(side) + shift_px[axis]
        low = np.floor(at_px).astype(np.intp)
        within = np.flatnonzero((low >= 0) & (low + 1 < former.object.shape[axis]))
        places.append((within, low[within], float(at_px[0] - low[0])))
    (rows, top, down), (columns, left, right) = places
    if not (len(rows) and len(columns)):
        raise RetrievalError("the reconstruction to start from lies elsewhere on the sample")
    mean = sum(
        weight * former.object[np.ix_(top + row, left + column)]
        for row, column, weight in (
            (0, 0, (1 - down) * (1 - right)),
            (0, 1, (1 - down) * right),
            (1, 0, down * (1 - right)),
            (1, 1, down * right),
        )
    )
    guess[np.ix_(rows, columns)] = mean
    return guess


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
