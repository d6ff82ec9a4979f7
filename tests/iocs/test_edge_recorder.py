"""The edge's recorder: it never holds up the stream, and says what it did not record."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iocs import edge_recorder
from iocs.edge_messages import Note, RecordState
from iocs.edge_recorder import Recorded, Recorder
from phasing.errors import ScanFileError
from phasing.recording import LatePosition, Recording, RecordingWriter, read_recording
from phasing.stitch import StitchedMap
from pvdb import Severity

PATIENCE_S = 300.0
FRAME_BYTES = 4 * 128**2
FullDisk = Callable[[int], AbstractContextManager[None]]


class Notes:
    """What the operator was told."""

    def __init__(self) -> None:
        self._said: list[Note] = []
        self._more = threading.Condition()

    def __call__(self, note: Note) -> None:
        with self._more:
            self._said.append(note)
            self._more.notify_all()

    def wait(self, text: str, severity: Severity) -> Note:
        """The first note that holds the text, as soon as there is one."""
        with self._more:
            assert self._more.wait_for(lambda: self.all(text), PATIENCE_S), (text, self._said)
            (note, *_) = self.all(text)
            assert note.severity is severity
            return note

    def all(self, text: str = "") -> list[Note]:
        return [note for note in self._said if text in note.text]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@contextmanager
def recorder(folder: Path, notes: Notes, *, quota_bytes: int = 10**9, queue_frames: int = 5000) -> Iterator[Recorder]:
    made = Recorder(folder, quota_bytes=quota_bytes, queue_frames=queue_frames, note=notes)
    try:
        yield made
    finally:
        made.close(PATIENCE_S)


def prediction(number: int, frame_px: int = 128) -> Recorded:
    phase_rad = np.full((frame_px, frame_px), number, np.float32)
    return Recorded(number, 10**18 + number, phase_rad, (1e-6 * number, -1e-6), 3, False)


def stitched_map(value: float, side_px: int = 20) -> StitchedMap:
    layer = np.full((side_px, side_px), value, np.float32)
    return StitchedMap(layer, layer, (value, 2.0), 5e-8)


def eventually(recorder: Recorder, holds: Callable[[RecordState], bool]) -> RecordState:
    """The recorder's state once it is so; it is looked at, as it says nothing of itself."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds(state := recorder.state()):
        assert time.monotonic() < deadline_s, state
        time.sleep(0.01)
    return state


def _until(holds: Callable[[], bool]) -> None:
    """Wait for what shows in a file that is being written."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        with suppress(ScanFileError):  # between two writes of a flush
            if holds():
                return
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def recordings(folder: Path) -> list[Recording]:
    return [read_recording(path) for path in sorted(folder.glob("*.h5"))]


def ids(recording: Recording) -> list[int]:
    """The ids, after a look at the predictions: each holds its id in every pixel."""
    found: list[int] = recording.unique_id.tolist()
    assert recording.phase_rad()[:, 0, -1].tolist() == found
    return found


@contextmanager
def held_writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it lasts, the recorder's thread is stuck in the first frame; the event says that it is."""
    stuck, go_on = threading.Event(), threading.Event()
    append = RecordingWriter.append

    def hold(writer: RecordingWriter, one: Recorded) -> None:
        stuck.set()
        assert go_on.wait(PATIENCE_S)
        append(writer, one)

    monkeypatch.setattr(RecordingWriter, "append", hold)
    try:
        yield stuck
    finally:
        go_on.set()


def test_a_scan_is_a_file(tmp_path: Path, notes: Notes) -> None:
    folder = tmp_path / "made" / "by itself"
    with recorder(folder, notes) as made:
        made.add(prediction(0))
        made.add_map(stitched_map(0.0))
        for scan, numbers in (("a", range(1, 200)), ("b", range(200, 201)), ("empty", range(0)), ("c/d", range(7))):
            made.begin(scan, scan)
            for number in numbers:
                made.add(prediction(number))
                made.add_map(stitched_map(float(number)))
            made.end()
        made.add(prediction(9))
        made.add_map(stitched_map(9.0))
        state = eventually(made, lambda state: not state.recording)
    found = recordings(folder)
    assert [(one.scan_id, ids(one)) for one in found] == [
        ("a", list(range(1, 200))), ("b", [200]), ("c/d", list(range(7)))
    ]  # fmt: skip
    assert [one.stitched.origin_m[0] for one in found if one.stitched] == [199.0, 200.0, 6.0]
    used = sum(path.stat().st_size for path in folder.iterdir())
    assert state == RecordState(False, str(found[-1].path), 7, 0, used, "")
    assert notes.all() == []


