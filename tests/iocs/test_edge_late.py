"""Predictions whose positions come late, or never: each once in the file of its scan, and on the map it belongs on."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_edge_pipeline import PATIENCE_S, Bench, model

from iocs import edge_outlet
from iocs.edge_batches import Model
from iocs.edge_placement import NOT_YET, Placement
from iocs.stream import NdFrame
from phasing.recording import Recording, read_recording
from pvdb import Severity


class Told:
    """A source that knows a position when it is told."""

    def __init__(self) -> None:
        self._known: set[int] = set()

    def tell(self, *unique_ids: int) -> None:
        self._known.update(unique_ids)

    def find(self, frame: NdFrame) -> Placement:
        return Placement(position_m(frame.unique_id), True) if frame.unique_id in self._known else NOT_YET

    def close(self) -> None:
        """Nothing to end."""


def position_m(unique_id: int) -> tuple[float, float]:
    return 0.0, unique_id * 1e-7


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(edge_outlet, "open_positions", lambda *_: told)
    return told


@pytest.fixture
def bench(tmp_path: Path, source: Told) -> Iterator[Bench]:
    made = Bench(tmp_path, positions={"wait_s": 1000.0})
    made.batches.swap(model(tmp_path))
    made.outlet.record = True
    yield made
    made.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the outlet's or the recorder's thread brings about."""
    deadline_s, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while not holds():
        assert time.monotonic() < deadline_s
        pause.wait(0.01)


def given(bench: Bench, scan_id: str, *unique_ids: int) -> None:
    bench.give(*unique_ids, scan_id=scan_id)
    bench.settle()


def placed(bench: Bench, source: Told, *unique_ids: int) -> None:
    """Tell some positions and wait until the predictions are placed."""
    left = bench.outlet.waiting - len(unique_ids)
    source.tell(*unique_ids)
    until(lambda: bench.outlet.waiting == left)


def kept(tmp_path: Path) -> list[Recording]:
    return [read_recording(path) for path in sorted((tmp_path / "recordings").glob("*.h5"))]


def rows(recording: Recording) -> tuple[str, dict[int, tuple[float, float] | None]]:
    """The scan, and the position of each id in the order of the file."""
    known = [None if np.isnan(y_m) else (y_m, x_m) for y_m, x_m in recording.position_m.tolist()]
    return recording.scan_id, dict(zip(recording.unique_id.tolist(), known, strict=True))


def expected(scan_id: str, unique_ids: range, *known: int) -> tuple[str, dict[int, tuple[float, float] | None]]:
    return scan_id, {one: position_m(one) if one in known else None for one in unique_ids}


def test_late_positions_of_two_scans_fill_in_one_file_each(tmp_path: Path, bench: Bench, source: Told) -> None:
    given(bench, "a", 1, 2, 3, 4)
    given(bench, "b", 5, 6, 7, 8)
    for unique_id in (5, 1, 6, 3, 4, 2):
        placed(bench, source, unique_id)
    until(lambda: len(kept(tmp_path)) == 1)
    given(bench, "b", 9)
    placed(bench, source, 9)
    bench.close()
    a, b = kept(tmp_path)
    assert rows(a) == expected("a", range(1, 5), 1, 2, 3, 4)
    assert rows(b) == expected("b", range(5, 10), 5, 6, 9)
    assert list(rows(b)[1]) == list(range(5, 10)), "in the order of publication"
    assert a.stitched is not None and b.stitched is not None
    assert b.stitched.origin_m[1] - a.stitched.origin_m[1] == pytest.approx(4e-7, abs=1e-7)


@pytest.mark.parametrize("how", ["reset", "off", "stop"])
def test_what_still_waits_at_the_end_is_recorded_without_its_position(
    tmp_path: Path, bench: Bench, source: Told, how: str
) -> None:
    given(bench, "a", 1, 2, 3)
    source.tell(2)
    if how == "reset":
        bench.outlet.drain(bench.outlet.begin_anew, PATIENCE_S)
    elif how == "off":
        bench.outlet.record = False
    else:
        bench.close()
    until(lambda: not bench.outlet.recorder.state().recording)
    (a,) = kept(tmp_path)
    assert rows(a) == expected("a", range(1, 4), 2)
    assert (bench.outlet.recorder.state().frames, bench.outlet.recorder.state().dropped) == (3, 0)


