"""Positions at the edge: from attributes, files and real streams; late, gone, garbled and never."""

import json
import os
import sys
import time
from itertools import count
from threading import Event

import numpy as np
import pytest
from harness import START_S, Process, start_script
from loopback import HERE

import iocs.edge_position_file
import iocs.edge_samples
from iocs.config import PositionSection
from iocs.edge_position_streams import table_samples
from iocs.edge_positions import Placement, Waiting, open_positions
from iocs.edge_samples import GarbageError
from iocs.stream import NdFrame
from pvdb import Severity

ARRAY = np.zeros((1, 1), np.uint16)
NUMBERS = count()
NOT_YET, NEVER = Placement(None, False), Placement(None, True)
EPOCH_S = 1_600_000_000.0


def frame(time_s=0.0, unique_id=1, **attributes):
    return NdFrame(unique_id, round(time_s * 1e9), ARRAY, attributes)


class Notes(list):
    """What the operator was told."""

    def __call__(self, note):
        self.append(note)

    def texts(self, severity=Severity.MAJOR):
        return [note.text for note in self if note.severity is severity]


def until(holds):
    """Wait for something that other threads and processes bring about."""
    deadline_s, pause = time.monotonic() + START_S, Event()
    while not (result := holds()):
        assert time.monotonic() < deadline_s, "it never came"
        pause.wait(0.01)
    return result


def placed(source, one):
    return until(lambda: (found := source.find(one)).final and found)


@pytest.fixture
def opened(monkeypatch):
    """Opens sources of positions and closes them in the end; that one connects late is not said."""
    monkeypatch.setattr(iocs.edge_samples, "_CONNECT_S", START_S)
    sources = []

    def open_one(**options):
        notes = Notes()
        sources.append(open_positions(PositionSection(**options), notes))
        return sources[-1], notes

    yield open_one
    for source in sources:
        source.close()


def test_attributes_are_placed_at_once(opened):
    source, _ = opened(x="SX", y="SY", unit_m=1e-9, sign_y=-1)
    assert source.find(frame(SX=5, SY=2.0)) == Placement((pytest.approx(-2e-9), pytest.approx(5e-9)), True)


@pytest.mark.parametrize("attributes", [{}, {"PositionX": 1.0}, {"PositionX": 1.0, "PositionY": "high"},
                                        {"PositionX": float("nan"), "PositionY": 1.0}])  # fmt: skip
def test_a_frame_without_its_attributes_never_gets_a_position(opened, attributes):
    source, _ = opened()
    assert source.find(frame(**attributes)) == NEVER


@pytest.fixture
def quick_looks(monkeypatch):
    monkeypatch.setattr(iocs.edge_position_file, "FILE_LOOK_S", 0.05)


def old(path, text):
    """A file that was written a while ago."""
    path.write_text(text)
    os.utime(path, (time.time() - 100.0,) * 2)


def test_a_file_that_is_there_serves_at_once(opened, tmp_path):
    path = tmp_path / "p.csv"
    old(path, "id,px,py\n7,1,2\n8,3,4\n8,5,4\n")
    source, notes = opened(source="file", file=path, x="px", y="py", swap=True)
    assert source.find(frame(unique_id=8)) == Placement((pytest.approx(4e-6), pytest.approx(4e-6)), True)
    assert source.find(frame(unique_id=7)) == Placement((pytest.approx(1e-6), pytest.approx(2e-6)), True)
    assert source.find(frame(unique_id=9)) == NOT_YET
    assert not notes


@pytest.mark.usefixtures("quick_looks")
def test_a_file_appears_grows_and_is_replaced(opened, tmp_path):
    path = tmp_path / "p.csv"
    source, notes = opened(source="file", file=path, x="x", y="y", unit_m=1.0)
    assert source.find(frame()) == NOT_YET
    assert "No such file" in notes.texts()[0] and "frames wait" in notes.texts()[0]
    path.write_text("id,x,y\n1,1,1\n")
    assert placed(source, frame(unique_id=1)).position_m == (1.0, 1.0)
    with path.open("a") as more:
        more.write("2,2,2\n3,3,")
        more.flush()
        assert placed(source, frame(unique_id=2)).position_m == (2.0, 2.0)
        more.write("4\n")
    assert placed(source, frame(unique_id=3)).position_m == (4.0, 3.0)
    other = tmp_path / "other.csv"
    other.write_text("id,x,y\n9,9,9\n")
    other.rename(path)
    assert placed(source, frame(unique_id=9)).position_m == (9.0, 9.0)
    assert source.find(frame(unique_id=1)) == NOT_YET


