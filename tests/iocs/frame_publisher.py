"""A detector that streams on command, in a process of its own.

Arguments: the stream's name. Each line on standard input is a JSON object; what it may hold, and what holds where it
does not say, is in DEFAULTS. Frames are of one value everywhere, `counts`, or with `counts` null those of `pattern`.
Prints `ready`, and `done` after each line.
"""

import json
import sys
import time
import zlib
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pvaccess as pva

from iocs.codecs import SCALAR_TYPES
from iocs.stream import NdFrame, encode

DEFAULTS = {
    "first": 1, "count": 1, "rate_hz": 200.0, "scan_id": "a", "side_px": 16, "counts": 9, "dtype": "u2",
    "codec": "", "kind": "frame", "ahead_s": 0.0, "attributes": {}, "position": True,
}  # fmt: skip
SIZES = {"colour": (3, 8, 8), "volume": (16, 16, 2), "line": (256,), "garbage": (99, 99), "flat": (16, 0)}
HDF5_BLOCK = 8192


def pattern(unique_id: int, side_px: int, dtype: str) -> npt.NDArray[Any]:
    """Counts below 100, another in every frame and nowhere symmetric; they shrink under any compression."""
    rows, columns = np.indices((side_px, side_px))
    return ((rows // 2 * 8 + columns // 4 + unique_id) % 100).astype(dtype)


def frame(c: dict[str, Any], unique_id: int) -> Any:
    if c["kind"] == "nan":
        array = np.full((16, 16), np.nan, np.float32)
    elif c["counts"] is None:
        array = pattern(unique_id, c["side_px"], c["dtype"])
    else:
        array = np.full((c["side_px"], c["side_px"]), c["counts"], c["dtype"])
    attributes = {"ScanId": c["scan_id"]} if c["scan_id"] else {}
    if c["position"]:
        attributes |= {"PositionX": (unique_id % 20) * 0.1, "PositionY": (unique_id // 20) * 0.1}
    made = encode(NdFrame(unique_id, time.time_ns() + int(c["ahead_s"] * 1e9), array, attributes | c["attributes"]))
    if c["codec"]:
        compress(made, array, c["codec"])
    if c["kind"] == "compressed":
        made["codec"] = pva.PvCodec("jpeg", pva.PvInt(5))
    elif c["kind"] in SIZES:
        made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in SIZES[c["kind"]]]
    elif c["kind"] == "empty":
        made["value"] = {"ushortValue": np.empty(0, np.uint16)}
    elif c["kind"] == "colour mode":
        made["attribute"] = [pva.NtAttribute("ColorMode", pva.PvInt(2))]
    return made


def compress(made: Any, array: npt.NDArray[Any], codec: str) -> None:
    """As areaDetector's plugin of codecs does: bytes, their name, and the type that they were."""
    data = np.frombuffer(compressed(array, codec), np.uint8)
    made["value"] = {"ubyteValue": data}
    made["codec"] = pva.PvCodec(codec, pva.PvInt(SCALAR_TYPES.index(array.dtype.str[1:])))
    made["compressedSize"] = data.size


def compressed(array: npt.NDArray[Any], codec: str) -> bytes:
    block = HDF5_BLOCK if codec == "lz4hdf5" else HDF5_BLOCK // array.itemsize
    if codec == "zlib":
        return zlib.compress(array.tobytes())
    if codec == "blosc":
        return bytes(imagecodecs.blosc_encode(array.tobytes(), compressor="lz4", typesize=array.itemsize, numthreads=1))
    if codec in ("bslz4", "bslz4hdf5"):
        array = imagecodecs.bitshuffle_encode(array.ravel(), blocksize=block)
    packed = bytes(imagecodecs.lz4_encode(array.tobytes(), header=False))
    if codec == "lz4":
        return packed
    behind = len(packed).to_bytes(4, "big") + packed
    if codec == "bslz4":
        return behind
    return array.nbytes.to_bytes(8, "big") + HDF5_BLOCK.to_bytes(4, "big") + behind


def main(name: str) -> None:
    server = pva.PvaServer()
    server.addRecord(name, pva.NtNdArray())
    print("ready", flush=True)
    for line in sys.stdin:
        c = DEFAULTS | json.loads(line)
        began = time.perf_counter()
        for i in range(c["count"]):
            while time.perf_counter() < began + i / c["rate_hz"]:
                time.sleep(0.0005)  # the pace of a detector, not a wait for something to happen
            server.update(name, frame(c, c["first"] + i))
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
