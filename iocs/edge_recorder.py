"""Records predictions and stitched maps, a file a scan, in a thread of its own that the stream never waits for."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from iocs.edge_messages import Note, RecordState
from phasing.errors import DiskRefused, PhaselineError, ScanFileError
from phasing.recording import EMPTY_BYTES, Recorded, RecordingWriter
from phasing.recordingfolder import QuotaExceeded, RecordingFolder
from phasing.scanwriter import part_path
from phasing.stitch import StitchedMap
from pvdb import Severity

__all__ = ["Recorded", "Recorder", "ScanRecording"]

log = logging.getLogger("phaseline.recorder")
BLOCK_FRAMES = 64
WAKE_PERIOD_S = 0.1
FLUSH_PERIOD_S = 1.0
MAP_PERIOD_S = 10.0
DISK_RETRY_S = 0.5
FINISHING_RETRY_S = 0.05
FINISHING_SHARE = 0.8
"""The share of the time for closing in which a full disk is waited for; the rest is for giving up."""


@dataclass(eq=False)
class ScanRecording:
    """One scan's recording, to be handed back to the recorder; but for `writer` and the times, guarded by its lock."""

    scan_id: str
    name: str
    frames: deque[Recorded] = field(default_factory=deque)
    newest_map: StitchedMap | None = None
    file: str = ""
    written: int = 0
    dropped: int = 0
    said_dropped: bool = False
    stopped: str = ""
    begun: bool = False
    ended: bool = False
    done: bool = False
    writer: RecordingWriter | None = None
    flushed_s: float = -math.inf
    map_s: float = 0.0


