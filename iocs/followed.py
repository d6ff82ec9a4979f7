"""PVs of others, followed by monitors that keep their updates until they are asked for."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pvaccess as pva

from iocs.named_channel import open_channel

_QUEUE_UPDATES = 1000


class Followed:
    """A monitored PV whose updates lie in a queue until they are asked for: pvapy's callbacks can end the process."""

    def __init__(self, name: str, heard: Callable[[Any], None]) -> None:
        """Monitor the PV; `name` as open_channel takes it."""
        self._heard = heard
        self._queue = pva.PvObjectQueue(_QUEUE_UPDATES)
        self._channel = open_channel(name)
        # The explicit field() is needed: without it no update ever arrives.
        self._channel.qMonitor(self._queue, f"record[queueSize={_QUEUE_UPDATES}]field(value,timeStamp)")

    @property
    def is_connected(self) -> bool:
        """Whether the PV is there now."""
        return bool(self._channel.isConnected())

    def tell(self) -> None:
        """Hear all updates that came since the last time."""
        while len(self._queue):
            self._heard(self._queue.get(0.0))

    def close(self) -> None:
        """End the monitor."""
        self._channel.stopMonitor()


def update_value(update: Any) -> str | int:
    """A text (in bytes, as a waveform holds one), or a whole number (an enumeration's index); 0 for what is neither."""
    value = update["value"]
    if isinstance(value, dict):
        value = value.get("index", 0)
    if isinstance(value, np.ndarray) and value.dtype.itemsize == 1:
        return value.tobytes().partition(b"\0")[0].decode(errors="replace")
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int | float) else 0


def update_time_ns(update: Any) -> int:
    """The update's own time stamp, or now where it has none."""
    stamp = update["timeStamp"] if update.hasField("timeStamp") else {}
    seconds = int(stamp.get("secondsPastEpoch", 0))
    return seconds * 1_000_000_000 + int(stamp.get("nanoseconds", 0)) if seconds > 0 else time.time_ns()