def test_scans_are_recorded_side_by_side_each_in_its_own_file(tmp_path: Path, notes: Notes) -> None:
    with recorder(tmp_path, notes) as made:
        former = made.begin("former", "")
        for number in range(100):
            made.add(prediction(number))
        latter = made.begin("latter", "")
        for number in range(100, 400):
            made.add(prediction(number), latter if number % 3 else former)
        made.add_map(stitched_map(1.0), former)
        made.add_map(stitched_map(2.0))
        made.end(former)
        made.add(prediction(400), former)
        made.add(prediction(401))
        assert made.state().recording
        made.end()
        assert eventually(made, lambda state: not state.recording).frames == 201
    found = {one.scan_id: one for one in recordings(tmp_path)}
    assert ids(found["former"]) == [*range(100), *range(102, 400, 3)]
    assert ids(found["latter"]) == [*(n for n in range(100, 400) if n % 3), 401]
    assert [one.stitched.origin_m[0] for one in found.values() if one.stitched] == [1.0, 2.0]
    assert notes.all() == []


def test_open_recordings_share_the_quota(tmp_path: Path, notes: Notes) -> None:
    quota_bytes = 100 * FRAME_BYTES
    with recorder(tmp_path, notes, quota_bytes=quota_bytes) as made:
        for scan in ("a", "b"):
            made.begin(scan, "")
            for number in range(60):
                made.add(prediction(number))
        notes.wait("scan b is recorded no further", Severity.MAJOR)
        assert made.state().used_bytes <= quota_bytes
    assert [(one.scan_id, one.num_frames < 60) for one in recordings(tmp_path)] == [("a", False), ("b", True)]


@pytest.mark.parametrize("flushed", [True, False])
def test_a_position_that_comes_late_is_recorded(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, flushed: bool
) -> None:
    monkeypatch.setattr(edge_recorder, "FLUSH_PERIOD_S", 0.0 if flushed else 1000.0)
    late: list[LatePosition] = [Future() for _ in range(3)]
    with recorder(tmp_path, notes) as made:
        made.begin("a", "")
        for number, position_m in enumerate(late):
            made.add(replace(prediction(number), position_m=position_m))
        eventually(made, lambda state: state.frames == 3)
        late[2].set_result((1.0, 2.0))
        if flushed:
            (part,) = tmp_path.iterdir()
            _until(lambda: read_recording(part).position_m[2:, 1].tolist() == [2.0])
        late[0].set_result((3.0, 4.0))
        made.end()
    (found,) = recordings(tmp_path)
    np.testing.assert_array_equal(found.position_m, [(3.0, 4.0), (np.nan, np.nan), (1.0, 2.0)])


def test_another_frame_size_is_another_file(tmp_path: Path, notes: Notes) -> None:
    with recorder(tmp_path, notes) as made:
        made.begin("a", "")
        for number in range(30):
            made.add(prediction(number, 128 if number < 10 or number >= 20 else 64))
        made.end()
        assert eventually(made, lambda state: not state.recording).frames == 30
    found = recordings(tmp_path)
    assert [ids(one) for one in found] == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    assert [one.frame_px for one in found] == [128, 64, 128]
    assert {one.scan_id for one in found} == {"a"}


