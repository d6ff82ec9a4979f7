import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from phasing.errors import FrameRejected
from phasing.frames import embed, held_out, measured, prepare
from phasing.geometry import Geometry

SHAPE = (20, 24)
ORIENTATIONS = list(itertools.product([False, True], repeat=3))
# Fixed for ever: a change here would let validation frames into training.
HELD_OUT_OF_2C1B = [18, 28, 29, 35, 45, 57, 58]


def geometry(**changes: Any) -> Geometry:
    values: dict[str, Any] = {
        "energy_ev": 10_400.0,
        "distance_m": 1.55,
        "pixel_size_m": 110e-6,
        "detector_shape_px": SHAPE,
        "crop_px": 16,
    }
    return Geometry(**{**values, **changes})


def raw_frames(num: int = 3, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 100, (num, *SHAPE)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64", "float32", "float64"])
def test_the_crop_is_centred_and_float32(dtype: str) -> None:
    frames = raw_frames(dtype=dtype)
    result = prepare(frames, geometry())
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_array_equal(result, frames[:, 2:18, 4:20])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("center", [None, (9, 13)])
def test_zero_frequency_lands_in_the_middle_whichever_way_up(
    orientation: tuple[bool, bool, bool], center: tuple[int, int] | None
) -> None:
    transpose, flip_rows, flip_columns = orientation
    block = geometry(transpose=transpose, flip_rows=flip_rows, flip_columns=flip_columns, crop_center_px=center)
    frames = raw_frames()
    frames[:, block.center_px[0], block.center_px[1]] = 5000
    assert (prepare(frames, block)[:, 8, 8] == 5000).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("whole", [False, True])
def test_prepare_undoes_embed(orientation: tuple[bool, bool, bool], whole: bool) -> None:
    transpose, flip_rows, flip_columns = orientation
    size = {"detector_shape_px": (16, 16)} if whole else {"crop_center_px": (9, 13)}
    block = geometry(transpose=transpose, flip_rows=flip_rows, flip_columns=flip_columns, **size)
    square = np.random.default_rng(0).integers(0, 100, (2, 16, 16)).astype(np.uint16)
    np.testing.assert_array_equal(prepare(embed(square, block), block), square)


def test_orientation_is_transpose_then_flips() -> None:
    frames = raw_frames()
    block = geometry(transpose=True, flip_rows=True, detector_shape_px=SHAPE)
    whole = frames.transpose(0, 2, 1)[:, ::-1]
    row, column = block.crop_start_px
    np.testing.assert_array_equal(prepare(frames, block), whole[:, row : row + 16, column : column + 16])


def test_the_slow_path_agrees_with_the_fast_one() -> None:
    frames = raw_frames()
    for changes in ({}, {"bin_px": 4}, {"transpose": True, "flip_columns": True, "bin_px": 2}):
        fast = prepare(frames, geometry(**changes))
        slow = prepare(frames, geometry(mask=np.zeros(SHAPE, bool), **changes))
        np.testing.assert_allclose(slow, fast, rtol=1e-6)


@pytest.mark.parametrize("bad", ["masked", "saturated", "maximum", "nan", "infinite"])
def test_bad_pixels_leave_the_mean_of_their_bin(bad: str) -> None:
    frames = np.full((1, *SHAPE), 8, "float32" if bad in ("nan", "infinite") else "uint16")
    mask = np.zeros(SHAPE, bool)
    mask[2, 4] = bad == "masked"
    frames[0, 2, 4] = {"masked": 999, "saturated": 500, "maximum": 65535, "nan": np.nan, "infinite": np.inf}[bad]
    block = geometry(bin_px=2, saturation_counts=500.0 if bad == "saturated" else None, mask=mask)
    np.testing.assert_array_equal(prepare(frames, block), np.full((1, 8, 8), 8))


def test_a_bin_without_a_good_pixel_is_zero() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 4:6] = True
    result = prepare(np.full((1, *SHAPE), 7, np.uint16), geometry(bin_px=2, mask=mask))
    assert result[0, 0, 0] == 0 and (result.ravel()[1:] == 7).all()


def test_what_float32_does_not_hold_is_bad() -> None:
    frames = raw_frames(dtype="float64")
    frames[0, 5, 5] = 1e300
    result = prepare(frames, geometry())
    assert np.isfinite(result).all()
    assert result[0, 3, 1] == 0
    np.testing.assert_array_equal(result[1:], frames[1:, 2:18, 4:20])


def test_dark_is_subtracted_before_flat_multiplies_and_negative_becomes_zero() -> None:
    dark, flat = np.full(SHAPE, 3.0), np.full(SHAPE, 2.0)
    dark[2, 4] = 100
    result = prepare(np.full((1, *SHAPE), 10, np.uint16), geometry(dark_counts=dark, flat=flat))
    assert result[0, 0, 0] == 0 and (result.ravel()[1:] == 14).all()


def test_negative_counts_become_zero() -> None:
    frames = raw_frames(dtype="int16")
    frames[:, 2, 4] = -5
    assert (prepare(frames, geometry())[:, 0, 0] == 0).all()


def test_the_raw_frame_is_left_alone() -> None:
    frames = raw_frames(dtype="float32")
    frames[:, 5, 5] = np.nan
    before = frames.copy()
    prepare(frames, geometry())[:] = 0
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros(SHAPE, np.uint16), "2-dimensional"),
        (np.zeros((1, 24, 20), np.uint16), r"\(24, 20\)"),
        (np.zeros((1, *SHAPE), np.complex64), "complex64"),
        (np.zeros((1, *SHAPE), bool), "bool"),
        (np.full((1, *SHAPE), np.nan), "finite"),
    ],
)
def test_what_is_no_frame_is_rejected_with_the_reason(frames: NDArray[Any], reason: str) -> None:
    with pytest.raises(FrameRejected, match=reason):
        prepare(frames, geometry())


def test_a_tenth_is_held_out_and_always_the_same() -> None:
    chosen = [held_out("a", unique_id) for unique_id in range(10_000)]
    assert 900 < sum(chosen) < 1100
    assert chosen != [held_out("b", unique_id) for unique_id in range(10_000)]
    assert [index for index in range(60) if held_out("2c1b", index)] == HELD_OUT_OF_2C1B


@pytest.mark.parametrize("bin_px", [1, 2])
def test_what_is_bad_in_every_frame_was_never_measured(bin_px: int) -> None:
    gap = geometry(bin_px=bin_px, mask=np.arange(20 * 24).reshape(SHAPE) == 0, flip_rows=True)
    frames = raw_frames()
    assert measured(frames, gap).all()
    first_row, first_column = 19 - gap.crop_start_px[0], gap.crop_start_px[1]
    frames[:, first_row - 1 : first_row + 1, first_column : first_column + 2] = 65_535
    frames[0, first_row - 5, first_column] = 65_535
    assert np.argwhere(~measured(frames, gap)).max() == 2 // bin_px - 1
    frames[1, first_row, first_column] = 7
    assert measured(frames, gap)[0, 0]
