"""A simulated beamline: zone-plate probe, etched tungsten sample, spiral scan, photon noise.

The probe and the sample are those of beamline 26-ID of arXiv 2304.04297. The sample is one field of about 41 um that
repeats at its borders; scans at different places see different parts of it. Its transmission is evaluated at the very
points of every frame's grid, so positions are exact and need not lie on a grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phasing.frames import embed
from phasing.geometry import Geometry

Coordinates = NDArray[np.floating[Any]]

CLASSICAL_ELECTRON_RADIUS_M = 2.8179403e-15
TUNGSTEN_ATOMS_PER_M3 = 6.31e28

_FIELD_PX = 2048
_FIELD_PIXEL_M = 20e-9
_BLOCK_FRAMES = 16
_GOLDEN_ANGLE_RAD = math.pi * (3 - math.sqrt(5))
# The largest uint16 marks a bad pixel on real detectors, so a count never reaches it.
_MAX_COUNTS = 65_534


@dataclass(frozen=True)
class Optics:
    """A Fresnel zone plate with a central stop, and how far the sample is from its focus; 26-ID's by default."""

    diameter_m: float = 160e-6
    outermost_zone_m: float = 30e-9
    central_stop_m: float = 60e-6
    defocus_m: float = -150e-6

    def probe(self, geometry: Geometry) -> NDArray[np.complex64]:
        """Return the wave on the sample, (n, n) complex64 with n = geometry.frame_px and mean intensity 1.

        The pupil is an annulus of radius 1 / (2 outermost zone) in spatial frequency; defocus is the paraxial
        free-space propagator exp(-i pi wavelength z f^2) (Goodman, Introduction to Fourier Optics, section 4.2).
        """
        wave = self._wave(geometry)
        start = geometry.crop_px // 2 - geometry.frame_px // 2
        wave = wave[start : start + geometry.frame_px, start : start + geometry.frame_px]
        wave /= np.sqrt(np.mean(np.abs(wave) ** 2))
        return wave.astype(np.complex64)

    def _wave(self, geometry: Geometry) -> NDArray[np.complex128]:
        pixels = np.arange(geometry.crop_px) - geometry.crop_px // 2
        step_per_m = 1 / (geometry.crop_px * geometry.object_pixel_size_m)
        radius_px = np.hypot(pixels[:, None], pixels)
        outer_px = 1 / (2 * self.outermost_zone_m) / step_per_m
        inner_px = outer_px * self.central_stop_m / self.diameter_m
        # Edges one pixel soft, so that the pupil's size is not rounded to whole pixels.
        pupil = np.clip(outer_px - radius_px + 0.5, 0, 1) * np.clip(radius_px - inner_px + 0.5, 0, 1)
        frequency_per_m = radius_px * step_per_m
        defocus = np.exp(-1j * np.pi * geometry.wavelength_m * self.defocus_m * frequency_per_m**2)
        wave: NDArray[np.complex128] = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil * defocus)))
        return wave


