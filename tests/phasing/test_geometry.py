import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phasing.errors import GeometryError
from phasing.geometry import Geometry


def geometry(**changes: Any) -> Geometry:
    values: dict[str, Any] = {
        "energy_ev": 10_400.0,
        "distance_m": 1.55,
        "pixel_size_m": 110e-6,
        "detector_shape_px": (70, 90),
        "crop_px": 64,
    }
    return Geometry(**{**values, **changes})


def full_geometry() -> Geometry:
    rng = np.random.default_rng(1)
    return geometry(
        crop_center_px=(36, 40),
        bin_px=2,
        transpose=True,
        flip_columns=True,
        saturation_counts=50_000.0,
        mask=rng.random((70, 90)) < 0.01,
        dark_counts=rng.random((70, 90)),
        flat=1 + rng.random((70, 90)),
    )


def test_object_pixel_follows_the_far_field_formula() -> None:
    assert geometry().wavelength_m == pytest.approx(1.19216e-10, rel=1e-5)
    assert geometry().object_pixel_size_m == pytest.approx(26.25e-9, rel=1e-3)


def test_binning_keeps_the_object_pixel_and_shrinks_the_frame() -> None:
    binned = geometry(bin_px=4)
    assert binned.object_pixel_size_m == geometry().object_pixel_size_m
    assert binned.frame_px == 16


def test_json_brings_the_same_block_back() -> None:
    block = json.loads(json.dumps(full_geometry().to_json()))
    back = Geometry.from_json(block)
    assert back.differences(full_geometry()) == ()
    assert back.mask is not None and back.mask.dtype == np.bool_
    assert back.flat is not None and back.flat.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("energy_ev", 10_401.0),
        ("distance_m", 1.56),
        ("detector_shape_px", (70, 91)),
        ("crop_center_px", (35, 44)),
        ("bin_px", 2),
        ("transpose", True),
        ("flip_rows", True),
        ("saturation_counts", 1000.0),
        ("mask", np.eye(70, 90) > 0),
    ],
)
def test_differences_name_the_field(name: str, value: object) -> None:
    assert name in geometry().differences(geometry(**{name: value}))


def test_differences_overlook_rounding_and_a_centre_that_is_spelt_out() -> None:
    assert geometry().differences(geometry(energy_ev=10_400.000001, crop_center_px=(35, 45))) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("energy_ev", 0.0),
        ("energy_ev", float("nan")),
        ("distance_m", -1.0),
        ("pixel_size_m", "55e-6"),
        ("detector_shape_px", (70,)),
        ("detector_shape_px", (70.0, 90.0)),
        ("crop_px", 71),
        ("crop_px", 64.0),
        ("crop_center_px", (5, 45)),
        ("crop_center_px", (35, 60)),
        ("bin_px", 3),
        ("bin_px", 0),
        ("flip_rows", 1),
        ("saturation_counts", 0.0),
        ("mask", np.zeros((90, 70), bool)),
        ("dark_counts", np.full((70, 90), np.nan)),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(GeometryError, match=name):
        geometry(**{name: value})


@pytest.mark.parametrize("key", ["energy_ev", "crop_px"])
def test_json_without_a_key_is_refused_by_name(key: str) -> None:
    block = geometry().to_json()
    del block[key]
    with pytest.raises(GeometryError, match=key):
        Geometry.from_json(block)


@pytest.mark.parametrize("value", [3, {}, {"zlib_base64": "?", "dtype": "bool", "shape": [70, 90]}])
def test_json_with_a_broken_array_is_refused_by_name(value: object) -> None:
    with pytest.raises(GeometryError, match="mask"):
        Geometry.from_json({**geometry().to_json(), "mask": value})


def test_json_with_an_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(GeometryError, match="energy_kev"):
        Geometry.from_json({**geometry().to_json(), "energy_kev": 10.4})


def test_arrays_of_a_block_cannot_be_changed() -> None:
    mask = full_geometry().mask
    assert mask is not None
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = True


def test_a_whole_even_frame_may_be_flipped() -> None:
    whole = replace(geometry(), detector_shape_px=(64, 64), flip_rows=True)
    assert whole.crop_start_px == (-1, 0)
