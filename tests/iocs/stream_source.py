"""A stream for tests: publishes a frame for each number that it reads, as a process of its own or as its owner."""

import subprocess
import sys

NAME = "S:Image"
TIME_NS = 1_795_000_000_123_456_789
HEIGHT, WIDTH = 2, 3


def frame(unique_id):
    import numpy as np

    from iocs.stream import NdFrame

    counts = np.arange(HEIGHT * WIDTH, dtype="u2").reshape(HEIGHT, WIDTH) + unique_id
    return NdFrame(unique_id, TIME_NS + unique_id, counts, {"ScanId": "one", "PositionX": 1.5}, "counts")


class Source:
    """The process; `send` returns when the frame is published."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout.readline() == "serving\n"

    def send(self, *unique_ids):
        for unique_id in unique_ids:
            self._process.stdin.write(f"{unique_id}\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == "sent\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()


def main():
    from iocs.stream import StreamServer

    server = StreamServer([NAME])
    print("serving", flush=True)
    for line in sys.stdin:
        server.publish(NAME, frame(int(line)))
        print("sent", flush=True)


if __name__ == "__main__":
    main()