@dataclass(frozen=True)
class Sample:
    """A tungsten film etched into a random pattern, the same for the same seed.

    feature_m is the pattern's typical width, edge_m the width over which the film's side wall rises. The scattering
    factors f1 and f2 are tungsten's at 10.4 keV (just above its L3 edge, values rounded): 1.5 um then shift the
    phase by 2.0 rad and transmit 0.73 of the amplitude.
    """

    seed: int = 0
    thickness_m: float = 1.5e-6
    feature_m: float = 200e-9
    edge_m: float = 30e-9
    f1_electrons: float = 62.0
    f2_electrons: float = 10.0

    def height(self, y_m: Coordinates, x_m: Coordinates) -> NDArray[np.float32]:
        """Return the film's height as a share of its thickness, (..., Y, X), for rows at y (..., Y), columns at x."""
        field = _random_field(self.seed, self.feature_m)
        row, row_rest = _split(y_m)
        column, column_rest = _split(x_m)
        right, below = (column + 1) % _FIELD_PX, (row + 1) % _FIELD_PX
        share = column_rest[..., None, :]
        level = _gather(field, row, column) * (1 - share) + _gather(field, row, right) * share
        level_below = _gather(field, below, column) * (1 - share) + _gather(field, below, right) * share
        level += (level_below - level) * row_rest[..., :, None]
        # The field is scaled so that its slope is about 1 / feature; twice the distance from the contour over the
        # edge's width then gives a side wall that rises within it.
        height: NDArray[np.float32] = np.tanh(level * np.float32(2 * self.feature_m / self.edge_m))
        height += 1
        height *= 0.5
        return height

    def exponent(self, wavelength_m: float) -> complex:
        """Return what the full film's transmission is the exponential of: -k t (beta + i delta).

        delta and beta are r_e wavelength^2 n f / (2 pi) (Attwood, Soft X-Rays and EUV Radiation, section 3.2).
        """
        per_electron = CLASSICAL_ELECTRON_RADIUS_M * wavelength_m * TUNGSTEN_ATOMS_PER_M3 * self.thickness_m
        return complex(-per_electron * self.f2_electrons, -per_electron * self.f1_electrons)

    def phase_rad(self, y_m: Coordinates, x_m: Coordinates, wavelength_m: float) -> NDArray[np.float32]:
        """Return the phase of the transmission, (..., Y, X) float32 rad, from 0 (etched) down to -2 rad (film)."""
        phase: NDArray[np.float32] = self.height(y_m, x_m) * np.float32(self.exponent(wavelength_m).imag)
        return phase

    def transmission(self, y_m: Coordinates, x_m: Coordinates, wavelength_m: float) -> NDArray[np.complex64]:
        """Return the complex transmission, (..., Y, X) complex64."""
        wave: NDArray[np.complex64] = np.exp(self.height(y_m, x_m) * np.complex64(self.exponent(wavelength_m)))
        return wave


