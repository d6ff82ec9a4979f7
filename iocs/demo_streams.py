"""What the demo reads from the streams: every prediction, and maps with their place on the sample."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from iocs.client import Client, ClientError
from iocs.maps import placed_map
from iocs.stream import NdFrame, StreamReader, decode
from phasing.stitch import StitchedMap
from pvdb import Pv

QUEUE_FRAMES = 5000


@dataclass(frozen=True)
class Prediction:
    """One prediction as it arrived: its frame's scan, id and time, the model, and the time on this process's clock."""

    scan_id: str
    unique_id: int
    model_version: int
    frame_s: float
    arrival_s: float


class Predictions:
    """Collects every prediction of the edge's stream in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._reader = StreamReader(name, queue_size=QUEUE_FRAMES)
        self._changed = threading.Condition()
        self._found: list[Prediction] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="predictions", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Forget what came before: a scan begins."""
        with self._changed:
            self._found = []

    def of_last_scan(self) -> list[Prediction]:
        """The predictions since `begin`, as they came."""
        with self._changed:
            return list(self._found)

    def num_distinct(self) -> int:
        """How many different frames were predicted since `begin`."""
        return len({(p.scan_id, p.unique_id) for p in self.of_last_scan()})

    def wait_for(self, number: int, timeout_s: float) -> None:
        """Wait until that many different frames were predicted; what is missing after `timeout_s` is told later."""
        deadline = time.monotonic() + timeout_s
        while self.num_distinct() < number and time.monotonic() < deadline:
            with self._changed:
                self._changed.wait(0.2)

    def close(self) -> None:
        """End the subscription and the thread."""
        self._closing.set()
        self._thread.join()
        self._reader.close()

    def _collect(self) -> None:
        while not self._closing.is_set():
            update = self._reader.next(0.2)
            arrival_s = time.monotonic()
            frame = decode(update) if update is not None else None
            if frame is None:
                continue
            scan_id, version = frame.attributes["ScanId"], frame.attributes["ModelVersion"]
            with self._changed:
                self._found.append(
                    Prediction(str(scan_id), frame.unique_id, int(version), frame.time_ns / 1e9, arrival_s)
                )
                self._changed.notify_all()


class Snapshots:
    """Single images of streams."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def image(self, pv: Pv) -> npt.NDArray[Any]:
        """The latest image of a stream, (H, W)."""
        return self._frame(pv, 0).array

    def placed_map(self, pv: Pv, *, at_least_id: int = 0) -> StitchedMap:
        """The latest map of a stream with its place on the sample, once its id is high enough."""
        return placed_map(self._frame(pv, at_least_id))

    def _frame(self, pv: Pv, at_least_id: int, timeout_s: float = 15.0) -> NdFrame:
        reader = StreamReader(self._client.name(pv), queue_size=4)
        deadline = time.monotonic() + timeout_s
        try:
            while time.monotonic() < deadline:
                update = reader.next(0.2)
                frame = decode(update) if update is not None else None
                if frame is not None and frame.unique_id >= at_least_id:
                    return frame
        finally:
            reader.close()
        raise ClientError(f"{self._client.name(pv)} shows no image number {at_least_id} or later")
