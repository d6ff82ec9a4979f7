"""Shots made ahead of the time they are taken, so that a slow one now and then delays no frame."""

import queue
import threading
from types import TracebackType
from typing import Self

from iocs.frames_source import FrameSource, Shot

SHOTS = 64
POLL_S = 0.1


class ShotsAhead:
    """The shots of a source in order, round and round, up to `num_shots`, from a thread that runs ahead.

    Making a block of simulated frames, or waiting for a disk, takes several frame periods; the queue bridges that.
    """

    def __init__(self, source: FrameSource, num_shots: int) -> None:
        self._source, self._num_shots = source, num_shots
        self._made: queue.Queue[Shot | Exception] = queue.Queue(SHOTS)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._make, name="shots", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()

    def next(self, stop: threading.Event) -> Shot | None:
        """The next shot, or None when `stop` is set first; raises what the source raised for it."""
        while not stop.is_set():
            try:
                made = self._made.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(made, Exception):
                raise made
            return made
        return None

    def _make(self) -> None:
        for index in range(self._num_shots):
            try:
                made: Shot | Exception = self._source.shot(index % self._source.num_frames)
            except Exception as error:  # noqa: BLE001 -- `next` raises it, whatever it is, where it can be answered
                made = error
            if not self._offer(made) or isinstance(made, Exception):
                return

    def _offer(self, made: Shot | Exception) -> bool:
        """Queue a shot when there is room; False when nobody wants it any more."""
        while not self._closing.is_set():
            try:
                self._made.put(made, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False