@pytest.mark.usefixtures("quick_looks")
def test_numbers_that_are_too_large_are_refused_and_the_next_file_is_read(opened, tmp_path):
    path = tmp_path / "p.csv"
    old(path, "id,x,y\n1,1e308,1e308\n")
    source, notes = opened(source="file", file=path, x="x", y="y", unit_m=10.0, rotation_deg=45.0)
    assert "too large" in notes.texts()[0]
    path.write_text("id,x,y\n1,0,0\n")
    assert placed(source, frame(unique_id=1)).position_m == (0.0, 0.0)


@pytest.mark.usefixtures("quick_looks")
def test_a_file_that_turns_bad_is_noted_once_and_what_was_read_stays(opened, tmp_path):
    path = tmp_path / "p.csv"
    old(path, "id,x,y\n1,1,1\n")
    source, notes = opened(source="file", file=path, x="x", y="y", unit_m=1.0)
    path.write_text("id,x,y\n1,1,1\n2,nan,2\n")
    assert until(notes.texts)[0].endswith("line 3, column x: 'nan' is not finite; the positions read before stay")
    assert source.find(frame(unique_id=1)) == Placement((1.0, 1.0), True)
    path.write_text("id,x,y\n1,1,1\n2,2,2\n")
    assert placed(source, frame(unique_id=2)).position_m == (2.0, 2.0)
    assert len(notes.texts()) == 1 and len(notes.texts(Severity.NO_ALARM)) == 1


class Publisher:
    """The process that sends positions; the same names again after it was killed."""

    def __init__(self, folder):
        number = next(NUMBERS)
        self.table, self.x, self.y = (f"P{number}:{name}" for name in ("Table", "X", "Y"))
        self._log = folder / f"publisher-{number}.log"
        self._done = 0

    def start(self, x=0.0, y=0.0, time_s=EPOCH_S):
        script = [str(HERE / "position_publisher.py"), self.table, self.x, self.y]
        self.process = Process([sys.executable, *script], self._log)
        self.process.tell(json.dumps({"x": x, "y": y, "time_s": time_s}))
        self.process.wait_line(lambda line: line == "ready")
        return self

    def tell(self, **told):
        self.process.tell(json.dumps(told))

    def rows(self, *rows):
        """Send one update of the table with (time since EPOCH_S, x, y) each."""
        times, x, y = zip(*rows, strict=True)
        self.tell(time=[EPOCH_S + t for t in times], x=list(x), y=list(y))

    def axis(self, axis, value, time_s):
        self.tell(axis=axis, value=value, time_s=time_s)


@pytest.fixture
def publisher(tmp_path):
    made = Publisher(tmp_path).start()
    yield made
    made.process.kill()


def table_of(opened, publisher, **options):
    """A source that hears the publisher's table from now on."""
    settings = {"x": "x", "y": "y", "unit_m": 1.0, "tolerance_s": 0.1} | options
    source, notes = opened(source="stream", stream=publisher.table, **settings)
    publisher.rows(*line(*np.arange(-100.0, -99.0, 0.05)))
    placed(source, frame(EPOCH_S - 99.7))
    return source, notes


def line(*times):
    """Rows of a stage that moves 2 m/s in x and -1 m/s in y."""
    return [(t, 2.0 * t, -t) for t in times]


def test_samples_that_come_after_the_frame_place_it(opened, publisher):
    source, _ = table_of(opened, publisher, exposure_s=0.1, offset_s=0.02)
    late = frame(EPOCH_S + 1.0)
    publisher.rows(*line(0.9, 0.95, 1.0))
    assert source.find(late) == NOT_YET
    publisher.rows(*line(1.05, 1.1))
    assert source.find(late) == NOT_YET
    publisher.rows(*line(1.15, 1.2))
    assert placed(source, late).position_m == pytest.approx((-1.07, 2.14), abs=1e-6)


def test_several_samples_a_frame_out_of_order_are_one_position(opened, publisher):
    source, notes = table_of(opened, publisher, exposure_s=0.2)
    publisher.rows(*line(1.15, 1.25, 1.05))
    publisher.rows(*line(0.95, 1.1, 1.2, 1.05))
    assert placed(source, frame(EPOCH_S + 1.0)).position_m == pytest.approx((-1.1, 2.2), abs=1e-6)
    assert not notes


def test_a_gap_beyond_the_tolerance_leaves_a_frame_without_a_position(opened, publisher):
    source, _ = table_of(opened, publisher)
    publisher.rows(*line(0.0, 0.05, 0.5, 0.55))
    assert placed(source, frame(EPOCH_S + 0.3)) == NEVER
    assert placed(source, frame(EPOCH_S + 0.02)).position_m == pytest.approx((-0.02, 0.04), abs=1e-6)
    assert source.find(frame(EPOCH_S + 0.6)) == NOT_YET


