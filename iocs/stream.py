"""NTNDArray streams over pvapy: the one place where x-first images become (y, x) arrays, and back."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pvaccess as pva

from iocs.codecs import decompress
from phasing.errors import FrameRejected

Attribute = str | int | float
_FIELDS = {
    np.dtype(name): f"{key}Value"
    for name, key in (
        ("i1", "byte"), ("u1", "ubyte"), ("i2", "short"), ("u2", "ushort"), ("i4", "int"), ("u4", "uint"),
        ("i8", "long"), ("u8", "ulong"), ("f4", "float"), ("f8", "double"),
    )
}  # fmt: skip
_NESTED = (tuple, list)
_NS = 1_000_000_000
LATEST_S = 9_200_000_000
"""Unix seconds in the year 2261: nanoseconds of a later time are more than 64 bits hold, in streams and in files."""
_COLOR_MODE = "ColorMode"
_MONO = 0
"""areaDetector's attribute that says how colours lie in an array, and its value for none."""
_IS_MONO = {"name": _COLOR_MODE, "value": pva.PvInt(_MONO)}
_READ_ONLY = """ASG(DEFAULT) { RULE(1, READ) }
ASG(STREAM) { RULE(1, READ) }
"""
"""EPICS access security: pvapy's server would otherwise take a client's put into an image."""


@dataclass(frozen=True, eq=False)
class NdFrame:
    """One NTNDArray: `array` (H, W) of any real dtype, Unix time in nanoseconds, NDAttributes by name.

    `severity` (0 none, 1 minor, 2 major, 3 invalid) and `message` are the alarm that it goes out with or came with.
    """

    unique_id: int
    time_ns: int
    array: npt.NDArray[Any]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    units: str = ""
    severity: int = 0
    message: str = ""


class Encoder:
    """Makes the NTNDArrays of one stream in one object, in which only what changed is set anew.

    Building a new one costs many times as much, most of it for attributes that are those of the frame before. Of one
    thread. What a server was given is safe from the next frame: pixels, dimensions and attributes go in as copies, and
    an attribute's value, which does not, is replaced and never changed.
    """

    def __init__(self) -> None:
        self._made = pva.NtNdArray()
        self._layout: tuple[int, int, int] | None = None
        self._attributes: dict[tuple[str, type, Attribute], Any] | None = None
        self._units = ""
        self._alarm = (0, "")

    def encode(self, frame: NdFrame) -> Any:
        """The pvapy NTNDArray of a frame, good until the next call; x first, as the normative type wants it.

        Raises FrameRejected for what is no two-dimensional array of a type that NTNDArray has, and for an attribute
        that it cannot hold; OverflowError for another number beyond its field.
        """
        array = frame.array.astype(frame.array.dtype.newbyteorder("="), copy=False)  # a file's may be big-endian
        if array.ndim != 2 or array.dtype not in _FIELDS:
            raise FrameRejected(f"{array.shape} {array.dtype} is no two-dimensional array of a type that NTNDArray has")
        made = self._made
        self._set_attributes(frame.attributes)
        self._set_layout(array.shape[0], array.shape[1], array.nbytes)
        made.setUnion("value", {_FIELDS[array.dtype]: np.ascontiguousarray(array).ravel()})
        made.setInt("uniqueId", frame.unique_id)
        seconds, nanoseconds = divmod(frame.time_ns, _NS)
        for stamp in ("timeStamp", "dataTimeStamp"):
            made.setLong(f"{stamp}.secondsPastEpoch", seconds)
            made.setInt(f"{stamp}.nanoseconds", nanoseconds)
        if frame.units != self._units:
            made.setString("display.units", frame.units)
            self._units = frame.units
        alarm = frame.severity, frame.message
        if alarm != self._alarm:
            made["alarm"] = pva.PvAlarm(frame.severity, 0, frame.message)
            self._alarm = alarm
        return made

    def _set_layout(self, height: int, width: int, size_bytes: int) -> None:
        layout = height, width, size_bytes
        if layout != self._layout:
            self._made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (width, height)]
            self._made["compressedSize"] = self._made["uncompressedSize"] = size_bytes
            self._layout = layout

    def _set_attributes(self, attributes: Mapping[str, Attribute]) -> None:
        """Set the list again if anything in it changed; what did not change goes in as it is."""
        former = self._attributes or {}
        keys = [(name, type(value), value) for name, value in attributes.items() if name != _COLOR_MODE]
        if self._attributes is not None and keys == list(former):
            return
        entries = {key: former.get(key) or {"name": key[0], "value": _any(name=key[0], value=key[2])} for key in keys}
        self._made.setStructureArray("attribute", [_IS_MONO, *entries.values()])
        self._attributes = entries


