"""The detector of the measurements, a process of its own: posts prebuilt frames with new ids and time stamps.

Arguments: the stream's name, the .npz of frames. Each line on standard input is a JSON object: first, count, rate_hz
(0: as fast as it goes), log (where the time of each post goes, (N,) int64 Unix nanoseconds). A further line while it
sends ends that early. Answers with the seconds that it took and how late it was at worst. Prints `ready`; ends with its
standard input.
"""

import json
import queue
import sys
import threading
import time

import numpy as np
import numpy.typing as npt
import pvaccess as pva

from iocs.stream import NdFrame, encode


def prebuilt(path: str) -> list[pva.NtNdArray]:
    """NTNDArrays of all frames with their positions in um."""
    with np.load(path) as saved:
        counts, position_m = saved["counts"], saved["position_m"]
    return [
        encode(NdFrame(0, 0, frame, {"ScanId": "bench", "PositionX": float(x) * 1e6, "PositionY": float(y) * 1e6}))
        for frame, (y, x) in zip(counts, position_m, strict=True)
    ]


def send(
    server: pva.PvaServer,
    name: str,
    frames: list[pva.NtNdArray],
    commands: queue.Queue[str],
    first: int,
    count: int,
    rate_hz: float,
) -> tuple[npt.NDArray[np.int64], float, float]:
    """Post `count` frames; the time of each in Unix nanoseconds, the seconds it took, and the longest lateness in s."""
    sent_ns = np.zeros(count, np.int64)
    lateness_s = 0.0
    began_s = time.perf_counter()
    for k in range(count):
        if not commands.empty():
            return sent_ns[:k], time.perf_counter() - began_s, lateness_s
        if rate_hz > 0:
            early_s = began_s + k / rate_hz - time.perf_counter()
            if early_s > 0:
                time.sleep(early_s)  # the pace of a detector; a spinning one would take a core from what is measured
            else:
                lateness_s = max(lateness_s, -early_s)
        frame = frames[(first + k) % len(frames)]
        now_ns = time.time_ns()
        frame["uniqueId"] = first + k
        frame["timeStamp"] = pva.PvTimeStamp(now_ns // 1_000_000_000, now_ns % 1_000_000_000)
        server.updateUnchecked(name, frame)
        sent_ns[k] = now_ns
    return sent_ns, time.perf_counter() - began_s, lateness_s


def _listen(commands: queue.Queue[str]) -> None:
    """Queue each line of standard input, and an empty one at its end."""
    for line in sys.stdin:
        commands.put(line)
    commands.put("")


def main(name: str, path: str) -> None:
    """Serve until standard input ends."""
    frames = prebuilt(path)
    server = pva.PvaServer()
    server.addRecord(name, encode(NdFrame(0, 0, np.zeros((2, 2), np.uint16), {"ScanId": "none"})))
    print("ready", flush=True)
    commands: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    while line := commands.get():
        command = json.loads(line)
        if "count" not in command:  # the end of what has ended by itself
            continue
        sent_ns, seconds, lateness_s = send(
            server, name, frames, commands, command["first"], command["count"], command["rate_hz"]
        )
        np.save(command["log"], sent_ns)
        print(json.dumps({"seconds": seconds, "lateness_s": lateness_s}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
