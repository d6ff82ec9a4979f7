"""NTNDArray streams: what is encoded is decoded, x comes first on the wire, nobody else can write, readers recover."""

import re
import time
import zlib
from dataclasses import replace

import clients
import numpy as np
import pvaccess as pva
import pytest
from frame_sender import COUNT, Sender, frames
from stream_source import HEIGHT, NAME, TIME_NS, WIDTH, Source, frame
from test_codecs import FRAME, SENT

from iocs.codecs import SCALAR_TYPES
from iocs.stream import LATEST_S, Encoder, NdFrame, StreamReader, decode, encode
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


def of_bayer_pixels(made):
    made["attribute"] = [pva.NtAttribute("ColorMode", pva.PvInt(1))]


def compressed(made):
    made["codec"] = pva.PvCodec("jpeg", pva.PvInt(5))


def compressed_without_type(made):
    made["codec"] = pva.PvCodec("zlib", pva.PvString("ushort"))


def compressed_but_not_in_bytes(made):
    made["codec"] = pva.PvCodec("lz4", pva.PvInt(6))


def cut_short(made):
    made["value"] = {"ubyteValue": np.zeros(5, "u1")}
    made["codec"] = pva.PvCodec("lz4", pva.PvInt(6))
    made["compressedSize"] = 6


def of_more_pixels_than_memory(made):
    made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (2**31 - 1, 2**31 - 1)]
    made["codec"] = pva.PvCodec("lz4", pva.PvInt(6))


def without_pixels(made):
    made["value"] = {"ushortValue": np.zeros(0, "u2")}
    made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (WIDTH, 0)]


def without_sent_pixels(made):
    made["value"] = {"ushortValue": np.zeros(0, "u2")}


def too_short(made):
    made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (WIDTH, HEIGHT + 1)]


def line(made):
    made["dimension"] = [pva.PvDimension(WIDTH, 0, WIDTH, 1, False)]


def no_dimensions(made):
    made["dimension"] = []


def of_another_age(made):
    made.setLong("timeStamp.secondsPastEpoch", 2**63 - 1)


def from_before_1970(made):
    made.setLong("timeStamp.secondsPastEpoch", -1)


def of_too_many_nanoseconds(made):
    made.setInt("timeStamp.nanoseconds", 10**9)


def of_negative_nanoseconds(made):
    made.setInt("timeStamp.nanoseconds", -1)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (of_another_age, "9223372036854775807 s"),
        (from_before_1970, "time stamp of -1 s"),
        (of_too_many_nanoseconds, "1000000000 ns, which is no Unix time"),
        (of_negative_nanoseconds, "-1 ns"),
        (colour, "3 dimensions"),
        (line, "1 dimensions"),
        (no_dimensions, "0 dimensions"),
        (of_bayer_pixels, "ColorMode 1, only mono"),
        (compressed, "compressed by jpeg, which is not read"),
        (compressed_without_type, "no number's: 'ushort'"),
        (compressed_but_not_in_bytes, "compressed by lz4: uint16 in place of bytes"),
        (cut_short, "compressed by lz4: 5 bytes of 6"),
        (of_more_pixels_than_memory, "more than 1073741824 bytes"),
        (without_pixels, "0 x 3 pixels, a frame without any"),
        (without_sent_pixels, "0 pixels for 2 x 3"),
        (too_short, "6 pixels for 3 x 3"),
    ],
)
def test_what_is_no_plain_image_is_rejected(spoil, reason):
    made = encode(frame(1))
    spoil(made)
    with pytest.raises(FrameRejected, match=reason):
        decode(made)


