"""The detector's own parts: the loop that takes frames, and the file writer beside it."""

import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import running, write_config

from iocs.acquisition import IdTooLarge, Taken, acquire
from iocs.alarms import severity
from iocs.capture import Capture, CaptureProgress
from iocs.client import Client, ClientError
from iocs.frames_source import BLOCK_PX, ReplayedSource, Shot, SimulatedSource, Simulation
from iocs.shots_ahead import ShotsAhead
from iocs.stream import NdFrame
from phasing.errors import ScanFileError
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanfile import ScanWriter, read_scan
from phasing.simulate import SimulatedScan
from pvdb import Severity
from pvdb import detector as pvs
from pvdb.detector import LAST_ID

SIDE_PX = 16
PATIENCE_S = 600.0


class Source:
    """Three frames of a scan that had ids 10, 12 and 13."""

    geometry = Geometry(
        energy_ev=10_400.0, distance_m=1.55, pixel_size_m=110e-6, detector_shape_px=(SIDE_PX, SIDE_PX), crop_px=SIDE_PX
    )
    dtype = np.dtype(np.uint16)
    probe_guess = None
    num_frames = 3

    def __init__(self, scan_id: str = "a") -> None:
        self.scan_id = scan_id
        self.notes: dict[str, str] = {}

    def shot(self, index: int) -> Shot:
        return Shot(np.full((SIDE_PX, SIDE_PX), index, np.uint16), (0.0, index * 1e-6), (10, 12, 13)[index])


class Writer:
    """A capture with what it told."""

    def __init__(self, path: Path, *, limit: int = 0, queue_frames: int = 100, gate: threading.Event | None = None):
        self.ended, self.opened = threading.Event(), threading.Event()
        self.numbers: list[int] = []
        self.lost: list[int] = []
        self.refusals: list[str] = []
        self._gate = gate
        self._told = threading.Condition()
        self.capture = Capture(
            path,
            limit=limit,
            queue_frames=queue_frames,
            opened=self._open,
            wrote=self._wrote,
            lost=self.lost.append,
            waits=self._waits,
            finished=self.ended.set,
        )

    def give(self, *ids: int, scan_id: str = "a") -> None:
        for unique_id in ids:
            counts = np.ones((SIDE_PX, SIDE_PX), np.uint16)
            self.capture.offer(Source(scan_id), Frame(unique_id, 1.0, scan_id, counts, (0.0, 0.0)))

    def wait_written(self, number: int) -> None:
        with self._told:
            assert self._told.wait_for(lambda: number in self.numbers, PATIENCE_S), self.numbers

    def _open(self) -> None:
        self.opened.set()
        if self._gate is not None:
            assert self._gate.wait(PATIENCE_S)

    def wait_refused(self, times: int) -> None:
        with self._told:
            assert self._told.wait_for(lambda: len(self.refusals) == times, PATIENCE_S), self.refusals

    def _waits(self, reason: str) -> None:
        with self._told:
            self.refusals.append(reason)
            self._told.notify_all()

    def _wrote(self, number: int) -> None:
        with self._told:
            self.numbers.append(number)
            self._told.notify_all()