def test_a_full_queue_drops_and_counts(tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorder(tmp_path, notes, queue_frames=10) as made:
        with held_writer(monkeypatch) as stuck:
            made.begin("a", "")
            made.add(prediction(0))
            assert stuck.wait(PATIENCE_S)
            for number in range(1, 31):
                made.add(prediction(number))
            assert made.state().dropped == 20
            made.end()
            made.begin("b", "")
            made.add(prediction(31))
            made.end()
            assert made.state().dropped == 1
        notes.wait("queue is full", Severity.MAJOR)
        notes.wait("20 of 31 frames of scan a are not recorded", Severity.MAJOR)
        notes.wait("1 of 1 frames of scan b are not recorded", Severity.MAJOR)
    assert [ids(one) for one in recordings(tmp_path)] == [list(range(11))]


def test_closing_in_time_while_the_disk_hangs(tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    with recorder(tmp_path, notes) as made, held_writer(monkeypatch) as stuck:
        made.begin("a", "")
        made.add(prediction(0))
        assert stuck.wait(PATIENCE_S)
        began_s = time.monotonic()
        made.close(0.1)
        assert time.monotonic() - began_s < PATIENCE_S / 2
        assert made.state().recording


def test_a_full_disk_costs_frames_of_the_recording_only(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, full_disk: FullDisk
) -> None:
    monkeypatch.setattr(edge_recorder, "FLUSH_PERIOD_S", 0.0)
    with recorder(tmp_path, notes, queue_frames=20) as made:
        made.begin("a", "")
        with full_disk(60 * FRAME_BYTES):
            for number in range(20):
                made.add(prediction(number))
            eventually(made, lambda state: state.frames == 20)
            number = 20
            deadline_s = time.monotonic() + PATIENCE_S
            while not made.state().waiting_for_disk:
                assert time.monotonic() < deadline_s
                made.add(prediction(number))
                number += 1
            notes.wait("waits for the disk", Severity.MAJOR)
            state = made.state()
            assert "File too large" in state.waiting_for_disk and state.recording
            last = number + 100
            for later in range(number, last + 1):
                made.add(prediction(later))
            notes.wait("queue is full", Severity.MAJOR)
            (part,) = tmp_path.iterdir()
            assert read_recording(part).unique_id.tolist()[:20] == list(range(20))
        notes.wait("recorded again", Severity.NO_ALARM)
        eventually(made, lambda state: state.frames + state.dropped == last + 1 and not state.waiting_for_disk)
        made.add(prediction(last + 1))
        made.end()
        state = eventually(made, lambda state: not state.recording)
    (found,) = recordings(tmp_path)
    assert ids(found)[:20] == list(range(20)) and ids(found)[-1] == last + 1
    assert len(ids(found)) == state.frames and state.frames + state.dropped == last + 2 and state.dropped >= 80


@pytest.mark.parametrize("flushed", [True, False])
def test_closing_with_a_full_disk_keeps_what_was_flushed(
    tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch, full_disk: FullDisk, flushed: bool
) -> None:
    monkeypatch.setattr(edge_recorder, "FLUSH_PERIOD_S", 0.0 if flushed else 1000.0)
    with recorder(tmp_path, notes) as made:
        made.begin("a", "")
        made.add_map(stitched_map(1.0))
        with full_disk(60 * FRAME_BYTES):
            for number in range(20):
                made.add(prediction(number))
            eventually(made, lambda state: state.frames == 20)
            for number in range(20, 400):
                made.add(prediction(number))
            notes.wait("waits for the disk", Severity.MAJOR)
            made.close(1.0)
            state = eventually(made, lambda state: not state.recording)
    (part,) = tmp_path.iterdir()
    kept = ids(read_recording(part))
    assert part.name.endswith(".h5.part")
    assert kept == list(range(state.frames)) and state.frames + state.dropped == 400
    assert state.frames >= (20 if flushed else 1)
    notes.wait(f"{state.dropped} of 400 frames of scan a are not recorded", Severity.MAJOR)
    with recorder(tmp_path, notes) as made:
        eventually(made, lambda state: state.used_bytes > 0)
    assert [ids(one) for one in recordings(tmp_path)] == [kept]


def test_the_oldest_recordings_make_way(tmp_path: Path, notes: Notes) -> None:
    quota_bytes = 100 * FRAME_BYTES
    (tmp_path / "20250101T000000.000000Z_a.h5").write_bytes(b"not ours")
    with recorder(tmp_path, notes, quota_bytes=quota_bytes) as made:
        for scan in range(6):
            made.begin(f"s{scan}", "")
            for number in range(30):
                made.add(prediction(number))
            made.end()
            state = eventually(made, lambda state: not state.recording)
            assert state.frames == 30
            assert 30 * FRAME_BYTES < state.used_bytes <= quota_bytes
    note = notes.wait("deleted", Severity.NO_ALARM)
    assert note.text.endswith("_s0.h5") and "not ours" not in note.text
    assert (tmp_path / "20250101T000000.000000Z_a.h5").exists()
    (tmp_path / "20250101T000000.000000Z_a.h5").unlink()
    assert [one.scan_id for one in recordings(tmp_path)] == ["s4", "s5"]


def test_a_recording_larger_than_the_quota_stops(tmp_path: Path, notes: Notes) -> None:
    quota_bytes = 100 * FRAME_BYTES
    with recorder(tmp_path, notes, quota_bytes=quota_bytes) as made:
        made.begin("a", "")
        for number in range(150):
            made.add(prediction(number))
        notes.wait("quota", Severity.MAJOR)
        state = eventually(made, lambda state: not state.recording)
        assert "quota" in state.waiting_for_disk and state.stopped
        made.add(prediction(150))
        made.add_map(stitched_map(1.0))
        made.end()
        notes.wait("of 151 frames of scan a are not recorded", Severity.MAJOR)
        state = made.state()
        assert not state.stopped and not state.waiting_for_disk, "what is over is no alarm any more"
        assert 60 < state.frames < 100 and state.frames + state.dropped == 151
        (found,) = recordings(tmp_path)
        assert ids(found) == list(range(state.frames)) and found.path.stat().st_size <= quota_bytes
        made.begin("b", "")
        made.add(prediction(0))
        eventually(made, lambda state: state.frames == 1)
    assert [one.scan_id for one in recordings(tmp_path)] == ["b"]


def test_a_map_that_the_quota_has_no_room_for_is_left_out(tmp_path: Path, notes: Notes) -> None:
    with recorder(tmp_path, notes, quota_bytes=100 * FRAME_BYTES) as made:
        made.begin("a", "")
        made.add(prediction(0))
        made.add_map(stitched_map(1.0, side_px=2000))
        made.end()
        notes.wait("map of scan a is not recorded", Severity.MAJOR)
    (found,) = recordings(tmp_path)
    assert ids(found) == [0] and found.stitched is None


def test_a_folder_that_cannot_be_is_said_and_tried_again(tmp_path: Path, notes: Notes) -> None:
    (tmp_path / "file").write_text("")
    with recorder(tmp_path / "file" / "recordings", notes) as made:
        made.begin("a", "")
        made.add(prediction(0))
        notes.wait("scan a is recorded no further", Severity.MAJOR)
        state = made.state()
        assert not state.recording and "Not a directory" in state.waiting_for_disk
        made.end()
        (tmp_path / "file").unlink()
        made.begin("b", "")
        made.add(prediction(1))
        made.end()
        state = eventually(made, lambda state: not state.recording)
        assert (state.frames, state.dropped, state.waiting_for_disk) == (1, 0, "")
    assert [ids(one) for one in recordings(tmp_path / "file" / "recordings")] == [[1]]


def test_a_part_that_somebody_deletes_is_said(tmp_path: Path, notes: Notes) -> None:
    with recorder(tmp_path, notes) as made:
        made.begin("a", "")
        for number in range(5):
            made.add(prediction(number))
        eventually(made, lambda state: state.frames == 5)
        (part,) = tmp_path.iterdir()
        part.unlink()
        made.end()
        made.begin("b", "")
        notes.wait("5 of 5 frames of scan a are not recorded", Severity.MAJOR)
        made.add(prediction(1))
    assert [one.scan_id for one in recordings(tmp_path)] == ["b"]


KILLED = """
import sys
from tests.iocs.test_edge_recorder import *
made = Recorder(Path(sys.argv[1]), quota_bytes=10**9, queue_frames=5000, note=print)
made.begin("a", "")
for number in range(100):
    made.add(prediction(number))
sys.stdin.read()
"""


def test_a_killed_edge_leaves_a_part_that_the_next_names(tmp_path: Path, notes: Notes) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE) as process:
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(_num_readable(part) == 100 for part in tmp_path.iterdir()):
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    with recorder(tmp_path, notes, quota_bytes=150 * FRAME_BYTES) as made:
        state = eventually(made, lambda state: state.used_bytes > 0)
        (found,) = recordings(tmp_path)
        assert ids(found) == list(range(100)) and state.used_bytes == found.path.stat().st_size
        made.begin("b", "")
        for number in range(100):
            made.add(prediction(number))
        notes.wait(f"deleted to stay within the quota of recordings: {found.path.name}", Severity.NO_ALARM)
    assert [one.scan_id for one in recordings(tmp_path)] == ["b"]


def _num_readable(part: Path) -> int:
    try:
        return read_recording(part).num_frames
    except ScanFileError:  # between two flushes' writes
        return 0
