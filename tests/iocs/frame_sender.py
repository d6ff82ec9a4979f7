"""A process that publishes many different frames as fast as it can, and the same frames to compare with.

Arguments: kind ("small", "large") and the streams' names, each published from a thread of its own. A line on standard
input starts it; while it publishes "large", its parent is stopped, as a client is that fell asleep. Of kind
"compressed" it publishes one frame, compressed by each of areaDetector's codecs, as areaDetector does.
"""

import os
import random
import signal
import subprocess
import sys
import threading

TIME_NS = 1_795_000_000_123_456_789
COUNT = {"small": 400, "large": 200}
SIDES = {"small": [(2, 3), (3, 2), (5, 7)], "large": [(128, 128)]}
DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
VALUES = [0, 1, 2**40, 2**63, -5, 1.0, 0.25, float("inf"), "", "one", "1"]


def frames(kind, stream):
    """The frames of a stream: mostly like the one before, now and then with another type, shape or attributes."""
    import numpy as np

    from iocs.stream import NdFrame

    choose = random.Random(f"{kind} {stream}")
    attributes, dtype, shape, units, alarm = {"ScanId": "one", "PositionX": 0.5}, "f4", SIDES[kind][0], "rad", (0, "")
    for number in range(COUNT[kind]):
        if choose.random() < 0.5:
            attributes = attributes | {"PositionX": choose.random()}
        if choose.random() < 0.15:
            names = choose.sample(["ScanId", "PositionX", "PositionY", "Sequence", "ModelVersion"], choose.randrange(6))
            attributes = {name: choose.choice(VALUES) for name in names}
        if choose.random() < 0.15:
            dtype, shape = choose.choice(DTYPES), choose.choice(SIDES[kind])
        if choose.random() < 0.1:
            units, alarm = choose.choice(["", "rad", "counts"]), choose.choice([(0, ""), (3, "no model"), (3, "late")])
        array = np.full(shape, number % 100, dtype)
        yield NdFrame(number + 1, TIME_NS + number, array, attributes, units, *alarm)


class Sender:
    """The process, serving when this returns."""

    def __init__(self, kind, *names):
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "serving\n"

    def send(self):
        """Publish everything; returns when it is done."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "sent\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()


def publish(server, kind, name):
    """Publish a stream's frames; the memory of each array is used again for the next."""
    from dataclasses import replace

    import numpy as np

    memory = {}
    for frame in frames(kind, name):
        array = memory.setdefault((frame.array.shape, frame.array.dtype), np.empty_like(frame.array))
        array[:] = frame.array
        server.publish(name, replace(frame, array=array))


def publish_compressed(name):
    import pvaccess as pva
    from test_codecs import FRAME, SENT, U2

    from iocs.stream import NdFrame, encode

    server = pva.PvaServer(name, pva.NtNdArray())
    print("serving", flush=True)
    sys.stdin.readline()
    for number, (codec, data) in enumerate(SENT.items(), 1):
        made = encode(NdFrame(number, TIME_NS, FRAME))
        made["value"] = {"ubyteValue": data}
        made["codec"] = pva.PvCodec(codec, pva.PvInt(U2))
        made["compressedSize"] = data.size
        server.update(name, made)
    print("sent", flush=True)
    sys.stdin.readline()


def main(kind, *names):
    from iocs.stream import StreamServer

    if kind == "compressed":
        publish_compressed(*names)
        return
    server = StreamServer(names)
    print("serving", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=publish, args=(server, kind, name)) for name in names]
    if kind == "large":
        os.kill(os.getppid(), signal.SIGSTOP)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.kill(os.getppid(), signal.SIGCONT)
    print("sent", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