def spiral(num: int, step_m: float, *, center_m: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """Return num positions, (num, 2) float64 m (y, x), on a Fermat spiral with one position per step_m squared.

    Huang et al., Optics Express 22, 12634 (2014): constant density without the grid's raster artefacts.
    """
    index = np.arange(num)
    radius_m = step_m / math.sqrt(math.pi) * np.sqrt(index + 0.5)
    angle_rad = index * _GOLDEN_ANGLE_RAD
    position_m: NDArray[np.float64] = np.stack([radius_m * np.sin(angle_rad), radius_m * np.cos(angle_rad)], axis=1)
    position_m += center_m
    return position_m


class SimulatedScan:
    """One scan of a sample, whose frames are made when asked for, in any order, always the same.

    position_m (N, 2) in m (y, x); photons is the mean number on the sample a frame; seed is the noise's. A frame is
    |fft2(probe * transmission)|^2 with zero frequency in the middle, laid out as the raw frame that geometry describes
    (orientation undone, crop in place), so that phasing.frames.prepare brings back the sample's orientation.
    """

    def __init__(
        self,
        geometry: Geometry,
        position_m: ArrayLike,
        *,
        optics: Optics | None = None,
        sample: Sample | None = None,
        photons: float = 1e6,
        seed: int = 0,
    ) -> None:
        """Prepare the probe; nothing is simulated yet."""
        self.geometry = geometry
        self.position_m = np.asarray(position_m, np.float64).reshape(-1, 2)
        self.sample = sample or Sample()
        self.optics = optics or Optics()
        wave = self.optics._wave(geometry)
        self._wave: NDArray[np.complex64] = (wave * np.sqrt(photons / np.sum(np.abs(wave) ** 2))).astype(np.complex64)
        self._seed = seed

    @property
    def num_frames(self) -> int:
        """How many positions, and so frames, there are."""
        return len(self.position_m)

    def frames(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint16]:
        """Return raw frames start to stop, (N, H, W) uint16 counts."""
        stop = self.num_frames if stop is None else min(stop, self.num_frames)
        blocks = [self._block(first, min(first + _BLOCK_FRAMES, stop)) for first in range(start, stop, _BLOCK_FRAMES)]
        return np.concatenate(blocks) if blocks else np.zeros((0, *self.geometry.detector_shape_px), np.uint16)

    def phase_rad(self, index: int) -> NDArray[np.float32]:
        """Return the sample's true phase under one frame, (n, n) float32 rad with n = geometry.frame_px."""
        y_m, x_m = self._grid_m(slice(index, index + 1), self.geometry.frame_px)
        phase: NDArray[np.float32] = self.sample.phase_rad(y_m, x_m, self.geometry.wavelength_m)[0]
        return phase

    def _grid_m(self, frames: slice, side_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        offset_m = (np.arange(side_px) - side_px // 2) * self.geometry.object_pixel_size_m
        position_m = self.position_m[frames]
        return position_m[:, :1] + offset_m, position_m[:, 1:] + offset_m

    def _block(self, start: int, stop: int) -> NDArray[np.uint16]:
        y_m, x_m = self._grid_m(slice(start, stop), self.geometry.crop_px)
        exit_wave = self._wave * self.sample.transmission(y_m, x_m, self.geometry.wavelength_m)
        far_field = np.fft.fftshift(np.fft.fft2(exit_wave, norm="ortho"), axes=(-2, -1))
        mean = np.abs(far_field) ** 2
        # Seeded by frame, so that a frame is the same in whichever block it is asked for.
        noisy = [np.random.default_rng((self._seed, start + i)).poisson(frame) for i, frame in enumerate(mean)]
        return embed(np.minimum(np.stack(noisy), _MAX_COUNTS).astype(np.uint16), self.geometry)


def simulate_frames(
    geometry: Geometry, position_m: ArrayLike, *, sample: Sample | None = None, photons: float = 1e6, seed: int = 0
) -> NDArray[np.uint16]:
    """Return all raw frames of one scan at once, (N, H, W) uint16 counts; see SimulatedScan."""
    return SimulatedScan(geometry, position_m, sample=sample, photons=photons, seed=seed).frames()


@lru_cache(maxsize=4)
def _random_field(seed: int, feature_m: float) -> NDArray[np.float32]:
    """Return smooth noise, periodic, of mean 0 and slope about 1 / feature; its zero contour is the pattern's edge."""
    noise = np.random.default_rng(seed).standard_normal((_FIELD_PX, _FIELD_PX), dtype=np.float32)
    row = np.fft.fftfreq(_FIELD_PX, _FIELD_PIXEL_M)[:, None]
    column = np.fft.rfftfreq(_FIELD_PX, _FIELD_PIXEL_M)
    # A ring of spatial frequencies about 1 / (2 feature): lines and spaces of that width, in all directions.
    ring = np.exp(-(((np.hypot(row, column) * 2 * feature_m) - 1) ** 2) / (2 * 0.35**2))
    ring[0, 0] = 0
    spectrum = np.fft.rfft2(noise) * ring.astype(np.float32)
    field = np.fft.irfft2(spectrum, s=noise.shape).astype(np.float32, copy=False)
    field *= np.float32(1 / (math.sqrt(2) * math.pi / 2)) / field.std()
    field.flags.writeable = False
    return field


def _split(coordinate_m: Coordinates) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    pixels = coordinate_m / _FIELD_PIXEL_M
    whole = np.floor(pixels)
    return whole.astype(np.intp) % _FIELD_PX, (pixels - whole).astype(np.float32)


def _gather(field: NDArray[np.float32], row: NDArray[np.intp], column: NDArray[np.intp]) -> NDArray[np.float32]:
    return field[row[..., :, None], column[..., None, :]]
