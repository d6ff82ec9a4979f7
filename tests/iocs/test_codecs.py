"""Compressed frames: what HDF5's own filters wrote is read, and nothing else that claims to be a frame."""

import tracemalloc
import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest

from iocs.codecs import MAX_BYTES, SCALAR_TYPES, decompress
from phasing.errors import FrameRejected

TYPES = SCALAR_TYPES[1:]
SHAPES = [(128, 128), (37, 41), (3, 5), (1, 1)]
HEADER = 12
U2 = SCALAR_TYPES.index("u2")
BLOSC = [(name, shuffle) for name in ("blosclz", "lz4", "lz4hc", "zlib", "zstd") for shuffle in (0, 1, 2)]


def counts(dtype, shape):
    return np.random.default_rng(3).poisson(5, shape).astype(dtype)


def chunk(array, **filters):
    """The bytes that an HDF5 filter makes of an array; None where it left the array as it was."""
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("data", data=array, chunks=array.shape, **filters)
        file.flush()
        unfiltered, written = dataset.id.read_direct_chunk((0, 0))
    return None if unfiltered else np.frombuffer(written, np.uint8)


def check(codec, data, array):
    found = decompress(codec, SCALAR_TYPES.index(array.dtype.str[1:]), data, array.size)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found.reshape(array.shape), array)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
class TestEveryTypeAndShape:
    @pytest.mark.parametrize("block", [0, 64])
    def test_bitshuffled_lz4_with_the_header_of_hdf5(self, dtype, shape, block):
        array = counts(dtype, shape)
        check("bslz4hdf5", chunk(array, **hdf5plugin.Bitshuffle(nelems=block, cname="lz4")), array)

    def test_bitshuffled_lz4_without_header(self, dtype, shape):
        array = counts(dtype, shape)
        check("bslz4", chunk(array, **hdf5plugin.Bitshuffle(cname="lz4"))[HEADER:], array)

    @pytest.mark.parametrize("block_bytes", [0, 200])
    def test_lz4_with_the_header_of_hdf5(self, dtype, shape, block_bytes):
        array = counts(dtype, shape)
        check("lz4hdf5", chunk(array, **hdf5plugin.LZ4(nbytes=block_bytes)), array)

    def test_lz4(self, dtype, shape):
        array = np.broadcast_to(
            counts(dtype, shape)[:, :1], (shape[0], 64)
        ).copy()  # LZ4 makes it smaller: no raw block
        check("lz4", chunk(array, **hdf5plugin.LZ4())[HEADER + 4 :], array)

    def test_zlib(self, dtype, shape):
        array = counts(dtype, shape)
        check("zlib", np.frombuffer(zlib.compress(array.tobytes()), np.uint8), array)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("compressor", "shuffle"), BLOSC)
def test_blosc_with_any_compressor_and_shuffle(dtype, compressor, shuffle):
    array = np.sort(counts(dtype, (128, 128)).ravel()).reshape(128, 128)
    data = chunk(array, **hdf5plugin.Blosc(cname=compressor, shuffle=shuffle))
    assert data is not None
    check("blosc", data, array)


def test_blosc_with_snappy_is_refused_by_that_name():
    data = SENT["blosc"].copy()
    data[2] = data[2] & 0b11111 | 2 << 5
    with pytest.raises(FrameRejected, match="compressed by blosc: snappy inside"):
        decompress("blosc", U2, data, FRAME.size)


FRAME = counts("u2", (64, 61))
RAW = FRAME.tobytes()
SENT = {
    "lz4hdf5": chunk(FRAME, **hdf5plugin.LZ4(nbytes=1000)),
    "bslz4hdf5": chunk(FRAME, **hdf5plugin.Bitshuffle(cname="lz4")),
    "bslz4": chunk(FRAME, **hdf5plugin.Bitshuffle(cname="lz4"))[HEADER:],
    "lz4": chunk(FRAME, **hdf5plugin.LZ4())[HEADER + 4 :],
    "blosc": chunk(FRAME, **hdf5plugin.Blosc(cname="lz4")),
    "zlib": np.frombuffer(zlib.compress(RAW), np.uint8),
}
EVERY_CODEC = pytest.mark.parametrize("codec", SENT)


@EVERY_CODEC
def test_bytes_cut_short_are_refused(codec):
    for length in {*range(40), *range(len(SENT[codec]) - 20, len(SENT[codec]))}:
        with pytest.raises(FrameRejected, match=f"compressed by {codec}"):
            decompress(codec, U2, SENT[codec][:length], FRAME.size)