def test_a_burst_of_updates_arrives_whole(opened, publisher):
    source, notes = table_of(opened, publisher, tolerance_s=0.011)
    for step in range(300):
        publisher.rows(*line(0.01 * step))
    placed(source, frame(EPOCH_S + 2.97))
    assert all(source.find(frame(EPOCH_S + 0.01 * step + 0.005)).position_m for step in range(298))
    assert not notes


def test_garbage_is_noted_and_the_samples_after_it_count(opened, publisher):
    source, notes = table_of(opened, publisher)
    nan = float("nan")
    publisher.rows((0.0, 0.0, 0.0), (0.02, nan, 0.0))
    publisher.tell(time=[EPOCH_S], x=[1.0, 2.0], y=[1.0])
    publisher.tell(time=[EPOCH_S * 1e9], x=[1.0], y=[1.0])
    publisher.rows((0.05, 0.1, -0.05))
    assert placed(source, frame(EPOCH_S + 0.02)).position_m == pytest.approx((-0.02, 0.04), abs=1e-6)
    told = " / ".join(notes.texts())
    assert "not finite" in told and "unequal length: time 1, y 1, x 2" in told and "Unix times in seconds" in told


def test_a_column_that_is_not_there_is_named(opened, publisher):
    _, notes = opened(source="stream", stream=publisher.table, x="SampleX", y="y")
    assert "no column SampleX among" in until(notes.texts)[0]


def test_a_time_far_ahead_does_no_lasting_harm(opened, publisher):
    source, notes = table_of(opened, publisher)
    publisher.rows((5e6, 0.0, 0.0))
    assert placed(source, frame(EPOCH_S)) == NEVER
    publisher.rows(*line(10.0, 10.05))
    one = frame(EPOCH_S + 10.02)
    assert until(lambda: source.find(one).position_m) == pytest.approx((-10.02, 20.04), abs=1e-6)
    assert "went back by" in notes.texts(Severity.MINOR)[0]


def test_a_table_that_went_away_is_heard_again(opened, publisher):
    source, notes = table_of(opened, publisher)
    publisher.rows(*line(0.0, 0.05))
    assert placed(source, frame(EPOCH_S + 0.02)).position_m
    publisher.process.kill()
    assert "not connected" in until(notes.texts)[0]
    publisher.start()
    until(lambda: notes.texts(Severity.NO_ALARM))
    publisher.rows(*line(1.0, 1.05))
    assert placed(source, frame(EPOCH_S + 1.02)).position_m == pytest.approx((-1.02, 2.04), abs=1e-6)


def axes_of(opened, publisher, **options):
    """A source that hears the publisher's two motors from now on."""
    settings = {"x": publisher.x, "y": publisher.y, "unit_m": 1.0, "tolerance_s": 0.1} | options
    source, notes = opened(source="stream", **settings)
    placed(source, frame(EPOCH_S))
    return source, notes


def test_a_motor_at_rest_keeps_its_position_and_a_moving_one_is_interpolated(opened, publisher):
    source, notes = axes_of(opened, publisher)
    assert placed(source, frame(EPOCH_S + 100.0)).position_m == (0.0, 0.0)
    assert placed(source, frame(EPOCH_S - 1.0)) == NEVER
    for step in range(3):
        publisher.axis("x", float(step), EPOCH_S + 200.0 + 0.1 * step)
    assert until(lambda: source.find(frame(EPOCH_S + 300.0)).position_m == (0.0, 2.0))
    assert placed(source, frame(EPOCH_S + 200.15)).position_m == pytest.approx((0.0, 1.5), abs=1e-5)
    assert placed(source, frame(EPOCH_S + 199.9)).position_m == (0.0, 0.0)
    assert not notes


def test_a_frame_of_this_moment_waits_for_the_next_sample(opened, publisher):
    source, _ = axes_of(opened, publisher, tolerance_s=30.0)
    before_s = time.time()
    for axis in "xy":
        publisher.axis(axis, 1.0, before_s - 10.0)
    one = frame(before_s)
    assert source.find(one) == NOT_YET
    for axis in "xy":
        publisher.axis(axis, 3.0, before_s + 10.0)
    assert placed(source, one).position_m == pytest.approx((2.0, 2.0), abs=1e-5)


def test_a_motor_that_was_gone_but_never_moved_has_its_position_throughout(opened, publisher):
    source, notes = axes_of(opened, publisher)
    assert placed(source, frame(time.time() - 1.0)).position_m == (0.0, 0.0)
    publisher.process.kill()
    until(lambda: len(notes.texts()) == 2)
    meanwhile = frame(time.time() + 0.01)
    assert source.find(meanwhile) == NOT_YET
    publisher.start()
    assert placed(source, meanwhile).position_m == (0.0, 0.0)