def encode(frame: NdFrame) -> Any:
    """The pvapy NTNDArray of a frame, as Encoder makes it but an object of its own."""
    return Encoder().encode(frame)


def _any(name: str, value: Attribute) -> Any:
    """A value of any type: a structure of one field, which pvapy makes in half the time of a PvDouble or PvString."""
    try:
        return pva.PvObject({"value": _kind(value)}, {"value": value})
    except (OverflowError, TypeError, ValueError, pva.PvaException) as error:
        raise FrameRejected(f"attribute {name} is {value!r}, which NTNDArray cannot hold") from error


def _kind(value: Attribute) -> Any:
    if isinstance(value, str):
        return pva.STRING
    if isinstance(value, float):
        return pva.DOUBLE
    return pva.LONG if value < 2**63 else pva.ULONG


def decode(received: Any) -> NdFrame | None:
    """The frame of a pvapy NTNDArray; None for the empty first update of a stream that has no frame yet.

    The array is read-only, of what was not compressed a view of the received memory. Raises FrameRejected with the
    reason for what is no two-dimensional mono image of numbers, plain or compressed as `iocs.codecs` reads it, with a
    Unix time, whatever a stream of that name holds.
    """
    try:
        return _decoded(received)
    except (pva.PvaException, LookupError, TypeError, ValueError) as error:  # a field that is not there, or is another
        raise FrameRejected(f"no NTNDArray: {error}") from error


def _decoded(received: Any) -> NdFrame | None:
    dimensions = received.getStructureArray("dimension")
    values = _values(received)
    if not dimensions and not values.size:
        return None
    shape = _shape(dimensions)
    attributes = _attributes(received.getStructureArray("attribute"))
    mode = attributes.get(_COLOR_MODE, _MONO)
    if mode != _MONO:
        raise FrameRejected(f"{_COLOR_MODE} {mode}, only mono frames ({_MONO}) are read")
    codec = received.getString("codec.name")
    if codec:
        values = _decompressed(received, codec, values, shape)
    if values.size != shape[0] * shape[1]:
        raise FrameRejected(f"{values.size} pixels for {shape[0]} x {shape[1]}")
    if values.dtype not in _FIELDS:
        raise FrameRejected(f"pixels are {values.dtype}, not numbers")
    severity = received.getInt("alarm.severity") if received.hasField("alarm") else 0
    return NdFrame(
        unique_id=received.getInt("uniqueId"),
        time_ns=time_stamp_ns(received),
        array=values.reshape(shape),
        attributes=attributes,
        severity=severity,
        message=received.getString("alarm.message") if severity else "",
    )


def time_stamp_ns(received: Any) -> int:
    """Unix time in nanoseconds; FrameRejected for what is none, which would fit neither a stream nor a recording."""
    seconds, nanoseconds = received.getLong("timeStamp.secondsPastEpoch"), received.getInt("timeStamp.nanoseconds")
    if not (0 <= seconds < LATEST_S and 0 <= nanoseconds < _NS):
        raise FrameRejected(f"a time stamp of {seconds} s and {nanoseconds} ns, which is no Unix time")
    return int(seconds) * _NS + int(nanoseconds)


