"""The viewer of the measurements, a process of its own: receives every update of its streams and notes when.

Arguments: names of streams. Each line on standard input is a JSON object with `do`: `clear`; `wait` (until an id of at
least `until` came, or none came for `quiet_s`); `save` (to `path`, (N, 3) int64: id, arrival and time stamp in Unix
nanoseconds, in order of arrival). Answers with the number of updates and the highest id. Prints `ready`; ends with its
standard input.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pvaccess as pva

QUEUE_FRAMES = 4000
Row = tuple[int, int, int]


class Log:
    """What arrived; filled by one thread for each stream."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rows: list[Row] = []
        self._highest = -1
        self._latest_s = time.monotonic()

    def add(self, row: Row) -> None:
        """Note an update."""
        with self._changed:
            self._rows.append(row)
            self._highest = max(self._highest, row[0])
            self._latest_s = time.monotonic()
            self._changed.notify()

    def clear(self) -> None:
        """Forget what came until now."""
        with self._changed:
            self._rows, self._highest = [], -1

    def wait(self, until: int, quiet_s: float) -> None:
        """Until an id of at least `until` came, or nothing for `quiet_s`."""
        with self._changed:
            self._latest_s = time.monotonic()
            while self._highest < until:
                left_s = self._latest_s + quiet_s - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def save(self, path: str) -> None:
        """Write the rows."""
        with self._changed:
            rows = np.array(self._rows, np.int64).reshape(-1, 3)
        np.save(path, rows)

    def summary(self) -> dict[str, int]:
        """Number of updates and the highest id."""
        with self._changed:
            return {"count": len(self._rows), "highest": self._highest}


def row_of(update: Any) -> Row | None:
    """Id, arrival and time stamp; None for the empty first update. Pixels are read, as a screen would."""
    now_ns = time.time_ns()
    pixels = next(iter(update["value"][0].values()), ())
    if not len(pixels):
        return None
    stamp = update["timeStamp"]
    return int(update["uniqueId"]), now_ns, stamp["secondsPastEpoch"] * 1_000_000_000 + stamp["nanoseconds"]


def follow(name: str, log: Log) -> None:
    """Note every update of a stream, in a thread of its own."""
    updates = pva.PvObjectQueue(QUEUE_FRAMES)
    channel = pva.Channel(name)
    channel.qMonitor(updates, f"record[queueSize={QUEUE_FRAMES}]field()")
    while True:
        try:
            row = row_of(updates.get(1.0))
        except pva.QueueEmpty:
            continue
        if row is not None:
            log.add(row)


def obey(log: Log) -> None:
    """Answer commands until standard input ends."""
    actions: dict[str, Callable[..., None]] = {"clear": log.clear, "wait": log.wait, "save": log.save}
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        actions[command.pop("do")](**command)
        print(json.dumps(log.summary()), flush=True)


if __name__ == "__main__":
    shared = Log()
    for stream in sys.argv[1:]:
        threading.Thread(target=follow, args=(stream, shared), daemon=True).start()
    obey(shared)