def test_a_motor_that_moved_while_it_was_gone_leaves_frames_without_a_position(opened, publisher):
    source, notes = axes_of(opened, publisher)
    assert placed(source, frame(time.time() - 1.0)).position_m == (0.0, 0.0)
    publisher.process.kill()
    until(lambda: len(notes.texts()) == 2)
    gone_s = time.time()
    assert source.find(frame(gone_s + 0.01)) == NOT_YET
    publisher.start(x=5.0, y=6.0, time_s=gone_s + 1.0)
    assert placed(source, frame(gone_s + 0.01)) == NEVER
    assert placed(source, frame(gone_s + 1.5)).position_m == (6.0, 5.0)


def test_motors_over_channel_access(opened, tmp_path):
    names = [f"C{next(NUMBERS)}:{axis}" for axis in "XY"]
    server = start_script(HERE / "motor_server.py", tmp_path / "motors.log", *names)
    try:
        source, _ = opened(source="stream", x=f"ca://{names[0]}", y=f"ca://{names[1]}", unit_m=1.0, tolerance_s=1.0)
        began_s = time.time()
        y_m, x_m = placed(source, frame(began_s + 0.5)).position_m
        assert x_m > 0.0 and y_m == pytest.approx(-x_m, rel=0.2)
    finally:
        server.kill()


COLUMNS = ("time", "y", "x")


@pytest.mark.parametrize(
    "fields",
    [
        {"value": {"time": [1.0], "x": [2.0], "y": [3.0]}},
        {"time": np.array([1.0]), "x": np.array([2], np.int16), "y": [3.0], "other": "?"},
        {"time": 1.0, "x": 2, "y": 3.0},
        {"time": {"value": [1.0]}, "x": {"value": [2.0]}, "y": {"value": [3.0]}},
    ],
)
def test_tables_of_many_shapes_are_read(fields):
    samples = table_samples(fields, COLUMNS, pytest.fail)
    assert [column.tolist() for column in samples] == [[1.0], [3.0], [2.0]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"value": 3.0}, "no column time among value"),
        ({"time": ["now"], "x": [1.0], "y": [1.0]}, "column time does not hold numbers"),
        ({"time": [1.0], "x": [[1.0]], "y": [1.0]}, "column x does not hold numbers"),
        ({"time": [-1.0], "x": [1.0], "y": [1.0]}, "Unix times"),
        ({"time": [1.0, 5e9], "x": [1.0, 1.0], "y": [1.0, 1.0]}, "Unix times"),
    ],
)
def test_what_is_no_table_is_said(fields, reason):
    with pytest.raises(GarbageError, match=reason):
        table_samples(fields, COLUMNS, pytest.fail)


class Known(dict):
    """A source that a test fills by frame id."""

    def find(self, one):
        return self.get(one.unique_id, NOT_YET)

    def close(self):
        """Nothing to end."""


def test_what_waits_leaves_with_its_position_in_order():
    source, waiting = Known(), Waiting(PositionSection(wait_s=5.0))
    for i in range(4):
        waiting.add(f"p{i}", frame(unique_id=i), now_s=0.0)
    assert waiting.ready(source.find, 0.0) == [] and len(waiting) == 4 and list(waiting) == ["p0", "p1", "p2", "p3"]
    source[2], source[0], source[3] = Placement((2.0, 2.0), True), Placement((0.0, 0.0), True), NEVER
    assert waiting.ready(source.find, 4.0) == [("p0", source[0]), ("p2", source[2]), ("p3", NEVER)]
    assert waiting.ready(source.find, 5.0) == [("p1", NOT_YET)]
    assert len(waiting) == 0 and waiting.ready(source.find, 9.0) == []


def test_what_waits_is_looked_at_only_so_often_unless_at_once():
    source, waiting = Known(), Waiting(PositionSection(wait_s=5.0))
    waiting.add("p", frame(unique_id=1), now_s=0.0)
    assert waiting.ready(source.find, 0.0) == []
    source[1] = Placement((1.0, 1.0), True)
    assert waiting.ready(source.find, 0.001) == []
    assert waiting.ready(source.find, 0.001, at_once=True) == [("p", source[1])]


def test_too_many_push_out_the_oldest():
    source, waiting = Known({1: Placement((1.0, 1.0), True)}), Waiting(PositionSection(waiting_frames=2))
    for i in range(4):
        waiting.add(i, frame(unique_id=i), now_s=0.0)
    assert waiting.ready(source.find, 0.0) == [(0, NOT_YET), (1, source[1])]
    assert len(waiting) == 2 and waiting.give_up() == [2, 3] and len(waiting) == 0
