"""The geometry block: what a frame was measured with and how it is prepared, one value for scan file and card.

Frames are (H, W), rows first. Orientation turns a raw frame so that its rows and columns run along the sample's y and
x: first transpose, then flip rows, then flip columns.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from phasing.errors import GeometryError

PLANCK_TIMES_LIGHT_EV_M = 1.239841984332e-6
ELECTRONVOLT_J = 1.602176634e-19

_ARRAY_DTYPES: dict[str, DTypeLike] = {"mask": np.bool_, "dark_counts": np.float32, "flat": np.float32}

SIGNIFICANT_DIGITS = 6
"""How exactly energies, distances and pixel sizes count: readings of one set-up waver beyond."""
RELATIVE_TOLERANCE = 10.0 ** (1 - SIGNIFICANT_DIGITS)
"""The same as a share: numbers that agree to so many digits are never farther apart."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """How the far-field frames of one scan were measured, and which part of them is used, which way up.

    energy_ev, distance_m (sample to detector) and pixel_size_m (square detector pixel) set the scale. detector_shape_px
    is the raw frame's (H, W). A square of crop_px is kept, with the zero-frequency pixel crop_center_px (row, column
    of the raw frame; None = (H // 2, W // 2)) at its index crop_px // 2, and is binned by bin_px. Pixels at or above
    saturation_counts, or True in mask (H, W) bool, are bad. dark_counts (H, W) float32 is subtracted, flat (H, W)
    float32 multiplied. Raises GeometryError naming the field.
    """

    energy_ev: float
    distance_m: float
    pixel_size_m: float
    detector_shape_px: tuple[int, int]
    crop_px: int
    crop_center_px: tuple[int, int] | None = None
    bin_px: int = 1
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    saturation_counts: float | None = None
    mask: NDArray[np.bool_] | None = None
    dark_counts: NDArray[np.float32] | None = None
    flat: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Validate the block as a whole."""
        for name in ("energy_ev", "distance_m", "pixel_size_m"):
            _require(_is_positive(getattr(self, name)), name, "a finite number above 0", getattr(self, name))
        _require(_is_pair(self.detector_shape_px), "detector_shape_px", "two integers", self.detector_shape_px)
        _require(min(self.detector_shape_px) >= 1, "detector_shape_px", "sides above 0", self.detector_shape_px)
        for name in ("crop_px", "bin_px"):
            _require(_is_integer(getattr(self, name)), name, "an integer", getattr(self, name))
        _require(self.bin_px >= 1, "bin_px", "at least 1", self.bin_px)
        fits = 2 <= self.crop_px <= min(self.detector_shape_px)
        _require(fits, "crop_px", f"from 2 to the sides of {self.detector_shape_px}", self.crop_px)
        _require(self.crop_px % self.bin_px == 0, "bin_px", f"a divisor of crop_px {self.crop_px}", self.bin_px)
        for name in ("transpose", "flip_rows", "flip_columns"):
            _require(isinstance(getattr(self, name), bool), name, "true or false", getattr(self, name))
        if self.saturation_counts is not None:
            value = self.saturation_counts
            _require(_is_positive(value), "saturation_counts", "a finite number above 0", value)
        for name, dtype in _ARRAY_DTYPES.items():
            object.__setattr__(self, name, self._checked_array(name, dtype))
        self._check_crop()

    def _checked_array(self, name: str, dtype: DTypeLike) -> NDArray[Any] | None:
        array = getattr(self, name)
        if array is None:
            return None
        array = np.array(array, dtype=dtype)
        _require(array.shape == self.detector_shape_px, name, f"of shape {self.detector_shape_px}", array.shape)
        _require(bool(np.isfinite(array).all()), name, "finite", "NaN or infinity")
        array.flags.writeable = False
        return array

    def _check_crop(self) -> None:
        center = self.center_px
        _require(_is_pair(center), "crop_center_px", "two integers", center)
        for start, side in zip(self.crop_start_px, self.oriented_shape_px, strict=True):
            # An even side that is flipped about its own centre is off by one pixel: the edge row then wraps round,
            # since the frequencies +n/2 and -n/2 are the same.
            overhang = max(-start, start + self.crop_px - side)
            allowed = 1 if self.crop_px == side else 0
            inside = f"such that a square of {self.crop_px} about it lies in {self.detector_shape_px}"
            _require(overhang <= allowed, "crop_center_px", inside, center)

    @property
    def wavelength_m(self) -> float:
        """The X-rays' wavelength, h c / E."""
        return PLANCK_TIMES_LIGHT_EV_M / self.energy_ev

    @property
    def frame_px(self) -> int:
        """Side of a prepared frame."""
        return self.crop_px // self.bin_px

    @property
    def object_pixel_size_m(self) -> float:
        """Pixel in the sample plane, wavelength * distance / detector width; binning does not change it."""
        return self.wavelength_m * self.distance_m / (self.crop_px * self.pixel_size_m)

    @property
    def center_px(self) -> tuple[int, int]:
        """Zero-frequency pixel (row, column) of the raw frame."""
        if self.crop_center_px is not None:
            return self.crop_center_px
        return self.detector_shape_px[0] // 2, self.detector_shape_px[1] // 2

    @property
    def oriented_shape_px(self) -> tuple[int, int]:
        """Shape of the whole frame after orientation."""
        height, width = self.detector_shape_px
        return (width, height) if self.transpose else (height, width)

    @property
    def crop_start_px(self) -> tuple[int, int]:
        """First row and column of the crop in the oriented frame; -1 or 1 means that the edge wraps round."""
        row, column = self.center_px[::-1] if self.transpose else self.center_px
        height, width = self.oriented_shape_px
        row = height - 1 - row if self.flip_rows else row
        column = width - 1 - column if self.flip_columns else column
        return row - self.crop_px // 2, column - self.crop_px // 2

    def to_json(self) -> dict[str, Any]:
        """Return the block as JSON values; arrays become {shape, dtype, zlib_base64}."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _to_json_value(value) for name, value in values.items()}

    @classmethod
    def from_json(cls, block: Mapping[str, Any]) -> Self:
        """Rebuild what to_json gave; GeometryError names the key that is missing, unknown or wrong."""
        known = {field.name for field in fields(cls)}
        for name in block:
            if name not in known:
                raise GeometryError(f"geometry: unknown key {name}")
        for name in ("energy_ev", "distance_m", "pixel_size_m", "detector_shape_px", "crop_px"):
            if name not in block:
                raise GeometryError(f"geometry: key {name} is missing")
        return cls(**{name: _from_json_value(name, value) for name, value in block.items()})

    def differences(self, other: Geometry) -> tuple[str, ...]:
        """Name the fields in which two blocks differ; empty when they are the same (numbers to RELATIVE_TOLERANCE)."""
        names = [field.name for field in fields(self) if field.name != "crop_center_px"]
        different = [name for name in names if not _same(getattr(self, name), getattr(other, name))]
        if self.center_px != other.center_px:
            different.append("crop_center_px")
        return tuple(different)


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Turn an array into JSON values that decode_array understands."""
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes())).decode("ascii")
    return {"shape": list(array.shape), "dtype": array.dtype.name, "zlib_base64": packed}