class Recorder:
    """Records what it is given; a disk that is slow, full or not there costs frames of the recording only.

    Several scans may be recorded at once: what comes late to one then costs it no second file. Methods may be called by
    any thread and but for `close` do not wait. Frames that the queue cannot hold are counted.
    """

    def __init__(self, folder: Path, *, quota_bytes: int, queue_frames: int, note: Callable[[Note], None]) -> None:
        """Name what killed writers left in the folder and wait for a scan; the recorder's thread calls `note`."""
        self._folder = RecordingFolder(folder, quota_bytes)
        self._queue_frames, self._note = queue_frames, note
        self._wake_frames = max(1, min(BLOCK_FRAMES, queue_frames // 2))
        self._changed = threading.Condition()
        self._open: list[ScanRecording] = []
        self._latest: ScanRecording | None = None
        self._queued = 0
        self._used_bytes = 0
        self._waiting = ""
        self._deadline_s: float | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def begin(self, scan_id: str, name: str) -> ScanRecording:
        """A new scan, beside those that have not ended; `name`, or else the scan id, becomes part of the file's."""
        with self._changed:
            self._latest = ScanRecording(scan_id, name or scan_id)
            self._open.append(self._latest)
            self._changed.notify_all()
            return self._latest

    def add(self, prediction: Recorded, to: ScanRecording | None = None) -> None:
        """Record a prediction of the scan begun last, or of another; nothing where that has ended."""
        with self._changed:
            scan = to or self._latest
            if scan is None or scan.ended:
                return
            if scan.stopped or self._queued >= self._queue_frames:
                scan.dropped += 1
                return
            scan.frames.append(prediction)
            self._queued += 1
            if len(scan.frames) == self._wake_frames:
                self._changed.notify_all()

    def add_map(self, stitched: StitchedMap, to: ScanRecording | None = None) -> None:
        """Record the newest map of a scan in place of the former one, every few seconds and with the last frame."""
        with self._changed:
            scan = to or self._latest
            if scan is not None and not scan.ended:
                scan.newest_map = stitched

    def end(self, scan: ScanRecording | None = None) -> None:
        """A scan, or all of them, is recorded no further: what is queued is written, and its file finished."""
        with self._changed:
            for one in list(self._open) if scan is None else [scan]:
                self._end(one)
            self._changed.notify_all()

    def state(self) -> RecordState:
        """How the recording of the latest scan stands."""
        with self._changed:
            scan = self._latest
            if scan is None:
                return RecordState(used_bytes=self._used_bytes, waiting_for_disk=self._waiting)
            stopped = "" if scan.ended else scan.stopped
            return RecordState(
                recording=not (scan.done or scan.stopped),
                file=scan.file,
                frames=scan.written,
                dropped=scan.dropped,
                used_bytes=self._used_bytes,
                waiting_for_disk=stopped or self._waiting,
                stopped=bool(stopped),
            )

    def close(self, timeout_s: float) -> None:
        """Finish the files and end; what the disk has not taken within `timeout_s` is given up."""
        with self._changed:
            self._deadline_s = time.monotonic() + FINISHING_SHARE * timeout_s
            for scan in list(self._open):
                self._end(scan)
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _end(self, scan: ScanRecording) -> None:
        scan.ended = True
        if not scan.begun and not scan.frames and not scan.dropped and not scan.done:  # it waits for no other's disk
            self._open.remove(scan)
            scan.done = True

    def _work(self) -> None:
        try:
            self._refresh()
        except OSError as error:
            self._say(f"recordings: {error}", Severity.MAJOR)
            self._waiting = str(error)
        while (scans := self._with_work()) is not None:
            for scan in scans:
                self._record(scan)
                while scan.ended and not scan.done:  # its file is finished before others go on
                    self._record(scan)

    def _with_work(self) -> list[ScanRecording] | None:
        """Wait for scans, then a while for one with much to do; those with anything to do, or None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._deadline_s is not None)
            if not self._open:
                return None
            self._changed.wait_for(self._has_much_work, WAKE_PERIOD_S)
            scans = [scan for scan in self._open if scan.begun or scan.frames or scan.ended]
            for scan in scans:
                scan.begun = True
            return scans

    def _has_much_work(self) -> bool:
        return any(scan.ended or len(scan.frames) >= self._wake_frames for scan in self._open)

    def _record(self, scan: ScanRecording) -> None:
        """Write a block of a scan's frames, and what else its time has come for."""
        if scan.writer is None and not scan.file:
            self._try(scan, self._refresh)
        block, over = self._take(scan)
        self._try(scan, partial(self._patiently, scan, partial(self._write, scan, block)))
        self._count(scan, dropped=len(block))
        self._try(scan, partial(self._keep_up, scan))
        if scan.stopped or over:
            self._finish(scan)
        self._say_dropped(scan)
        if over:
            self._conclude(scan)

    def _conclude(self, scan: ScanRecording) -> None:
        if scan.dropped:
            text = f"{scan.dropped} of {scan.written + scan.dropped} frames of scan {scan.scan_id} are not recorded"
            self._say(text, Severity.MAJOR)
        with self._changed:
            self._open.remove(scan)
            scan.done = True

    def _take(self, scan: ScanRecording) -> tuple[deque[Recorded], bool]:
        """Some frames of the queue, and whether these are the last; none when there is no time left to write them."""
        with self._changed:
            block = deque(scan.frames.popleft() for _ in range(min(BLOCK_FRAMES, len(scan.frames))))
            self._queued -= len(block)
            if scan.stopped or self._is_late():
                scan.dropped += len(block)
                block.clear()
            return block, scan.ended and not scan.frames

    def _write(self, scan: ScanRecording, block: deque[Recorded]) -> None:
        """Write frames, and take from the block each that is written."""
        before = len(block)
        try:
            while block:
                writer = self._writer_for(scan, block[0])
                self._make_room(writer.most_bytes(num_more=1), scan)
                writer.append(block[0])
                block.popleft()
        finally:
            self._count(scan, written=before - len(block))

    def _writer_for(self, scan: ScanRecording, prediction: Recorded) -> RecordingWriter:
        """The scan's file; a new one where there is none, or it is of predictions of another size."""
        frame_px = len(prediction.phase_rad)
        if scan.writer is not None and scan.writer.frame_px != frame_px:
            self._close(scan, scan.writer)
        if scan.writer is None:
            self._make_room(EMPTY_BYTES, scan)
            path = self._folder.new_path(scan.name)
            scan.writer = RecordingWriter(path, scan.scan_id, frame_px)
            scan.flushed_s, scan.map_s = -math.inf, time.monotonic()
            with self._changed:
                scan.file = str(path)
        return scan.writer

    def _keep_up(self, scan: ScanRecording) -> None:
        """Write the map and flush, if it is time for either."""
        writer, now_s = scan.writer, time.monotonic()
        if writer is None or scan.stopped:
            return
        if scan.newest_map is not None and now_s > scan.map_s + MAP_PERIOD_S:
            self._patiently(scan, partial(self._write_map, scan, writer))
            scan.map_s = now_s
        if not writer.is_flushed and now_s > scan.flushed_s + FLUSH_PERIOD_S:
            self._patiently(scan, writer.flush)
            scan.flushed_s = now_s

    def _write_map(self, scan: ScanRecording, writer: RecordingWriter) -> None:
        """Write the newest map; one that the quota has no room for is left out."""
        with self._changed:
            newest = scan.newest_map
        if newest is None:
            return
        try:
            self._make_room(writer.most_bytes(stitched=newest), scan)
        except QuotaExceeded as error:
            self._say(f"the map of scan {scan.scan_id} is not recorded: {error}", Severity.MAJOR)
        else:
            writer.write_map(newest)
        with self._changed:
            if scan.newest_map is newest:
                scan.newest_map = None

    def _close(self, scan: ScanRecording, writer: RecordingWriter) -> None:
        self._patiently(scan, partial(self._write_map, scan, writer))
        self._patiently(scan, writer.close)
        self._folder.add(writer.path)
        scan.writer = None
        self._count(scan)

    def _finish(self, scan: ScanRecording) -> None:
        """Close the file; what the disk does not take in time stays as it was when it was flushed last."""
        writer = scan.writer
        if writer is None:
            return
        self._try(scan, partial(self._close, scan, writer))
        if scan.writer is None:
            return
        scan.writer = None
        with suppress(ScanFileError):
            writer.abandon()
        part = part_path(writer.path)
        kept = writer.num_flushed if part.exists() else 0
        self._count(scan, written=kept - writer.num_frames, dropped=writer.num_frames - kept)
        if kept:
            self._say(f"{kept} frames of scan {scan.scan_id} are in {part}", Severity.MAJOR)

    def _try(self, scan: ScanRecording, work: Callable[[], object]) -> None:
        """Do something for a scan; an error ends its recording, for the thread must live to record the next."""
        if scan.stopped and scan.writer is None:
            return
        try:
            work()
        except (PhaselineError, OSError) as error:
            self._stop(scan, str(error))
        except Exception as error:
            log.error("recording failed", exc_info=error)
            self._stop(scan, f"internal error, {type(error).__name__}: {error}")

    def _stop(self, scan: ScanRecording, reason: str) -> None:
        with self._changed:
            scan.stopped = reason
        self._say(f"scan {scan.scan_id} is recorded no further: {reason}", Severity.MAJOR)

    def _patiently(self, scan: ScanRecording, write: Callable[[], object]) -> None:
        """Call until the disk takes it; DiskRefused when there is no time left."""
        while True:
            try:
                write()
            except DiskRefused as error:
                if not self._waiting:
                    self._say(f"recording waits for the disk: {error}", Severity.MAJOR)
                self._waiting = str(error)
                if self._is_late():
                    raise
                self._say_dropped(scan)
                with self._changed:
                    self._changed.wait(DISK_RETRY_S if self._deadline_s is None else FINISHING_RETRY_S)
            else:
                break
        if self._waiting:
            self._waiting = ""
            self._say(f"scan {scan.scan_id} is recorded again", Severity.NO_ALARM)

    def _is_late(self) -> bool:
        return self._deadline_s is not None and time.monotonic() > self._deadline_s

    def _refresh(self) -> None:
        for text in self._folder.refresh():
            self._say(text, Severity.MINOR)
        self._waiting = ""
        self._make_room(0)
        self._look_used()

    def _make_room(self, own_bytes: int, own: ScanRecording | None = None) -> None:
        """Have room for what a scan's file takes, beside those that are written as well."""
        others_bytes = sum(writer.most_bytes() for writer in self._writers() if own is None or writer is not own.writer)
        deleted = self._folder.make_room(own_bytes + others_bytes)
        if deleted:
            names = ", ".join(path.name for path in deleted)
            self._say(f"deleted to stay within the quota of recordings: {names}", Severity.NO_ALARM)

    def _count(self, scan: ScanRecording, *, written: int = 0, dropped: int = 0) -> None:
        with self._changed:
            scan.written += written
            scan.dropped += dropped
        self._look_used()

    def _look_used(self) -> None:
        used_bytes = self._folder.used_bytes + sum(writer.size_bytes for writer in self._writers())
        with self._changed:
            self._used_bytes = used_bytes

    def _writers(self) -> list[RecordingWriter]:
        """The files that are written now."""
        with self._changed:
            return [scan.writer for scan in self._open if scan.writer is not None]

    def _say_dropped(self, scan: ScanRecording) -> None:
        if scan.dropped and not scan.stopped and not scan.said_dropped:
            scan.said_dropped = True
            text = f"frames of scan {scan.scan_id} are not recorded: the recorder's queue is full"
            self._say(text, Severity.MAJOR)

    def _say(self, text: str, severity: Severity) -> None:
        self._note(Note(text, severity))