def _values(received: Any) -> npt.NDArray[Any]:
    """The pixels as they came, (N,); none where no type was chosen yet."""
    if not received.getSelectedUnionFieldName("value"):
        return np.empty(0)
    return np.asarray(received.getUnion("value").getScalarArray())


def _shape(dimensions: list[dict[str, Any]]) -> tuple[int, int]:
    """Rows and columns of the sizes that come x first."""
    if len(dimensions) != 2:
        raise FrameRejected(f"{len(dimensions)} dimensions, only two-dimensional mono frames are read")
    width, height = (int(dimension["size"]) for dimension in dimensions)
    if width < 0 or height < 0:
        raise FrameRejected(f"{height} x {width} pixels, a size cannot be negative")
    if not width or not height:
        raise FrameRejected(f"{height} x {width} pixels, a frame without any")
    return height, width


def _decompressed(received: Any, codec: str, values: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    parameters, size_bytes = _scalar(received["codec"]["parameters"]), received.getLong("compressedSize")
    pixels = decompress(codec, parameters, values, shape[0] * shape[1], size_bytes=size_bytes)
    pixels.setflags(write=False)
    return pixels


def _scalar(value: Any) -> Any:
    """What is in an `any`, which pvapy gives as a tuple or a dict of one."""
    while isinstance(value, _NESTED) and value:
        value = value[0]
    return value.get("value") if isinstance(value, dict) else value


def _attributes(received: list[dict[str, Any]]) -> dict[str, Attribute]:
    """NDAttributes with a scalar value."""
    found: dict[str, Attribute] = {}
    for attribute in received:
        value = _scalar(attribute["value"])
        if isinstance(value, Attribute):
            found[attribute["name"]] = value
    return found


class StreamServer:
    """Serves NTNDArray streams that no client can write to."""

    def __init__(self, names: Iterable[str]) -> None:
        """Begin to serve `names`, each with an empty first value."""
        self._encoders = {name: Encoder() for name in names}
        self._server = pva.PvaServer()
        with tempfile.TemporaryDirectory() as folder:
            rules = Path(folder) / "read-only.acf"
            rules.write_text(_READ_ONLY)
            self._server.initAs(str(rules), "")
        for name in self._encoders:
            self._server.addRecordWithAs(name, pva.NtNdArray(), 1, "STREAM")

    def publish(self, name: str, frame: NdFrame) -> None:
        """Send a frame to the clients of a stream; each stream of one thread, several of several."""
        self._server.update(name, self._encoders[name].encode(frame))

    def stop(self) -> None:
        """Stop serving."""
        self._server.stop()


@dataclass(frozen=True)
class QueueCounters:
    """What a reader's own queue did: entries waiting, and updates it could not hold."""

    waiting: int
    overflowed: int


class StreamReader:
    """A monitor of one stream with a bounded queue of its own; reconnects by itself."""

    def __init__(self, name: str, *, queue_size: int) -> None:
        """Subscribe to `name`; `queue_size` bounds both the server's queue and ours, in frames."""
        self.name = name
        self._size = queue_size
        self._queue = pva.PvObjectQueue(queue_size)
        self._channel = pva.Channel(name)
        # The explicit field() is needed: without it no update ever arrives.
        self._channel.qMonitor(self._queue, f"record[queueSize={queue_size}]field()")

    def next(self, timeout_s: float) -> Any | None:
        """The next update as pvapy gives it, or None after `timeout_s`."""
        try:
            return self._queue.get(timeout_s)
        except pva.QueueEmpty:
            return None

    def counters(self) -> QueueCounters:
        """Entries waiting and updates lost in our own queue."""
        counts = self._queue.getCounters()
        return QueueCounters(waiting=len(self._queue), overflowed=int(counts.get("nRejected", 0)))

    def close(self) -> None:
        """End the subscription."""
        self._channel.stopMonitor()