def decode_array(block: Mapping[str, Any]) -> NDArray[Any]:
    """Undo encode_array; ValueError when the block is not one."""
    try:
        data = zlib.decompress(base64.b64decode(block["zlib_base64"], validate=True))
        return np.frombuffer(data, dtype=np.dtype(block["dtype"])).reshape(block["shape"]).copy()
    except (KeyError, TypeError, binascii.Error, zlib.error) as error:
        raise ValueError(f"not an encoded array: {error}") from error


def _to_json_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return encode_array(value)
    return list(value) if isinstance(value, tuple) else value


def _from_json_value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _ARRAY_DTYPES:
        if not isinstance(value, Mapping):
            raise GeometryError(f"geometry: {name} is not an encoded array")
        try:
            return decode_array(value)
        except ValueError as error:
            raise GeometryError(f"geometry: {name} is {error}") from error
    return tuple(value) if isinstance(value, list) else value


def _same(one: Any, two: Any) -> bool:
    if one is None or two is None:
        return one is two
    if isinstance(one, np.ndarray):
        return one.shape == two.shape and bool(np.allclose(one, two, rtol=RELATIVE_TOLERANCE, atol=0))
    if isinstance(one, float) or isinstance(two, float):
        return math.isclose(one, two, rel_tol=RELATIVE_TOLERANCE)
    return bool(one == two)


def _require(condition: bool, name: str, wanted: str, value: object) -> None:
    if not condition:
        raise GeometryError(f"geometry: {name} must be {wanted}, not {value}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_integer(item) for item in value)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
