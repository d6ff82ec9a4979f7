"""NTNDArray streams: what is encoded is decoded, x comes first on the wire, nobody else can write, readers recover."""

import time

import clients
import numpy as np
import pvaccess as pva
import pytest
from stream_source import HEIGHT, NAME, TIME_NS, WIDTH, Source, frame

from iocs.stream import NdFrame, StreamReader, decode, encode
from phasing.errors import FrameRejected

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_encoded_is_decoded(dtype):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    array = np.array([[info.min, 0, 1], [2, 3, info.max]], dtype=dtype)
    attributes = {"ScanId": "6f0e6f6c", "Sequence": 2**40, "PositionX": -1.25, "Empty": ""}
    decoded = decode(encode(NdFrame(2**31 - 1, TIME_NS, array, attributes)))
    assert (decoded.unique_id, decoded.time_ns) == (2**31 - 1, TIME_NS)
    assert decoded.array.dtype == dtype
    np.testing.assert_array_equal(decoded.array, array)
    assert decoded.attributes == {"ColorMode": 0, **attributes}


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">u2").reshape(2, 3), np.arange(12, dtype="u2").reshape(2, 6)[:, ::2]]
)
def test_any_memory_layout_is_encoded(array):
    np.testing.assert_array_equal(decode(encode(NdFrame(1, TIME_NS, array))).array, array)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros((2, 3, 4)), np.zeros((2, 3), complex), np.zeros((2, 3), bool), np.zeros((2, 3), "f2")],
)
def test_what_ntndarray_cannot_hold_is_refused(array):
    with pytest.raises(FrameRejected, match="no two-dimensional array"):
        encode(NdFrame(1, TIME_NS, array))


def test_a_stream_without_frames_decodes_to_none():
    assert decode(pva.NtNdArray()) is None


def colour(made):
    made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (1, WIDTH, HEIGHT)]


def compressed(made):
    made["codec"] = pva.PvCodec("lz4", pva.PvInt(0))


def too_short(made):
    made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (WIDTH, HEIGHT + 1)]


def line(made):
    made["dimension"] = [pva.PvDimension(WIDTH, 0, WIDTH, 1, False)]


def no_dimensions(made):
    made["dimension"] = []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (colour, "3 dimensions"),
        (line, "1 dimensions"),
        (no_dimensions, "0 dimensions"),
        (compressed, "compressed by lz4"),
        (too_short, "6 pixels for 3 x 3"),
    ],
)
def test_what_is_no_plain_image_is_rejected(spoil, reason):
    made = encode(frame(1))
    spoil(made)
    with pytest.raises(FrameRejected, match=reason):
        decode(made)


def next_frame(reader):
    """The next frame, past the empty first update of a stream that is new."""
    while True:
        received = reader.next(clients.DEADLINE_S)
        if received is None:
            raise TimeoutError("no update")
        decoded = decode(received)
        if decoded is not None:
            return decoded


def see_shape():
    with Source() as source, clients.pva(nt=False) as raw, clients.pva() as context:
        source.send(7)
        value = raw.get(NAME)
        return (
            [dimension.size for dimension in value.dimension],
            list(context.get(NAME).shape),
            context.get(NAME).tolist(),
            [value.uniqueId, value.timeStamp.secondsPastEpoch * 10**9 + value.timeStamp.nanoseconds],
            {attribute.name: attribute.value for attribute in value.attribute},
            value.display.units,
        )


def test_x_comes_first_on_the_wire(place):
    dimension, shape, array, stamp, attributes, units = place.call(see_shape)
    assert dimension == [WIDTH, HEIGHT]
    assert shape == [HEIGHT, WIDTH]
    assert array == frame(7).array.tolist()
    assert stamp == [7, TIME_NS + 7]
    assert attributes == {"ColorMode": 0, "ScanId": "one", "PositionX": 1.5}
    assert units == "counts"


def put_into_the_stream():
    with Source() as source, clients.pva(nt=False) as context:
        reader = StreamReader(NAME, queue_size=10)
        source.send(1)
        seen = [next_frame(reader).unique_id]
        refusals = [clients.pva_put(context, NAME, {"uniqueId": 77})]
        for put in (
            lambda channel: channel.put(pva.PvInt(77), "uniqueId"),
            lambda channel: channel.put(pva.PvObject({"uniqueId": pva.INT}, {"uniqueId": 77})),
        ):
            try:
                put(pva.Channel(NAME))
                refusals.append("taken")
            except pva.PvaException as error:
                refusals.append(str(error))
        now = context.get(NAME).uniqueId
        source.send(2)
        seen.append(next_frame(reader).unique_id)
        reader.close()
    return refusals, now, seen


def test_a_put_into_a_stream_is_refused_and_the_stream_goes_on(place):
    refusals, now, seen = place.call(put_into_the_stream)
    assert all("not allowed" in refusal for refusal in refusals), refusals
    assert now == 1 and seen == [1, 2]


def overflow():
    with Source() as source:
        reader = StreamReader(NAME, queue_size=4)
        assert decode(reader.next(clients.DEADLINE_S)) is None  # a new stream's first update is empty
        for number in range(1, 21):  # one by one: the server's queue is no longer than ours
            source.send(number)
            wait_arrived(reader, number)
        left = [next_frame(reader).unique_id for _ in range(reader.counters().waiting)]
        reader.close()
        return left, reader.counters().overflowed


def wait_arrived(reader, number):
    """Wait until that many updates came to our queue, held or not."""
    deadline = time.monotonic() + clients.DEADLINE_S
    while (counters := reader.counters()).waiting + counters.overflowed < number:
        assert time.monotonic() < deadline, counters
        time.sleep(0.001)


def test_what_our_queue_cannot_hold_is_counted(place):
    left, overflowed = place.call(overflow)
    assert left == [1, 2, 3, 4]
    assert overflowed == 16


def restart():
    seen = []
    with Source() as source:
        reader = StreamReader(NAME, queue_size=10)
        source.send(1)
        seen.append(next_frame(reader).unique_id)
    with Source() as source:
        assert decode(reader.next(clients.DEADLINE_S)) is None  # the restarted stream's first update: connected again
        source.send(2)
        seen.append(next_frame(reader).unique_id)
    reader.close()
    return seen


def test_a_reader_connects_again_when_the_server_was_killed(place):
    assert place.call(restart) == [1, 2]
