"""A detector that streams on command, in a process of its own.

Arguments: the stream's name. Each line on standard input is a JSON object: first, count, rate_hz, scan_id, side_px,
counts, kind (frame, compressed, colour, garbage). Prints `ready`, and `done` after each.
"""

import json
import sys
import time

import numpy as np
import pvaccess as pva

from iocs.stream import NdFrame, encode


def broken(kind: str, unique_id: int) -> pva.NtNdArray:
    frame = NdFrame(unique_id, time.time_ns(), np.ones((16, 16), np.uint16), {"ScanId": "broken"})
    made = encode(frame)
    if kind == "compressed":
        made["codec"] = pva.PvCodec("jpeg", pva.PvInt(5))
    elif kind == "colour":
        made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (3, 8, 8)]
    else:
        made["dimension"] = [pva.PvDimension(n, 0, n, 1, False) for n in (99, 99)]
    return made


def main(name: str) -> None:
    server = pva.PvaServer()
    server.addRecord(name, pva.NtNdArray())
    print("ready", flush=True)
    for line in sys.stdin:
        c = {"first": 1, "count": 1, "rate_hz": 200.0, "scan_id": "a", "side_px": 16, "counts": 9, "kind": "frame"}
        c |= json.loads(line)
        began = time.perf_counter()
        for i in range(c["count"]):
            while time.perf_counter() < began + i / c["rate_hz"]:
                time.sleep(0.0005)  # the pace of a detector, not a wait for something to happen
            unique_id = c["first"] + i
            if c["kind"] != "frame":
                server.update(name, broken(c["kind"], unique_id))
                continue
            array = np.full((c["side_px"], c["side_px"]), c["counts"], np.uint16)
            place = {"PositionX": (unique_id % 20) * 0.1, "PositionY": (unique_id // 20) * 0.1}
            frame = NdFrame(unique_id, time.time_ns(), array, {"ScanId": c["scan_id"], **place})
            server.update(name, encode(frame))
        print("done", flush=True)


main(sys.argv[1])
