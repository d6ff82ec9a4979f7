"""Compressed frames as areaDetector's plugins and drivers send them: bytes, a codec's name and a type in, pixels out.

The senders are ADCore's NDPluginCodec and the Eiger driver, which passes on what the detector compressed: lz4hdf5 as it
is, bslz4 without its 12 bytes of header. The layouts and where they are from: docs/decisions/12-codecs.md.
"""

import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from phasing.errors import FrameRejected

_library: Any = imagecodecs
"""Its annotations leave out the arrays that it takes."""
Bytes = npt.NDArray[np.uint8]
MAX_BYTES = 2**30
"""No frame takes more, whatever its dimensions claim."""
SCALAR_TYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")
"""numpy's types in the order of pvData's ScalarType, whose number a compressed NTNDArray carries; boolean first."""
_HDF5_HEADER = 12
_BLOSC_HEADER = 16
_BLOSC_FORMAT = 2
_BLOSC_STORED = 0x02
_BLOSC_SNAPPY = 2
_SHUFFLED_BLOCK_BYTES = 8192
_SHUFFLED_TOGETHER = 8


def decompress(
    codec: str, scalar_type: object, data: npt.NDArray[Any], count: int, *, size_bytes: int = 0
) -> npt.NDArray[Any]:
    """The `count` pixels, shape (count,), of compressed bytes; allocates what they take, twice at most.

    `scalar_type` is the pvData number of their type; of `data`, `size_bytes` count, all where it is 0. Raises
    FrameRejected for a codec or type that is not known, and for bytes that are not `count` pixels.
    """
    expand = _CODECS.get(codec)
    if expand is None:
        raise FrameRejected(f"compressed by {codec[:40]}, which is not read; read are none, {', '.join(_CODECS)}")
    if not isinstance(scalar_type, int) or not 0 < scalar_type < len(SCALAR_TYPES):
        raise FrameRejected(f"compressed by {codec} from a type that is no number's: {str(scalar_type)[:40]!r}")
    dtype = np.dtype(SCALAR_TYPES[scalar_type])
    if count * dtype.itemsize > MAX_BYTES:
        raise FrameRejected(f"{count} pixels of {dtype}, more than {MAX_BYTES} bytes")
    try:
        return expand(_bytes(data, size_bytes), np.empty(count, dtype))
    except _Spoilt as error:
        raise FrameRejected(f"compressed by {codec}: {error}") from error
    except (RuntimeError, ValueError, zlib.error) as error:  # imagecodecs' own errors are RuntimeErrors
        raise FrameRejected(f"compressed by {codec}: these bytes are not {count} pixels of {dtype}") from error


class _Spoilt(Exception):
    """What is wrong with compressed bytes."""


def _expect(expected: int, found: int, what: str) -> None:
    if expected != found:
        raise _Spoilt(f"{found} {what} for {expected}")


def _bytes(data: npt.NDArray[Any], size_bytes: int) -> Bytes:
    if data.dtype.itemsize != 1:
        raise _Spoilt(f"{data.dtype} in place of bytes")
    if size_bytes > data.size:
        raise _Spoilt(f"{data.size} bytes of {size_bytes}")
    return np.ascontiguousarray(data.view(np.uint8)[: size_bytes if size_bytes > 0 else None])


