"""NTNDArray streams over pvapy: the one place where x-first images become (y, x) arrays, and back."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pvaccess as pva

from phasing.errors import FrameRejected

Attribute = str | int | float
_FIELDS = {
    np.dtype(name): f"{key}Value"
    for name, key in (
        ("i1", "byte"), ("u1", "ubyte"), ("i2", "short"), ("u2", "ushort"), ("i4", "int"), ("u4", "uint"),
        ("i8", "long"), ("u8", "ulong"), ("f4", "float"), ("f8", "double"),
    )
}  # fmt: skip
_READ_ONLY = """ASG(DEFAULT) { RULE(1, READ) }
ASG(STREAM) { RULE(1, READ) }
"""
"""EPICS access security: pvapy's server would otherwise take a client's put into an image."""


@dataclass(frozen=True, eq=False)
class NdFrame:
    """One NTNDArray: `array` (H, W) of any real dtype, Unix time in nanoseconds, NDAttributes by name."""

    unique_id: int
    time_ns: int
    array: npt.NDArray[Any]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    units: str = ""


def encode(frame: NdFrame) -> Any:
    """The pvapy NTNDArray of a frame; x first, as the normative type wants it.

    Raises FrameRejected for what is no two-dimensional array of a type that NTNDArray has.
    """
    made = pva.NtNdArray()
    array = frame.array.astype(frame.array.dtype.newbyteorder("="), copy=False)  # a file's may be big-endian
    if array.ndim != 2 or array.dtype not in _FIELDS:
        raise FrameRejected(f"{array.shape} {array.dtype} is no two-dimensional array of a type that NTNDArray has")
    height, width = array.shape
    stamp = pva.PvTimeStamp(frame.time_ns // 1_000_000_000, frame.time_ns % 1_000_000_000)
    made["uniqueId"] = frame.unique_id
    made["value"] = {_FIELDS[array.dtype]: np.ascontiguousarray(array).ravel()}
    made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (width, height)]
    made["compressedSize"] = made["uncompressedSize"] = array.nbytes
    made["timeStamp"] = stamp
    made["dataTimeStamp"] = stamp
    made["attribute"] = [pva.NtAttribute("ColorMode", pva.PvInt(0))] + [
        pva.NtAttribute(name, _any(value)) for name, value in frame.attributes.items()
    ]
    if frame.units:
        made["display"] = {"units": frame.units}
    return made


def _any(value: Attribute) -> Any:
    if isinstance(value, str):
        return pva.PvString(value)
    if isinstance(value, float):
        return pva.PvDouble(value)
    return pva.PvLong(value) if value < 2**63 else pva.PvULong(value)


def decode(received: Any) -> NdFrame | None:
    """The frame of a pvapy NTNDArray; None for the empty first update of a stream that has no frame yet.

    The array is a read-only view of the received memory. Raises FrameRejected with the reason for what is no
    uncompressed two-dimensional mono image, whatever a stream of that name holds.
    """
    try:
        return _decoded(received)
    except (pva.PvaException, LookupError, TypeError, ValueError) as error:  # a field that is not there, or is another
        raise FrameRejected(f"no NTNDArray: {error}") from error


def _decoded(received: Any) -> NdFrame | None:
    dimensions = received["dimension"]
    union = received["value"][0]
    if not dimensions and not any(np.size(values) for values in union.values()):
        return None
    shape = tuple(int(d["size"]) for d in reversed(dimensions))
    if len(shape) != 2:
        raise FrameRejected(f"{len(shape)} dimensions, only two-dimensional mono frames are read")
    if min(shape) < 0:
        raise FrameRejected(f"{shape[0]} x {shape[1]} pixels, a size cannot be negative")
    codec = received["codec"]["name"]
    if codec:
        raise FrameRejected(f"compressed by {codec}; send uncompressed frames")
    values = np.asarray(next(iter(union.values()), ()))
    if values.size != shape[0] * shape[1]:
        raise FrameRejected(f"{values.size} pixels for {shape[0]} x {shape[1]}")
    stamp = received["timeStamp"]
    return NdFrame(
        unique_id=int(received["uniqueId"]),
        time_ns=int(stamp["secondsPastEpoch"]) * 1_000_000_000 + int(stamp["nanoseconds"]),
        array=values.reshape(shape),
        attributes=_attributes(received["attribute"]),
    )


def _attributes(received: list[dict[str, Any]]) -> dict[str, Attribute]:
    """NDAttributes with a scalar value; pvapy gives an `any` as a tuple or a dict of one."""
    found: dict[str, Attribute] = {}
    for attribute in received:
        value = attribute["value"]
        while isinstance(value, tuple | list) and value:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("value")
        if isinstance(value, str | int | float):
            found[attribute["name"]] = value
    return found


class StreamServer:
    """Serves NTNDArray streams that no client can write to."""

    def __init__(self, names: Iterable[str]) -> None:
        """Begin to serve `names`, each with an empty first value."""
        self._server = pva.PvaServer()
        with tempfile.TemporaryDirectory() as folder:
            rules = Path(folder) / "read-only.acf"
            rules.write_text(_READ_ONLY)
            self._server.initAs(str(rules), "")
        for name in names:
            self._server.addRecordWithAs(name, pva.NtNdArray(), 1, "STREAM")

    def publish(self, name: str, frame: NdFrame) -> None:
        """Send a frame to the clients of a stream."""
        self._server.update(name, encode(frame))

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