def test_a_position_that_comes_when_recording_goes_on_doubles_nothing(
    tmp_path: Path, bench: Bench, source: Told
) -> None:
    given(bench, "a", 1, 2)
    bench.outlet.record = False
    until(lambda: len(kept(tmp_path)) == 1)
    bench.outlet.record = True
    given(bench, "a", 3)
    placed(bench, source, 1, 2, 3)
    bench.close()
    assert [rows(one) for one in kept(tmp_path)] == [expected("a", range(1, 3)), expected("a", range(3, 4), 3)]
    assert bench.outlet.live is not None and bench.outlet.live.added == 3


def test_a_third_scan_ends_the_recording_of_the_first(tmp_path: Path, bench: Bench, source: Told) -> None:
    for first, scan_id in enumerate("abc"):
        given(bench, scan_id, 10 * first + 1, 10 * first + 2)
    until(lambda: len(kept(tmp_path)) == 1)
    placed(bench, source, 1, 11, 21)
    bench.close()
    assert [rows(one) for one in kept(tmp_path)] == [
        expected("a", range(1, 3)), expected("b", range(11, 13), 11), expected("c", range(21, 23), 21)
    ]  # fmt: skip


def test_predictions_of_two_pixel_sizes_whose_positions_alternate_make_two_maps(
    tmp_path: Path, bench: Bench, source: Told
) -> None:
    former = bench.batches.model
    given(bench, "a", 1, 2, 3)
    assert former is not None
    coarse = replace(former.card, version=2, pixel_size_m=2 * former.card.pixel_size_m)
    bench.batches.swap(Model(former.engine, coarse))
    given(bench, "a", 4, 5, 6, 7)
    placed(bench, source, 1)
    shown = [bench.outlet.live]
    for unique_id in (4, 2, 5, 3, 6, 7):
        placed(bench, source, unique_id)
        shown.append(bench.outlet.live)
    assert len(set(shown)) == 2 and set(shown[1:]) == {bench.outlet.live}, "the former is replaced once, and stays"
    assert [one.added for one in shown if one is not None][::6] == [3, 4]
    bench.batches.swap(former)
    given(bench, "a", 8)
    placed(bench, source, 8)
    assert bench.outlet.live is shown[0], "a model that serves again goes on with its map"
    bench.close()
    (a,) = kept(tmp_path)
    assert a.stitched is not None and a.stitched.pixel_size_m == former.card.pixel_size_m


def test_what_waits_in_vain_is_said_once_for_a_scan(tmp_path: Path, source: Told) -> None:
    path = tmp_path / "positions.csv"
    bench = Bench(tmp_path, positions={"source": "file", "file": path, "wait_s": 0.05})
    bench.batches.swap(model(tmp_path))
    given(bench, "a", 1, 2)
    given(bench, "b", 3)
    until(lambda: bench.total.unplaced == 3)
    bench.close()
    assert [note.severity for note in bench.notes] == [Severity.MINOR] * 2
    assert all(f"no position came from {path} in 0.05 s" in note.text for note in bench.notes)


def test_a_position_that_cannot_be_found_out_costs_its_prediction_alone(
    bench: Bench, source: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(frame: NdFrame) -> Placement:
        if frame.unique_id == 1:
            raise ZeroDivisionError("odd")
        return Placement(position_m(frame.unique_id), True)

    given(bench, "a", 1, 2)
    monkeypatch.setattr(source, "find", odd)
    until(lambda: bench.outlet.waiting == 0)
    bench.settle()
    assert (bench.total.published, bench.total.unplaced) == (2, 1)
    assert bench.notes[0].text == "frame 1 is not placed: ZeroDivisionError: odd"


def test_each_of_several_scans_in_one_batch_has_its_recording_and_map(
    tmp_path: Path, bench: Bench, source: Told
) -> None:
    source.tell(1, 2, 3, 4)
    for unique_id, scan_id in enumerate("abcd", start=1):
        bench.give(unique_id, scan_id=scan_id)
    bench.close()
    found = kept(tmp_path)
    assert [rows(one) for one in found] == [
        expected(scan_id, range(n, n + 1), n) for n, scan_id in enumerate("abcd", 1)
    ]
    assert all(one.stitched is not None for one in found)