@pytest.mark.parametrize("spare", [0, 7])
@pytest.mark.parametrize("field", ["ubyteValue", "byteValue"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_compressed_frame_is_the_frame(dtype, field, spare):
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    data = np.frombuffer(zlib.compress(array.tobytes()), np.uint8)
    made = encode(NdFrame(1, TIME_NS, array, {"PositionX": 0.5}))
    made["value"] = {field: np.pad(data, (0, spare)).view("i1" if field == "byteValue" else "u1")}
    made["codec"] = pva.PvCodec("zlib", pva.PvInt(SCALAR_TYPES.index(dtype)))
    made["compressedSize"] = data.size
    decoded = decode(made)
    assert decoded.array.dtype == dtype and not decoded.array.flags.writeable
    np.testing.assert_array_equal(decoded.array, array)
    assert decoded.attributes["PositionX"] == 0.5


def test_boolean_pixels_are_ones_and_zeros():
    made = encode(frame(1))
    made["value"] = {"booleanValue": [True, False, True, True, False, False]}
    assert decode(made).array.tolist() == [[1, 0, 1], [1, 0, 0]]


def test_an_alarm_goes_along_until_it_is_over():
    encoder = Encoder()
    seen = []
    for alarm in [(3, "no model of this geometry"), (3, "another"), (0, "")]:
        decoded = decode(encoder.encode(replace(frame(1), severity=alarm[0], message=alarm[1])))
        seen.append((decoded.severity, decoded.message))
    assert seen == [(3, "no model of this geometry"), (3, "another"), (0, "")]


def test_a_frame_that_cannot_be_encoded_leaves_nothing_in_the_next():
    encoder = Encoder()
    first = frame(1)
    encoder.encode(first)
    spoilt = [
        replace(first, array=np.zeros(3)),
        replace(first, attributes={"PositionX": 2.5, "Pulse": 2**64}),
        replace(first, unique_id=2**31, array=np.zeros((3, 3)), units="rad"),
        replace(first, severity=2**40, message="odd"),
    ]
    for bad in spoilt:
        with pytest.raises((FrameRejected, OverflowError)):
            encoder.encode(bad)
        assert str(encoder.encode(first)) == str(encode(first))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\udcff", None])
def test_an_attribute_that_cannot_be_encoded_is_named(value):
    with pytest.raises(FrameRejected, match="attribute Pulse is"):
        encode(replace(frame(1), attributes={"Pulse": value}))


def test_the_latest_time_that_is_read_can_be_sent_and_recorded():
    made = encode(NdFrame(1, (LATEST_S - 1) * 10**9 + 999_999_999, np.zeros((2, 3), "u2")))
    time_ns = decode(made).time_ns
    assert time_ns == np.int64(time_ns) and decode(encode(decode(made))).time_ns == time_ns


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


def as_sent(made):
    """All that is in an NTNDArray as text, but the names that what is in a union has only before it is sent."""
    return re.sub(r" (\w+Value|value) ", "  ", str(made))


def differences(kind, names):
    """How frames that many threads publish differ from what is made of each anew, for a client that reads late."""
    found = []
    with Sender(kind, *names) as sender:
        readers = {name: StreamReader(name, queue_size=COUNT[kind] + 10) for name in names}
        for reader in readers.values():
            assert decode(reader.next(clients.DEADLINE_S)) is None
        sender.send()
        for name, reader in readers.items():
            for sent in frames(kind, name):
                received = reader.next(clients.DEADLINE_S)
                if received is None or as_sent(received) != as_sent(encode(sent)):
                    found.append([name, sent.unique_id, received and decode(received).unique_id])
            reader.close()
    return found


@pytest.mark.parametrize("kind", ["small", "large"])
def test_each_of_many_frames_arrives_as_if_it_were_encoded_alone(place, kind):
    assert place.call(differences, kind, ["S:A", "S:B"]) == []


def receive_compressed():
    with Sender("compressed", NAME) as sender:
        reader = StreamReader(NAME, queue_size=20)
        assert decode(reader.next(clients.DEADLINE_S)) is None
        sender.send()
        found = [next_frame(reader) for _ in SENT]
        reader.close()
        return [[frame.unique_id, frame.array.dtype.str, np.array_equal(frame.array, FRAME)] for frame in found]


def test_frames_compressed_by_every_codec_come_through_a_stream(place):
    assert place.call(receive_compressed) == [[number, "<u2", True] for number in range(1, len(SENT) + 1)]