def in_time(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises; TimeoutError when it hangs."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 -- the test sees what it was
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(PATIENCE_S)


class Acquisition:
    """An acquisition with what it sent and reported."""

    def __init__(self) -> None:
        self.frames: list[NdFrame] = []
        self.taken: list[Taken] = []
        self.stream: Callable[[NdFrame], None] = self.frames.append

    def run(self, source: Source, num_frames: int, *, first_id: int = 1) -> None:
        in_time(
            lambda: acquire(
                source,
                num_frames=num_frames,
                period_s=0.0001,
                first_id=first_id,
                stop=threading.Event(),
                stream=self.stream,
                save=lambda source, frame: None,
                report=self.taken.append,
            )
        )

    @property
    def ids(self) -> list[int]:
        return [frame.unique_id for frame in self.frames]


def write_scan(path: Path, num_frames: int, *, step_m: float = 1e-6) -> Path:
    with ScanWriter(path, "a", Source.geometry, dtype=np.uint16) as writer:
        for i in range(num_frames):
            writer.append(Frame(i, 1.0, "a", np.ones((SIDE_PX, SIDE_PX), np.uint16), (0.0, i * step_m)))
    return path


def test_ids_count_on_when_a_replay_comes_round_again() -> None:
    acquisition = Acquisition()
    acquisition.run(Source(), 7)
    assert acquisition.ids == [10, 12, 13, 14, 15, 16, 17]
    assert acquisition.taken[-1].last_id == 17


class UnsortedSource(Source):
    """Its largest id is not its last."""

    def shot(self, index: int) -> Shot:
        return replace(super().shot(index), unique_id=(10, 12, 11)[index])


def test_ids_count_on_from_the_largest_when_a_replay_is_unsorted() -> None:
    acquisition = Acquisition()
    acquisition.run(UnsortedSource(), 7, first_id=1000)
    assert acquisition.ids == [10, 12, 11, 13, 14, 15, 16]


class BrokenSource(Source):
    """Its second frame cannot be made, for a reason that nobody thought of."""

    def shot(self, index: int) -> Shot:
        return super().shot(index if index == 0 else 99)


def test_an_acquisition_ends_with_whatever_its_source_raises() -> None:
    acquisition = Acquisition()
    with pytest.raises(IndexError):
        acquisition.run(BrokenSource(), 3)
    assert acquisition.ids == [10]
    assert acquisition.taken[-1] == replace(acquisition.taken[-1], frames=1, last_id=10)


def test_an_id_that_may_have_been_sent_is_not_used_again() -> None:
    acquisition = Acquisition()

    def fail(frame: NdFrame) -> None:
        raise ConnectionError

    acquisition.stream = fail
    with pytest.raises(ConnectionError):
        acquisition.run(Source(), 3)
    assert acquisition.taken[-1] == Taken(0, 10, 0.0)


class SimulatedLike(Source):
    """Its frames have no ids of their own."""

    def shot(self, index: int) -> Shot:
        return replace(super().shot(index), unique_id=None)


def test_ids_end_at_32_bits() -> None:
    acquisition = Acquisition()
    with pytest.raises(IdTooLarge, match="2147483648 does not fit into 32 bits"):
        acquisition.run(SimulatedLike(), 3, first_id=LAST_ID)
    assert acquisition.ids == [LAST_ID]
    assert acquisition.taken[-1].last_id == LAST_ID


class SlowSource(Source):
    """Its frames wait for `released`."""

    released: threading.Event

    def shot(self, index: int) -> Shot:
        assert self.released.wait(PATIENCE_S)
        return super().shot(index)


def test_who_waits_for_a_shot_can_be_stopped() -> None:
    source, stop = SlowSource(), threading.Event()
    source.released = threading.Event()
    with ShotsAhead(source, 3) as shots:
        stop.set()
        assert in_time(lambda: shots.next(stop)) is None
        source.released.set()


@pytest.mark.parametrize(("side_px", "frames"), [(16, 16), (64, 16), (128, 4), (512, 1)])
def test_simulated_frames_are_made_in_blocks_that_bound_what_a_stop_waits_for(
    monkeypatch: pytest.MonkeyPatch, side_px: int, frames: int
) -> None:
    made: list[int] = []

    def note(scan: SimulatedScan, start: int, stop: int) -> np.ndarray[Any, Any]:
        made.append(stop - start)
        return np.zeros((stop - start, side_px, side_px), np.uint16)

    monkeypatch.setattr(SimulatedScan, "frames", note)
    simulation = Simulation(20, step_m=1e-7, region_m=(0.0, 0.0), photons=1e4, sample_seed=0, defocus_m=0.0)
    source = SimulatedSource(simulation, replace(Source.geometry, detector_shape_px=(side_px, side_px)), "a")
    for index in range(frames + 1):
        source.shot(index)
    assert made == [frames, frames]
    assert frames == 1 or frames * side_px**2 <= BLOCK_PX


def test_a_part_without_positions_is_no_source(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "column.h5", 3, step_m=0.0)
    assert ReplayedSource(path, "Right half").num_frames == 3
    with pytest.raises(ScanFileError, match=r"column\.h5: no position lies in its left half"):
        ReplayedSource(path, "Left half")


def test_a_replayed_file_that_has_become_shorter_is_told(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.h5", 3)
    source = ReplayedSource(path, "Whole")
    write_scan(tmp_path / "short.h5", 2).replace(path)
    with pytest.raises(ScanFileError, match="frame 2 is no longer in it"):
        source.shot(2)


def test_the_number_written_is_told_also_when_no_frame_follows(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "scan.h5", limit=10)
    writer.give(1, 2, 3)
    writer.wait_written(3)
    assert not writer.ended.is_set()
    writer.capture.finish()
    assert read_scan(tmp_path / "scan.h5").num_frames == 3


def test_a_second_scan_ends_the_capture_and_the_first_is_saved(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "scan.h5")
    writer.give(1, 2)
    writer.give(3, scan_id="b")
    assert writer.ended.wait(PATIENCE_S)
    assert "does not belong" in str(writer.capture.state.error)
    assert read_scan(tmp_path / "scan.h5").num_frames == 2


@pytest.mark.parametrize("frames", [3, 40])
def test_a_writer_that_failed_with_a_full_queue_can_be_ended(tmp_path: Path, frames: int) -> None:
    gate = threading.Event()
    writer = Writer(tmp_path / "scan.h5", queue_frames=3, gate=gate)
    writer.give(1)
    assert writer.opened.wait(PATIENCE_S)
    writer.give(2, scan_id="b")  # fails when the gate opens
    writer.give(*range(3, 3 + frames))
    ending = threading.Thread(target=writer.capture.finish, daemon=True)
    ending.start()
    gate.set()
    ending.join(PATIENCE_S)
    assert not ending.is_alive()
    assert writer.ended.is_set()


def test_a_capture_that_breaks_down_says_so_and_saves_what_it_has(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "scan.h5")
    writer.give(1, 2)
    writer.wait_written(2)
    no_counts: Any = None
    writer.capture.offer(Source(), Frame(3, 1.0, "a", no_counts, (0.0, 0.0)))
    assert writer.ended.wait(PATIENCE_S)
    assert "internal error, AttributeError" in str(writer.capture.state.error)
    assert (writer.capture.state.written, writer.capture.state.dropped) == (2, 1)
    assert read_scan(tmp_path / "scan.h5").num_frames == 2


@contextmanager
def full_disk(room_bytes: int, *, pid: int = 0) -> Iterator[None]:
    """While it lasts, a process, by default this one, can make no file longer than that; so keep it short here."""
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room_bytes, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def test_dropped_frames_are_told_as_they_drop(tmp_path: Path) -> None:
    gate = threading.Event()
    writer = Writer(tmp_path / "scan.h5", limit=6, queue_frames=3, gate=gate)
    writer.give(1)
    assert writer.opened.wait(PATIENCE_S)
    writer.give(2, 3, 4, 5, 6, 7)  # three wait, two are dropped, and the last is beyond the limit
    assert writer.lost == [1, 2] and not writer.ended.is_set()
    gate.set()
    assert writer.ended.wait(PATIENCE_S)
    assert writer.capture.state == CaptureProgress(4, 2, tmp_path / "scan.h5", None)
    assert list(read_scan(tmp_path / "scan.h5").unique_id) == [1, 2, 3, 4]


def test_a_capture_waits_for_a_full_disk_and_loses_no_frame(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "scan.h5", queue_frames=2000)
    with full_disk(100_000):  # a chunk has 512 frames, 262 144 bytes
        writer.give(*range(1, 1001))
        writer.wait_refused(1)
    writer.wait_refused(2)
    writer.wait_written(1000)
    writer.capture.finish()
    assert "does not take it" in writer.refusals[0] and writer.refusals[1] == ""
    assert writer.capture.state == CaptureProgress(1000, 0, tmp_path / "scan.h5", None)
    assert list(read_scan(tmp_path / "scan.h5").unique_id) == list(range(1, 1001))


def test_a_capture_that_is_ended_while_the_disk_is_full_has_written_nothing_if_nothing_was_flushed(
    tmp_path: Path,
) -> None:
    writer = Writer(tmp_path / "scan.h5", queue_frames=1200)
    with full_disk(100_000):
        writer.give(*range(1, 1001))
        writer.wait_refused(1)
        writer.give(*range(1001, 1501))
        writer.capture.finish()
    state = writer.capture.state
    assert str(state.error).endswith("does not take it: [Errno 27] File too large")
    assert (state.written, state.dropped) == (0, 1500)
    assert not (tmp_path / "scan.h5").exists()


def test_a_capture_that_is_ended_while_the_disk_is_full_has_written_what_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iocs.capture.FLUSH_PERIOD_S", 0.0)
    writer = Writer(tmp_path / "scan.h5", queue_frames=1200)
    with full_disk(400_000):  # the first chunk and not the second
        writer.give(*range(1, 1001))
        writer.wait_refused(1)
        writer.capture.finish()
    state = writer.capture.state
    assert f"{state.written} frames are in scan.h5.part" in str(state.error)
    assert 0 < state.written == 1000 - state.dropped == read_scan(tmp_path / "scan.h5.part").num_frames


def test_a_capture_that_loses_frames_keeps_its_file_and_fails(tmp_path: Path) -> None:
    # A frame is a chunk of the file, so that the disk is full at once.
    text = "[detector]\nqueue_frames = 3\n[geometry]\ndetector_shape_px = [512, 512]\ncrop_px = 16\n"
    name = f"D{os.getpid()}:"
    with running("detector", write_config(tmp_path, name, text)) as ioc, closing(Client(name)) as client:
        client.watch(pvs.CAPTURE, pvs.FILE_DROPPED, pvs.WRITE_MESSAGE)
        for pv, value in {pvs.NUM_IMAGES: 20, pvs.NUM_CAPTURE: 20, pvs.ACQUIRE_PERIOD: 0.001}.items():
            client.put(pv, value)
        capturing = client.put_aside(pvs.CAPTURE, 1)
        client.wait(lambda: client.value(pvs.CAPTURE) == "Capture", "the capture runs", PATIENCE_S)
        with full_disk(100_000, pid=ioc.process.pid):
            client.put(pvs.ACQUIRE, 1)
            client.wait(lambda: client.value(pvs.FILE_DROPPED) > 0, "lost frames are told", PATIENCE_S)
            client.wait(lambda: "waits for" in client.value(pvs.WRITE_MESSAGE), "the reason is told", PATIENCE_S)
            assert not capturing.done
        with pytest.raises(ClientError, match="frames dropped") as failure:
            capturing.wait()
        written, dropped = client.get(pvs.NUM_CAPTURED), client.get(pvs.FILE_DROPPED)
        scan = read_scan(client.get(pvs.FULL_FILE_NAME))
        assert written + dropped == 20 and scan.num_frames == written
        assert f"{dropped} frames dropped" in str(failure.value) and f"{written} are in" in str(failure.value)
        assert severity(pvs.FILE_DROPPED, dropped) is Severity.MAJOR
        assert [client.get(pv) for pv in (pvs.WRITE_STATUS, pvs.FILE_NUMBER)] == ["Write error", 2]
        client.put(pvs.NUM_CAPTURE, 0)
        capturing = client.put_aside(pvs.CAPTURE, 1)
        client.wait(lambda: client.value(pvs.FILE_DROPPED) == 0, "the next capture starts afresh", PATIENCE_S)
        client.wait(lambda: client.value(pvs.WRITE_MESSAGE) == "", "its message is taken away", PATIENCE_S)
        shown = [client.get(pv) for pv in (pvs.WRITE_STATUS, pvs.NUM_CAPTURED, pvs.FULL_FILE_NAME)]
        assert shown == ["Write OK", 0, ""]
        client.put(pvs.CAPTURE, 0)


def test_a_replay_whose_file_is_pulled_away_ends_in_the_error_state(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "scan.h5", 3)
    name = f"A{os.getpid()}:"
    with running("detector", write_config(tmp_path, name)), closing(Client(name)) as client:
        client.watch(pvs.NUM_IMAGES_COUNTER, pvs.DETECTOR_STATE)
        # Round and round the file: the shots read ahead of their time are taken, the next cannot be read.
        settings = {pvs.SOURCE: "Replay", pvs.REPLAY_FILE: str(path), pvs.IMAGE_MODE: "Continuous"}
        for pv, value in (settings | {pvs.ACQUIRE_PERIOD: 0.02}).items():
            client.put(pv, value)
        acquiring = client.put_aside(pvs.ACQUIRE, 1)
        client.wait(lambda: client.value(pvs.NUM_IMAGES_COUNTER) >= 1, "one frame is taken", PATIENCE_S)
        path.unlink()
        with pytest.raises(ClientError, match="can no longer be read"):
            acquiring.wait()
        client.wait(lambda: client.value(pvs.DETECTOR_STATE) == "Error", "the error is shown", PATIENCE_S)