@EVERY_CODEC
@pytest.mark.parametrize("number", [1, 4, 2000])
def test_bytes_behind_the_frame_are_refused(codec, number):
    with pytest.raises(FrameRejected, match=f"compressed by {codec}"):
        decompress(codec, U2, np.pad(SENT[codec], (0, number)), FRAME.size)


@EVERY_CODEC
def test_of_more_bytes_than_count_only_those_that_count_are_read(codec):
    data = SENT[codec]
    found = decompress(codec, U2, np.pad(data, (0, 9)), FRAME.size, size_bytes=len(data))
    np.testing.assert_array_equal(found, FRAME.ravel())


@pytest.mark.parametrize("codec", ["lz4hdf5", "bslz4hdf5"])
@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [(7, 0, "bytes for"), (0, 1, "bytes for"), (slice(8, 12), 0, "blocks of 0 bytes"), (11, 7, "compressed by")],
)
def test_a_header_that_lies_is_refused(codec, place, value, reason):
    data = SENT[codec].copy()
    data[place] = value
    with pytest.raises(FrameRejected, match=reason):
        decompress(codec, U2, data, FRAME.size)


def test_a_bitshuffled_block_that_lz4_leaves_as_long_as_it_was_is_compressed_all_the_same():
    filters = hdf5plugin.Bitshuffle(nelems=64, cname="lz4")
    for seed in range(10_000):
        array = np.random.default_rng(seed).integers(0, 256, (1, 64), np.uint8)
        array[0, : seed % 64] &= 0xF0
        data = chunk(array, **filters)
        if data is not None and len(data) == HEADER + 4 + 64:
            break
    else:
        raise AssertionError("no such block")
    check("bslz4hdf5", data, array)


@EVERY_CODEC
@pytest.mark.parametrize("count", [1, FRAME.size - 1, FRAME.size + 1, 2 * FRAME.size])
def test_bytes_of_another_number_of_pixels_are_refused(codec, count):
    with pytest.raises(FrameRejected, match=f"compressed by {codec}"):
        decompress(codec, U2, SENT[codec], count)


@EVERY_CODEC
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8"])
def test_bytes_of_a_type_of_another_size_are_refused(codec, dtype):
    with pytest.raises(FrameRejected, match=f"compressed by {codec}"):
        decompress(codec, SCALAR_TYPES.index(dtype), SENT[codec], FRAME.size)


@EVERY_CODEC
def test_spoilt_bytes_are_refused_or_give_as_many_pixels(codec):
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(1000):
        data = SENT[codec].copy()
        places = random.integers(0, random.choice([24, len(data)]), 4)
        data[places] = random.integers(0, 256, 4)
        try:
            assert decompress(codec, U2, data, FRAME.size).shape == (FRAME.size,)
        except FrameRejected:
            refused += 1
    assert refused > 300


OTHERS_BYTES = 2**24
"""What other threads of the test process may take meanwhile: a fourth of the smallest claim."""


@EVERY_CODEC
@pytest.mark.parametrize("dtype", TYPES)
def test_a_claim_of_more_than_a_frame_may_have_costs_no_memory(codec, dtype):
    claimed = MAX_BYTES // np.dtype(dtype).itemsize + 1
    tracemalloc.start()
    try:
        with pytest.raises(FrameRejected, match="more than 1073741824 bytes"):
            decompress(codec, SCALAR_TYPES.index(dtype), SENT[codec], claimed)
        assert tracemalloc.get_traced_memory()[1] < OTHERS_BYTES
    finally:
        tracemalloc.stop()


def test_bytes_that_expand_to_more_than_the_frame_do_not():
    bomb = np.frombuffer(zlib.compress(bytes(2**26)), np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(FrameRejected, match="more than 8 bytes"):
            decompress("zlib", U2, bomb, 4)
        assert tracemalloc.get_traced_memory()[1] < OTHERS_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", ["jpeg", "lz5", "LZ4", "x" * 10_000])
def test_a_codec_that_is_not_read_is_named(codec):
    with pytest.raises(
        FrameRejected, match=f"compressed by {codec[:40]}, which is not read; read are none, lz4, "
    ) as told:
        decompress(codec, U2, SENT["lz4"], FRAME.size)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("scalar_type", [0, 11, -1, None, "6", 6.0])
def test_a_type_that_is_no_number_of_pvdata_is_refused(scalar_type):
    with pytest.raises(FrameRejected, match="compressed by lz4 from a type that is no number's"):
        decompress("lz4", scalar_type, SENT["lz4"], FRAME.size)
