"""Shots made ahead of the time they are taken, so that a slow one now and then delays no frame."""

import queue
import threading
from types import TracebackType
from typing import Self

from iocs.frames_source import FrameSource, Shot
from phasing.errors import PhaselineError

SHOTS = 64
POLL_S = 0.1


class ShotsAhead:
    """The shots of a source in order, round and round, up to `num_shots`, from a thread that runs ahead.

    Making a block of simulated frames, or waiting for a disk, takes several frame periods; the queue bridges that.
    """

    def __init__(self, source: FrameSource, num_shots: int) -> None:
        self._source, self._num_shots = source, num_shots
        self._made: queue.Queue[Shot | PhaselineError] = queue.Queue(SHOTS)
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

    def next(self) -> Shot:
        """The next shot; raises what the source raised for it."""
        made = self._made.get()
        if isinstance(made, PhaselineError):
            raise made
        return made

    def _make(self) -> None:
        for index in range(self._num_shots):
            try:
                made: Shot | PhaselineError = self._source.shot(index % self._source.num_frames)
            except PhaselineError as error:
                made = error
            if not self._offer(made) or isinstance(made, PhaselineError):
                return

    def _offer(self, made: Shot | PhaselineError) -> bool:
        """Queue a shot when there is room; False when nobody wants it any more."""
        while not self._closing.is_set():
            try:
                self._made.put(made, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False
