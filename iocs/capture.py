"""The detector's file writer: frames from the acquisition's thread into a scan file, in a thread of its own."""

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from iocs.frames_source import FrameSource
from phasing.errors import DiskRefused, PhaselineError
from phasing.frames import Frame
from phasing.scanfile import ScanWriter
from phasing.scanwriter import part_path

log = logging.getLogger("phaseline.capture")
FINISH_POLL_S = 0.05
TELL_PERIOD_S = 0.1
FLUSH_PERIOD_S = 1.0
DISK_RETRY_S = 0.5


@dataclass(frozen=True)
class CaptureProgress:
    """What a capture has done: frames written, frames that were not, the file, the error if any."""

    written: int
    dropped: int
    path: Path
    error: str | None


class Capture:
    """Writes the frames it is given to one scan file; `path` appears under its name only when it is whole.

    While the disk is full it waits, and frames wait in its queue. If the process dies, NAME.part holds what was
    written up to a second before, unless it died within the flush that comes every second.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit: int,
        queue_frames: int,
        opened: Callable[[], None],
        wrote: Callable[[int], None],
        lost: Callable[[int], None],
        waits: Callable[[str], None],
        finished: Callable[[], object],
    ) -> None:
        """Wait for frames; `limit` 0 takes all until `finish`. The file is opened with the first frame.

        `wrote` gets the number of frames written about ten times a second, and whenever none is left to write; `lost`
        gets the number dropped with each that is; `waits` gets what a full disk says, and an empty text when it takes
        frames again; `finished` is called when the file is closed, or given up, for whatever reason.
        """
        self.path = path
        self.done = threading.Event()
        self._limit = limit
        self._opened, self._wrote, self._lost = opened, wrote, lost
        self._waits, self._finished = waits, finished
        self._offering = threading.Lock()
        self._ending = threading.Event()
        self._queue: queue.Queue[tuple[FrameSource, Frame] | None] = queue.Queue(queue_frames)
        self._written = self._dropped = self._taken = 0
        self._told_s = 0.0
        self._flushed_s = time.monotonic()
        self._error: str | None = None
        self._writer: ScanWriter | None = None
        self._thread = threading.Thread(target=self._write, name="capture", daemon=True)
        self._thread.start()

    @property
    def state(self) -> CaptureProgress:
        """What has been done so far; in the end every frame that was offered is written or dropped."""
        dropped = self._taken - self._written if self.done.is_set() else self._dropped
        return CaptureProgress(self._written, dropped, self.path, self._error)

    def offer(self, source: FrameSource, frame: Frame) -> None:
        """Hand over a frame; counted as dropped when the queue is full, never waits."""
        with self._offering:
            if self.done.is_set() or (self._limit and self._taken >= self._limit):
                return
            self._taken += 1
            try:
                self._queue.put_nowait((source, frame))
            except queue.Full:
                self._dropped += 1
                self._lost(self._dropped)

    def finish(self) -> None:
        """Write what is queued, close the file and wait for it; a disk that is full gets one more try."""
        self._ending.set()
        while self._thread.is_alive():
            with suppress(queue.Full):  # a writer that has failed empties it no more
                self._queue.put(None, timeout=FINISH_POLL_S)
                self._thread.join()

    def _write(self) -> None:
        try:
            self._error = _failure(self._write_frames)
            if self._writer is not None:
                not_closed = _failure(functools.partial(self._patiently, self._writer.close))
                if not_closed is not None:
                    self._error = self._error or not_closed
                    self._give_up(self._writer)
        finally:
            with self._offering:
                self.done.set()
            self._finished()

    def _write_frames(self) -> None:
        while not self._limit or self._written + self._dropped < self._limit:
            item = self._queue.get()
            if item is None:
                break
            self._append(*item)

    def _give_up(self, writer: ScanWriter) -> None:
        """Count as written only what NAME.part holds for certain, and add to the error where that is."""
        part = part_path(self.path)
        self._written = writer.num_flushed if part.exists() else 0
        if self._written:
            self._error = f"{self._error}; {self._written} frames are in {part.name}"

    def _append(self, source: FrameSource, frame: Frame) -> None:
        if self._writer is None:
            self._writer = ScanWriter(
                self.path, source.scan_id, source.geometry, dtype=source.dtype, probe_guess=source.probe_guess
            )
            self._opened()
        self._patiently(functools.partial(self._writer.append, frame))
        self._written += 1
        now_s = time.monotonic()
        self._tell(now_s)
        if now_s - self._flushed_s > FLUSH_PERIOD_S:
            self._flushed_s = now_s
            self._patiently(self._writer.flush)

    def _patiently(self, write: Callable[[], object]) -> None:
        """Call until the disk takes it; DiskRefused when the capture is to end meanwhile."""
        refused = False
        while True:
            try:
                write()
            except DiskRefused as error:
                if not refused:
                    self._waits(str(error))
                refused = True
                if self._ending.wait(DISK_RETRY_S):
                    raise
            else:
                break
        if refused:
            self._waits("")

    def _tell(self, now_s: float) -> None:
        if self._queue.empty() or now_s - self._told_s > TELL_PERIOD_S:
            self._told_s = now_s
            self._wrote(self._written)


def _failure(work: Callable[[], object]) -> str | None:
    """What kept some work from its end, None if nothing did; an error that is not the file's or disk's is logged whole.

    Any error is caught, for the thread must live to close the file and to say how it went.
    """
    try:
        work()
    except (PhaselineError, OSError) as error:
        return str(error)
    except Exception as error:
        log.error("a capture failed", exc_info=error)
        return f"internal error, {type(error).__name__}: {error}"
    return None