def _lz4(data: Bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One block of LZ4, which says no size."""
    _expect(pixels.nbytes, len(_library.lz4_decode(data, out=pixels.view(np.uint8))), "bytes")
    return pixels


def _zlib(data: Bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    stream = zlib.decompressobj()
    expanded = stream.decompress(data.data, pixels.nbytes)
    _expect(pixels.nbytes, len(expanded), "bytes")
    if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
        raise _Spoilt(f"more than {pixels.nbytes} bytes")
    if not stream.eof:
        raise _Spoilt("the end is missing")
    _expect(0, len(stream.unused_data), "bytes left over")
    return np.frombuffer(expanded, pixels.dtype)


def _blosc(data: Bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Blosc 1 with blosclz, lz4, lz4hc, zlib or zstd inside; the library, which believes the header, has no snappy.

    Header: format, its compressor's format, flags, type size, then pixels', a block's and all bytes, little-endian u4;
    in the flags, bit 1 says that nothing was compressed and bits 5 to 7 by what.
    """
    if len(data) < _BLOSC_HEADER or data[0] != _BLOSC_FORMAT:
        raise _Spoilt("no header")
    if data[2] >> 5 == _BLOSC_SNAPPY and not data[2] & _BLOSC_STORED:
        raise _Spoilt("snappy inside, which is not read")
    expanded, _, compressed = data[4:_BLOSC_HEADER].view("<u4").tolist()
    _expect(pixels.nbytes, expanded, "bytes")
    _expect(len(data), compressed, "compressed bytes in its header")
    _expect(pixels.nbytes, len(_library.blosc_decode(data, numthreads=1, out=pixels.view(np.uint8))), "bytes")
    return pixels


def _bslz4(data: Bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Blocks of the size that bitshuffle takes where nobody says another."""
    return _shuffled(data, pixels, _SHUFFLED_BLOCK_BYTES // pixels.itemsize)


def _bslz4hdf5(data: Bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The chunk of bitshuffle's HDF5 filter: a header with the block size in bytes, then as without."""
    block_bytes = _hdf5_block_bytes(data, pixels)
    block, rest = divmod(block_bytes, pixels.itemsize)
    if rest or not block or block % _SHUFFLED_TOGETHER:
        raise _Spoilt(f"blocks of {block_bytes} bytes")
    return _shuffled(data[_HDF5_HEADER:], pixels, block)


def _lz4hdf5(data: Bytes, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The chunk of the LZ4 HDF5 filter: a header with the block size in bytes, blocks raw where LZ4 saves nothing."""
    block = _hdf5_block_bytes(data, pixels)
    if not block:
        raise _Spoilt("blocks of 0 bytes")
    left = _expand_blocks(data[_HDF5_HEADER:], pixels.view(np.uint8), block, raw=True)
    _expect(0, len(left), "bytes left over")
    return pixels


def _hdf5_block_bytes(data: Bytes, pixels: npt.NDArray[Any]) -> int:
    if len(data) < _HDF5_HEADER:
        raise _Spoilt("no header")
    _expect(pixels.nbytes, int.from_bytes(data[:8].tobytes(), "big"), "bytes")
    return int.from_bytes(data[8:_HDF5_HEADER].tobytes(), "big")


def _shuffled(data: Bytes, pixels: npt.NDArray[Any], block: int) -> npt.NDArray[Any]:
    """Pixels whose bits were transposed in blocks of `block` before LZ4; those behind the last 8 are as they were."""
    whole = pixels.size - pixels.size % _SHUFFLED_TOGETHER
    shuffled = np.empty(pixels.nbytes, np.uint8)
    whole_bytes = whole * pixels.itemsize
    left = _expand_blocks(data, shuffled[:whole_bytes], block * pixels.itemsize, raw=False)
    _expect(pixels.nbytes - whole_bytes, len(left), "bytes behind the last block")
    shuffled[whole_bytes:] = left
    unshuffled: npt.NDArray[Any] = _library.bitshuffle_decode(shuffled.view(pixels.dtype), blocksize=block, out=pixels)
    return unshuffled


def _expand_blocks(data: Bytes, out: Bytes, block: int, *, raw: bool) -> Bytes:
    """Fill `out` from LZ4 blocks of `block` bytes, each behind its compressed length in big-endian u4; what is left.

    With `raw`, a block whose length is that of its content is not compressed.
    """
    source, target, at = data.data, out.data, 0
    for start in range(0, len(target), block):
        place = target[start : start + block]
        length = int.from_bytes(source[at : at + 4], "big")
        at += 4 + length
        if at > len(source):
            raise _Spoilt("cut short")
        content = source[at - length : at]
        if raw and length == len(place):
            place[:] = content
        else:
            _expect(len(place), len(_library.lz4_decode(content, out=place)), "bytes in a block")
    return data[at:]


_CODECS: dict[str, Callable[[Bytes, npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "lz4": _lz4,
    "bslz4": _bslz4,
    "blosc": _blosc,
    "zlib": _zlib,
    "lz4hdf5": _lz4hdf5,
    "bslz4hdf5": _bslz4hdf5,
}
