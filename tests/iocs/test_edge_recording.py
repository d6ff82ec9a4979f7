"""Positions that come late and recordings, at a whole edge: what is published at once, placed later, and kept."""

import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from edge_line import Line, a_line
from harness import Process
from test_edge import _children

from iocs.maps import placed_map
from iocs.stream import NdFrame
from phasing.recording import Recording, read_recording
from pvdb import Severity, edge

HERE = Path(__file__).parent
TABLE = f"Q{os.getpid()}:Positions"
TOLERANCE_S = 0.1
POSITIONS = f"""
[edge.positions]
source = "stream"
stream = "{TABLE}"
x = "x"
y = "y"
tolerance_s = {TOLERANCE_S}
"""
PATIENT, IMPATIENT = "wait_s = 600.0\n", "wait_s = 0.5\n"
"""How long a prediction waits for its position: for longer than any test takes, or not for long."""


class Table:
    """A position box that tells later where the sample was."""

    def __init__(self, folder: Path) -> None:
        script, names = HERE / "position_publisher.py", (TABLE, f"{TABLE}X", f"{TABLE}Y")
        self._process = Process([sys.executable, str(script), *names], folder / "positions.log")
        self._process.tell(json.dumps({"x": 0.0, "y": 0.0, "time_s": 1.0}))
        self._process.wait_line(lambda line: line == "ready")

    def tell(self, frames: list[NdFrame], *, late_s: float = 0.0) -> None:
        """Where the sample was at the time of each frame, or so much later."""
        done = self._process.count("done")
        y, x = zip(*(position_um(frame.unique_id) for frame in frames), strict=True)
        times_s = [frame.time_ns / 1e9 + late_s for frame in frames]
        self._process.tell(json.dumps({"time": times_s, "x": x, "y": y}))
        self._process.wait_count("done", done + 1)

    def close(self) -> None:
        self._process.stop()


def position_um(unique_id: int) -> tuple[float, float]:
    return unique_id // 20 * 0.1, unique_id % 20 * 0.1


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Line, Table]]:
    folder = tmp_path_factory.mktemp("record")
    with closing(Table(folder)) as table, a_line(folder, POSITIONS + PATIENT) as line:
        yield line, table


@pytest.fixture
def line(started: tuple[Line, Table]) -> Line:
    started[0].begin()
    return started[0]


@pytest.fixture
def table(started: tuple[Line, Table]) -> Table:
    return started[1]


def _recording(line: Line, scan_id: str) -> Recording:
    """The recording of a scan, the last that was finished; its file bears its name once it is whole."""
    line.until(lambda: scan_id in line.value(edge.RECORD_FILE), f"the recording of {scan_id} has a file")
    path = Path(line.value(edge.RECORD_FILE))
    line.until(path.exists, f"{path} is there")
    return read_recording(path)


def _map_of(line: Line, scan_id: str, number: int) -> NdFrame:
    """The latest map, once it is that of a scan and of that many predictions."""
    wanted = scan_id, number
    return line.stitched.until(
        lambda found: (found[-1].attributes["ScanId"], found[-1].unique_id) == wanted, f"a map of {number} of {scan_id}"
    )[-1]


def test_predictions_are_published_at_once_and_stitched_when_their_position_comes(line: Line, table: Table) -> None:
    line.sent(10, counts=10)
    frames = line.phase.take(10)
    assert not any("SampleX" in frame.attributes for frame in frames)
    line.shows(edge.FRAMES_WAITING, 10)
    table.tell(frames)
    line.shows(edge.FRAMES_WAITING, 0)
    found = placed_map(_map_of(line, line.scan, 10))
    np.testing.assert_allclose(found.phase_rad[found.weight > 0], 0.01, rtol=1e-5)
    assert line.value(edge.FRAMES_UNPLACED) == 0
    line.balanced(10)


def test_predictions_that_never_get_a_position_are_counted(tmp_path: Path) -> None:
    with a_line(tmp_path, POSITIONS + IMPATIENT) as line:
        line.begin()
        line.sent(4)
        line.phase.take(4)
        line.shows(edge.FRAMES_UNPLACED, 4)
        line.shows(edge.FRAMES_WAITING, 0)
        line.until(lambda: f"no position came from {TABLE} in " in line.value(edge.MESSAGE), "the reason is told")
        line.balanced(4)
        for pv in (edge.FRAMES_UNPLACED, edge.SCAN_UNPLACED):
            line.shows_alarm(pv, Severity.MINOR)


def test_a_recording_holds_what_was_published(line: Line, table: Table) -> None:
    line.client.put(edge.RECORD, 1)
    line.client.put(edge.RESET, 1)  # the stream process has taken what was put before it
    line.sent(50, counts=None, scan_id="kept", rate_hz=500)
    frames = line.phase.take(50)
    table.tell(frames)
    shown = placed_map(_map_of(line, "kept", 50))
    line.shows(edge.RECORD_STATE, "Recording")
    line.client.put(edge.RECORD, 0)
    line.shows(edge.RECORD_STATE, "Off")
    kept = _recording(line, "kept")
    assert kept.scan_id == "kept"
    assert kept.unique_id.tolist() == [frame.unique_id for frame in frames]
    assert kept.time_ns.tolist() == [frame.time_ns for frame in frames]
    np.testing.assert_array_equal(kept.phase_rad(), np.stack([frame.array for frame in frames]))
    np.testing.assert_allclose(kept.position_m, [np.array(position_um(f.unique_id)) * 1e-6 for f in frames], atol=1e-12)
    assert set(kept.model_version) == {1} and not kept.mismatch.any()
    assert kept.stitched is not None
    assert kept.stitched.origin_m == pytest.approx(shown.origin_m)
    assert kept.stitched.phase_rad.shape == shown.phase_rad.shape


