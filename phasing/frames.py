"""One diffraction frame, and its preparation: the same for training and for live inference."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasing.errors import FrameRejected
from phasing.geometry import Geometry

_HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame as the detector gave it: counts (H, W) of any real dtype, Unix time, and (y, x) in the sample plane.

    The pixel of the sample that lies at the frame's centre (index n // 2 of an n pixel patch) is at position_m.
    """

    unique_id: int
    time_s: float
    scan_id: str
    counts: NDArray[Any]
    position_m: tuple[float, float] | None


def held_out(scan_id: str, unique_id: int) -> bool:
    """Tell whether a frame belongs to the tenth that is never trained on, the same for ever and everywhere."""
    digest = hashlib.sha256(f"{scan_id}:{unique_id}".encode()).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT_ONE_IN == 0


def prepare(counts: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Turn raw frames into what the network and phase retrieval take.

    counts: (N, H, W) of any real dtype, raw. Returns (N, n, n) float32 counts, n = geometry.frame_px, with zero
    frequency at index crop_px // 2 before binning by the mean. Bad pixels (masked, saturated, not finite, more than
    float32 holds, or at the maximum of an integer dtype, which marks gaps) leave a bin's mean; a bin with none left
    is 0. Dark is subtracted, then flat multiplied, and what is negative becomes 0. Raises FrameRejected.
    """
    _check(counts, geometry)
    if _is_clean(counts, geometry):
        return _bin_mean(_crop(oriented(counts, geometry), geometry).astype(np.float32, order="C"), geometry.bin_px)
    good = _good_pixels(counts, geometry)
    values = _corrected(counts, good, geometry)
    square = np.ascontiguousarray(_crop(oriented(values, geometry), geometry))
    if geometry.bin_px == 1:
        return square
    share = _bin_mean(_crop(oriented(good, geometry), geometry).astype(np.float32, order="C"), geometry.bin_px)
    mean = _bin_mean(square, geometry.bin_px)
    return np.divide(mean, share, out=np.zeros_like(mean), where=share > 0)


def measured(counts: NDArray[Any], geometry: Geometry) -> NDArray[np.bool_]:
    """Tell which pixels of prepared frames were measured in at least one of these raw frames.

    counts: (N, H, W), as for prepare. Returns (n, n) bool. A pixel that no mask names but that is at the maximum of its
    dtype in every frame is a gap between detector modules: its 0 in prepared frames is no measurement. Raises
    FrameRejected.
    """
    _check(counts, geometry)
    good = np.logical_or.reduce(_good_pixels(counts, geometry), axis=0, keepdims=True)
    share = _bin_mean(_crop(oriented(good, geometry), geometry).astype(np.float32, order="C"), geometry.bin_px)
    return np.asarray(share[0] > 0)


def oriented(stack: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Return a view of (..., H, W) raw frames, transposed and flipped to the sample's axes."""
    view = stack.swapaxes(-1, -2) if geometry.transpose else stack
    view = view[..., ::-1, :] if geometry.flip_rows else view
    return view[..., ::-1] if geometry.flip_columns else view


def embed(frames: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """Put oriented (N, crop_px, crop_px) frames where prepare finds them in raw (N, H, W) frames, 0 elsewhere."""
    raw = np.zeros((len(frames), *geometry.detector_shape_px), frames.dtype)
    target = oriented(raw, geometry)
    row, column = geometry.crop_start_px
    height, width = geometry.oriented_shape_px
    rows = np.arange(row, row + geometry.crop_px) % height
    columns = np.arange(column, column + geometry.crop_px) % width
    target[:, rows[:, None], columns] = frames
    return raw


def _check(counts: NDArray[Any], geometry: Geometry) -> None:
    if counts.ndim != 3:
        raise FrameRejected(f"frames must be (N, H, W), not {counts.ndim}-dimensional")
    if counts.shape[1:] != geometry.detector_shape_px:
        raise FrameRejected(
            f"a frame of shape {counts.shape[1:]} does not fit the geometry's {geometry.detector_shape_px}"
        )
    if counts.dtype.kind not in "iuf":
        raise FrameRejected(f"a frame of dtype {counts.dtype} holds no counts")


def _is_clean(counts: NDArray[Any], geometry: Geometry) -> bool:
    """Tell whether no pixel needs care: two passes that cost less than any correction (NaN fails the comparison)."""
    if geometry.mask is not None or geometry.dark_counts is not None or geometry.flat is not None or not counts.size:
        return False
    if counts.dtype.kind != "u" and not counts.min() >= 0:
        return False
    return bool(counts.max() < _lowest_bad_counts(counts.dtype, geometry))


def _lowest_bad_counts(dtype: np.dtype[Any], geometry: Geometry) -> float:
    saturation = np.inf if geometry.saturation_counts is None else geometry.saturation_counts
    if dtype.kind != "f":
        return min(saturation, int(np.iinfo(dtype).max))
    return saturation if np.can_cast(dtype, np.float32) else min(saturation, float(np.finfo(np.float32).max))


def _good_pixels(counts: NDArray[Any], geometry: Geometry) -> NDArray[np.bool_]:
    good: NDArray[np.bool_] = counts < _lowest_bad_counts(counts.dtype, geometry)
    if counts.dtype.kind == "f":
        finite = np.isfinite(counts)
        empty = np.flatnonzero(~finite.any(axis=(1, 2)))
        if empty.size:
            raise FrameRejected(f"frame {empty[0]} of {len(counts)} holds no finite number")
        good &= finite
    if geometry.mask is not None:
        good &= ~geometry.mask
    return good


def _corrected(counts: NDArray[Any], good: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float32]:
    values = np.where(good, counts, 0).astype(np.float32)
    if geometry.dark_counts is not None:
        values -= geometry.dark_counts
    if geometry.flat is not None:
        values *= geometry.flat
    np.maximum(values, 0, out=values)
    values *= good
    return values


def _crop(view: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    row, column = geometry.crop_start_px
    height, width = geometry.oriented_shape_px
    side = geometry.crop_px
    if min(row, column) < 0 or row + side > height or column + side > width:
        return np.roll(view, (-row, -column), axis=(-2, -1))[..., :side, :side]
    return view[..., row : row + side, column : column + side]


def _bin_mean(square: NDArray[np.float32], bin_px: int) -> NDArray[np.float32]:
    if bin_px == 1:
        return square
    num, side = square.shape[0], square.shape[1] // bin_px
    blocks = square.reshape(num, side, bin_px, side * bin_px).sum(axis=2).reshape(num, side, side, bin_px)
    mean: NDArray[np.float32] = blocks.sum(axis=3) * np.float32(1 / bin_px**2)
    return mean