def test_a_recording_that_waits_for_a_scan_is_no_alarm(line: Line) -> None:
    def waits() -> None:
        line.shows(edge.RECORD_STATE, "Waiting for scan")
        line.shows_alarm(edge.RECORD_STATE, Severity.NO_ALARM)

    line.client.put(edge.RECORD, 1)
    line.client.put(edge.RESET, 1)
    waits()
    line.sent(3, scan_id="reset")
    line.shows(edge.RECORD_STATE, "Recording")
    line.client.put(edge.RESET, 1)
    waits()
    line.sent(3, first=4, scan_id="off")
    line.shows(edge.RECORD_STATE, "Recording")
    line.client.put(edge.RECORD, 0)
    line.shows(edge.RECORD_STATE, "Off")
    line.client.put(edge.RECORD, 1)
    waits()


def test_the_map_of_a_recording_is_that_of_its_whole_scan(line: Line, table: Table) -> None:
    """Also where the next scan begins before the map was published once more."""
    line.client.put(edge.RECORD, 1)
    line.client.put(edge.RESET, 1)
    line.sent(20, counts=10, scan_id="former", rate_hz=500)
    line.sent(20, first=201, counts=20, scan_id="latter", rate_hz=500)
    frames = line.phase.take(40)
    table.tell(frames)
    line.until(lambda: "latter" in line.value(edge.RECORD_FILE), "the latter is recorded")
    line.shows(edge.RECORD_FRAMES, 20)
    (path,) = (line.folder / "data" / "edge" / "recordings").glob("*former*.h5")
    kept = read_recording(path)
    assert kept.unique_id.tolist() == list(range(1, 21))
    assert kept.stitched is not None, "the map of the former scan is in its file"
    lit = kept.stitched.weight > 0
    np.testing.assert_allclose(kept.stitched.phase_rad[lit], 0.01, rtol=1e-5)


def test_a_recording_has_no_map_of_another_scan(line: Line, table: Table) -> None:
    line.client.put(edge.RECORD, 1)
    line.client.put(edge.RESET, 1)
    line.sent(5, counts=10, scan_id="mapped")
    table.tell(line.phase.take(5))
    _map_of(line, "mapped", 5)
    line.sent(5, first=6, counts=20, scan_id="placeless")
    table.tell(line.phase.take(10)[-1:], late_s=1.1 * TOLERANCE_S)  # too late for all of them
    line.shows(edge.FRAMES_UNPLACED, 5)
    line.until(lambda: "placeless" in line.value(edge.RECORD_FILE), "the latter is recorded")
    line.client.put(edge.RECORD, 0)
    kept = _recording(line, "placeless")
    assert (kept.scan_id, kept.num_frames, kept.stitched) == ("placeless", 5, None)
    assert np.isnan(kept.position_m).all()


@contextmanager
def _full_disk(line: Line, room_bytes: int) -> Iterator[None]:
    """While it lasts, the stream process can make no file longer than that."""
    (pid,) = _children(line.edge.process.pid)
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room_bytes, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_holds_up_the_recording_and_nothing_else(line: Line, table: Table) -> None:
    with _full_disk(line, 10_000):
        line.client.put(edge.RECORD, 1)
        line.client.put(edge.RESET, 1)
        line.sent(100, counts=None, scan_id="full", rate_hz=500)
        frames = line.phase.take(100)
        table.tell(frames)
        line.shows(edge.RECORD_STATE, "Waiting for disk")
        line.shows_alarm(edge.RECORD_STATE, Severity.MAJOR)
        line.until(lambda: "waits for the disk" in line.value(edge.MESSAGE), "the reason is told")
        line.balanced(100)
        line.sent(100, first=101, counts=None, scan_id="full", rate_hz=500)
        table.tell(line.phase.take(200)[100:])
        line.balanced(200)
        line.shows(edge.FRAMES_WAITING, 0)
        assert line.value(edge.FRAMES_MISSED) == 0 == line.value(edge.FRAMES_DROPPED)
    line.shows(edge.RECORD_STATE, "Recording")
    line.shows(edge.RECORD_FRAMES, 200)
    line.client.put(edge.RECORD, 0)
    kept = _recording(line, "full")
    assert kept.unique_id.tolist() == list(range(1, 201))
    assert line.client.get(edge.RECORD_DROPPED) == 0


def test_positions_that_come_in_the_next_scan_cost_neither_scan_its_map(tmp_path: Path) -> None:
    positions = tmp_path / "positions.csv"

    def tell(*unique_ids: int) -> None:
        rows = [f"{n},{position_um(n)[1]},{position_um(n)[0]}" for n in (*unique_ids, 99)]
        whole = tmp_path / "whole.csv"
        whole.write_text("\n".join(["id,x,y", *rows, ""]))
        whole.rename(positions)

    more = f'[edge.positions]\nsource = "file"\nfile = "{positions}"\nx = "x"\ny = "y"\nwait_s = 100.0\n'
    with a_line(tmp_path, more) as line:
        line.begin()
        line.sent(6, first=1, counts=10, scan_id="former")
        line.sent(6, first=7, counts=20, scan_id="latter")
        line.shows(edge.FRAMES_WAITING, 12)
        for told in ((7, 8, 9), (1, 2, 3), (10, 11, 12)):
            before = line.value(edge.FRAMES_WAITING)
            tell(*told)
            line.shows(edge.FRAMES_WAITING, before - 3)
        last = placed_map(_map_of(line, "latter", 6))
        np.testing.assert_allclose(last.phase_rad[last.weight > 0], 0.02, rtol=1e-5)
