"""What the edge does with each frame between the stream and publication: batches, order, counters, scans, maps."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_models import SIDE_PX, constant_onnx, write_model

from iocs.config import EdgeSection
from iocs.edge_accounting import Account
from iocs.edge_batches import NEXT_BATCHES, Batcher, Model
from iocs.edge_intake import Intake
from iocs.edge_maps import LiveMap
from iocs.edge_messages import Counters, Mark, Note, ScanState, Settings, StreamConfig
from iocs.edge_models import Announcement, KeptModel
from iocs.edge_outlet import Outlet
from iocs.edge_scans import ScanWatch
from iocs.edge_trial import Candidate, build
from iocs.stream import NdFrame, encode
from phasing.engines import EngineOptions
from phasing.errors import ModelError
from phasing.stitch import StitchedMap
from pvdb import Severity

OPTIONS = EngineOptions(name="onnxruntime", threads=1, batch_size=4)
SETTINGS = Settings(batch_size=4, max_wait_s=1000.0, min_counts=1.0, enabled=True, record=False)
PATIENCE_S = 600.0
NO_FORMER = Mark()


def kept(folder: Path, version: int = 1, phase_rad: float = 0.25) -> KeptModel:
    onnx, card = write_model(folder, version, phase_rad)
    return KeptModel(Announcement(version, _digest(onnx), 1), onnx, card)


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def model(folder: Path, version: int = 1, phase_rad: float = 0.25) -> Model:
    return Model(*build(Candidate(kept(folder, version, phase_rad), OPTIONS, [])))


class HeldEngine:
    """An engine that computes when told to, and says how many batches are in it."""

    name = "held"
    batch_size = None
    difference_rad = None

    def __init__(self, engine: Any, parallel: int) -> None:
        self._engine, self.parallel = engine, parallel
        self.inside = 0
        self.changed = threading.Condition()
        self.released: list[float] = []

    def infer(self, counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        first = float(counts[0, 0, 0, 0])
        with self.changed:
            self.inside += 1
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: first in self.released or -1.0 in self.released, PATIENCE_S)
            self.inside -= 1
            self.changed.notify_all()
        return np.asarray(self._engine.infer(counts))

    def release(self, *first_counts: float) -> None:
        """Let the batches go whose first frame has those counts; -1: all."""
        with self.changed:
            self.released += first_counts
            self.changed.notify_all()

    def close(self) -> None:
        self._engine.close()


class AlteredEngine(HeldEngine):
    """An engine that computes something else."""

    def __init__(self, engine: Any, infer: Callable[[Any], Any]) -> None:
        super().__init__(engine, parallel=1)
        self._infer = infer

    def infer(self, counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(self._infer(counts))


class Bench:
    """The way of the frames between two streams, with what it published and noted."""

    def __init__(self, folder: Path, *, former: Mark = NO_FORMER, **edge: Any) -> None:
        self.config = StreamConfig(
            edge=EdgeSection(engine="onnxruntime", queue_frames=10, **edge),
            source="source",
            phase="phase",
            stitched="stitched",
            input="input",
            scan_pv="",
            expected_pv="",
            engine_cache=folder / "engines",
            recordings=folder / "recordings",
            maps=folder / "maps",
            former=former,
        )
        self.published: list[NdFrame] = []
        self.notes: list[Note] = []
        self.overflowed = 0
        self.account = Account(former.total)
        self.outlet = Outlet(
            self.config,
            self.account,
            publish=self.publish,
            done=lambda: self.batches.done(),
            note=self.notes.append,
            begun=lambda live: None,
        )
        self.batches = Batcher(SETTINGS, self.outlet.emit)
        self.intake = Intake(
            self.config,
            self.account,
            ScanWatch("", ""),
            overflowed=lambda: self.overflowed,
            reject=self.outlet.reject,
            note=self.notes.append,
        )

    def close(self) -> None:
        self.batches.flush()
        self.outlet.close(PATIENCE_S)

    def publish(self, frame: NdFrame) -> None:
        encode(frame)
        self.published.append(frame)

    def take(self, frame: NdFrame) -> None:
        card = None if self.batches.model is None else self.batches.model.card
        pending = self.intake.take(frame, time.time_ns(), card, enabled=self.batches.settings.enabled)
        if pending is not None:
            self.batches.add(pending)

    def give(self, *ids: int, scan_id: str = "a", counts: int = 5, side_px: int = SIDE_PX, **attributes: Any) -> None:
        for unique_id in ids:
            array = np.full((side_px, side_px), counts, np.uint16)
            place = {"PositionX": unique_id * 0.1, "PositionY": 0.0}
            self.take(NdFrame(unique_id, time.time_ns(), array, {"ScanId": scan_id, **place, **attributes}))

    def settle(self) -> None:
        """Predict what has gathered and wait until it is through."""
        self.batches.flush()
        assert self.outlet.drain(lambda: None, PATIENCE_S)

    @property
    def ids(self) -> list[int]:
        return [frame.unique_id for frame in self.published]

    @property
    def total(self) -> Counters:
        return self.account.total

    @property
    def scan(self) -> Counters:
        return self.account.of(self.intake.scan)

    @property
    def stitched(self) -> StitchedMap | None:
        return None if self.outlet.live is None else self.outlet.live.map()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def one(**how: Any) -> Bench:
        made.append(Bench(tmp_path, **how))
        return made[-1]

    yield one
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make: Callable[..., Bench], tmp_path: Path) -> Bench:
    made = make()
    made.batches.swap(model(tmp_path))
    return made


def test_without_a_model_frames_are_counted_and_nothing_fails(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.give(1, 2, 3)
    assert (bench.total.received, bench.total.no_model, bench.total.published) == (3, 3, 0)


def test_a_partial_batch_is_published_when_it_has_waited(bench: Bench) -> None:
    bench.batches.settings = replace(SETTINGS, max_wait_s=0.005)
    bench.give(*range(1, 7))
    while bench.batches.wait_s(1.0) < 1.0:
        bench.batches.close_if_due()
    assert bench.outlet.drain(lambda: None, PATIENCE_S)
    assert bench.ids == [1, 2, 3, 4, 5, 6]


def test_a_batch_waits_for_its_oldest_frame_alone(bench: Bench) -> None:
    bench.batches.settings = replace(SETTINGS, max_wait_s=1000.0)
    bench.give(1, 2, 3)
    bench.batches.close_if_due()
    assert 0.0 < bench.batches.wait_s(2000.0) <= 1000.0
    bench.batches.settings = replace(SETTINGS, max_wait_s=0.0)
    bench.batches.close_if_due()
    assert bench.outlet.drain(lambda: None, PATIENCE_S)
    assert bench.ids == [1, 2, 3]


def test_a_smaller_batch_size_acts_at_once(bench: Bench) -> None:
    bench.batches.settings = replace(SETTINGS, max_wait_s=1000.0)
    bench.give(1, 2, 3)
    bench.batches.settings = replace(SETTINGS, max_wait_s=1000.0, batch_size=2)
    bench.batches.close_if_due()
    assert bench.outlet.drain(lambda: None, PATIENCE_S)
    assert bench.ids == [1, 2]


def test_batches_that_end_in_another_order_are_published_in_that_of_their_frames(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench, real = make(), model(tmp_path)
    engine = HeldEngine(real.engine, parallel=2)
    bench.batches.swap(Model(engine, real.card))
    bench.give(1, 2, 3, 4, counts=10)
    bench.give(5, 6, 7, 8, counts=20)
    with engine.changed:
        assert engine.changed.wait_for(lambda: engine.inside == 2, PATIENCE_S)
    engine.release(20.0)
    with engine.changed:
        assert engine.changed.wait_for(lambda: engine.inside == 1, PATIENCE_S)
    assert bench.ids == []
    engine.release(10.0)
    bench.settle()
    assert bench.ids == [1, 2, 3, 4, 5, 6, 7, 8]


def test_only_so_many_batches_are_under_way_and_then_no_frame_is_taken(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench, real = make(), model(tmp_path)
    engine = HeldEngine(real.engine, parallel=1)
    bench.batches.swap(Model(engine, real.card))
    slots = 4 * (1 + NEXT_BATCHES)
    bench.give(*range(1, slots + 1))
    assert bench.batches.wait_s(1.0) == 1.0
    bench.give(*range(slots + 1, slots + 9))
    assert bench.batches.wait_s(1.0) == 0.0
    engine.release(-1.0)
    bench.batches.wait_for_room(PATIENCE_S)
    bench.settle()
    assert bench.ids == list(range(1, slots + 9))


def test_a_prediction_keeps_id_time_stamp_and_attributes_of_its_frame(bench: Bench) -> None:
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    bench.take(NdFrame(7, 1_700_000_000_123_456_789, array, {"ScanId": "a", "Temperature": 21.5, "PositionX": 3.0,
                                                             "PositionY": -2.0}))  # fmt: skip
    bench.settle()
    (published,) = bench.published
    assert (published.unique_id, published.time_ns) == (7, 1_700_000_000_123_456_789)
    assert published.attributes["Temperature"] == 21.5
    assert published.attributes["ModelVersion"] == 1
    assert published.attributes["SampleX"] == pytest.approx(3e-6)
    assert published.attributes["SampleY"] == pytest.approx(-2e-6)
    assert published.array.shape == (SIDE_PX, SIDE_PX)
    assert np.allclose(published.array, 0.25)
    assert published.severity == 0


def test_every_frame_is_accounted_for(bench: Bench) -> None:
    bench.give(1, 2)
    bench.give(3, counts=0)
    bench.give(4, side_px=SIDE_PX + 1)
    bench.intake.turn_away("no NTNDArray", enabled=True)
    bench.give(8)
    bench.settle()
    c = bench.total
    assert (c.empty, c.rejected, c.missed, c.published) == (1, 2, 2, 3)  # one of the three gaps was turned away
    assert c.received == c.published + c.dropped + c.rejected + c.empty + c.no_model
    assert any("does not fit" in note.text for note in bench.notes)


def test_min_counts_are_those_of_the_frame_and_not_of_its_bins(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench, plain = make(), model(tmp_path)
    side_px = 2 * SIDE_PX
    binned = replace(plain.card.geometry, detector_shape_px=(side_px, side_px), crop_px=side_px, bin_px=2)
    card = replace(plain.card, geometry=binned, pixel_size_m=binned.object_pixel_size_m)
    bench.batches.swap(Model(plain.engine, card))
    for least, counts in ((side_px**2 * 5, (1, 0)), (side_px**2 * 5 + 1, (1, 1))):
        bench.batches.settings = replace(SETTINGS, min_counts=least)
        bench.give(least, side_px=side_px)
        bench.settle()
        assert (bench.total.published, bench.total.empty) == counts


def test_one_bad_frame_costs_its_batch_nothing(bench: Bench) -> None:
    bench.give(1)
    bench.take(NdFrame(2, time.time_ns(), np.full((SIDE_PX, SIDE_PX), np.nan, np.float32), {"ScanId": "a"}))
    bench.give(3, counts=0)
    bench.give(4)
    bench.settle()
    assert bench.ids == [1, 4]
    assert (bench.total.rejected, bench.total.empty) == (1, 1)
    assert "frame 2" in bench.outlet.rejected_because


def test_counts_are_kept_for_the_scan_and_in_total(bench: Bench) -> None:
    bench.give(1, 2, 5)
    bench.settle()
    assert bench.scan == bench.total
    bench.give(1, 2, scan_id="b")
    bench.settle()
    assert (bench.scan.received, bench.scan.published, bench.scan.missed) == (2, 2, 0)
    assert (bench.total.received, bench.total.published, bench.total.missed) == (5, 5, 2)


def test_a_frame_counts_for_the_scan_it_came_in(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench, real = make(), model(tmp_path)
    engine = HeldEngine(real.engine, parallel=1)
    bench.batches.swap(Model(engine, real.card))
    bench.give(1, 2, 3, 4)
    bench.give(1, scan_id="b")
    engine.release(-1.0)
    bench.settle()
    assert (bench.scan.received, bench.scan.published) == (1, 1)


def test_frames_of_another_geometry_are_published_invalid_and_not_stitched(bench: Bench) -> None:
    bench.give(1, Energy=10_400.5)
    bench.give(2, Energy=9_000.0)
    bench.give(3, DetectorDistance=1.6)
    bench.give(4)
    bench.settle()
    assert [frame.severity for frame in bench.published] == [0, int(Severity.INVALID), int(Severity.INVALID), 0]
    assert "energy 9000 eV, the model's is 10400 eV" in bench.published[1].message
    assert "distance 1.6 m" in bench.published[2].message
    assert (bench.total.published, bench.total.mismatched) == (4, 2)
    assert bench.outlet.live is not None
    assert bench.outlet.live.added == 2
    assert max(note.severity for note in bench.notes) is Severity.MAJOR


def test_frames_lost_in_our_own_queue_are_dropped_not_missed(bench: Bench) -> None:
    bench.give(1)
    bench.overflowed = 2
    bench.give(4)
    bench.give(8)
    assert (bench.total.dropped, bench.total.missed) == (2, 3)
    assert bench.total.received == 5


def test_frames_dropped_behind_those_of_the_former_scan_are_not_missed_in_the_next(bench: Bench) -> None:
    bench.give(1, 2, 3)
    bench.overflowed = 5
    bench.intake.count_dropped()
    bench.give(4)
    bench.give(1, 2, 8, scan_id="b")
    assert (bench.total.dropped, bench.total.missed) == (5, 0)


def test_frames_dropped_where_no_gap_shows_hide_no_later_loss(bench: Bench) -> None:
    bench.give(1)
    bench.overflowed = 5
    bench.intake.count_dropped()
    queued = bench.config.edge.queue_frames
    bench.give(*range(1, queued + 2), scan_id="b")
    bench.give(queued + 4, scan_id="b")
    assert bench.total.missed == 2


def test_a_frame_that_a_reconnected_stream_sends_again_is_no_restarted_detector(bench: Bench) -> None:
    attributes = {"ScanId": "a", "PositionX": 0.4, "PositionY": 0.0}
    frame = NdFrame(4, 1_700_000_000_000_000_000, np.full((SIDE_PX, SIDE_PX), 5, np.uint16), attributes)
    bench.give(1, 2, 3)
    bench.take(frame)
    bench.take(frame)
    bench.give(5)
    bench.settle()
    assert bench.ids == [1, 2, 3, 4, 5]
    assert bench.notes == []


def test_a_frame_that_a_former_process_handled_is_not_taken_again(make: Callable[..., Bench]) -> None:
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    frames = [NdFrame(unique_id, 1_700_000_000_000_000_000, array, {"ScanId": "a"}) for unique_id in (4, 5)]
    former = make()
    former.take(frames[0])
    bench = make(former=Mark(last_frame=former.intake.mark.last_frame))
    for frame in frames:
        bench.take(frame)
    assert bench.total.received == 1
    assert bench.notes == []


def test_the_next_process_goes_on_counting_and_what_was_in_hand_is_dropped(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    died, real = make(), model(tmp_path)
    died.batches.swap(real)
    died.give(1, 2, 5)
    died.settle()
    engine = HeldEngine(real.engine, parallel=1)
    died.batches.swap(Model(engine, real.card))
    died.give(6, 7, 8, 9)
    mark = died.intake.mark
    engine.release(-1.0)
    bench = make(former=mark)
    bench.batches.swap(model(tmp_path))
    bench.give(12)
    bench.settle()
    for counted in (bench.total, bench.scan):
        assert (counted.received, counted.published, counted.dropped, counted.missed) == (8, 4, 4, 4)
        assert counted.in_hand == 0
    bench.give(1, scan_id="b")
    bench.settle()
    assert (bench.scan.received, bench.total.received, bench.total.missed) == (1, 9, 4)


def test_frames_that_overtook_one_another_are_not_missed_in_the_end(bench: Bench) -> None:
    bench.give(1, 2, 5, 3)
    bench.settle()
    assert (bench.total.missed, bench.scan.missed) == (1, 1)
    bench.give(4, 6)
    bench.settle()
    assert (bench.total.missed, bench.scan.missed, bench.total.published) == (0, 0, 6)
    assert bench.ids == [1, 2, 5, 3, 4, 6]
    assert bench.stitched is not None and not any("restarted" in note.text for note in bench.notes)
    bench.give(5)
    assert any("restarted detector" in note.text for note in bench.notes), "it has come before"


def test_what_is_no_frame_costs_nothing_while_disabled(bench: Bench) -> None:
    bench.give(1)
    bench.batches.settings = replace(SETTINGS, enabled=False)
    bench.give(2)
    bench.intake.turn_away("no NTNDArray", enabled=False)
    bench.give(4, 9)
    bench.batches.settings = SETTINGS
    bench.give(10)
    bench.settle()
    assert (bench.total.received, bench.total.published, bench.total.missed, bench.total.rejected) == (2, 2, 0, 0)


def test_a_scan_begins_when_its_first_frame_came_if_that_has_no_time_stamp(bench: Bench) -> None:
    bench.take(NdFrame(1, 0, np.full((SIDE_PX, SIDE_PX), 5, np.uint16), {"ScanId": "a"}))
    assert bench.intake.scan is not None
    assert abs(bench.intake.scan.first_frame_ns - time.time_ns()) < 60e9


def test_frames_that_pass_while_disabled_are_not_missed_afterwards(bench: Bench) -> None:
    bench.give(1)
    bench.batches.settings = replace(SETTINGS, enabled=False)
    bench.give(2, 3)
    bench.batches.settings = SETTINGS
    bench.give(4, 7)
    bench.settle()
    assert (bench.total.received, bench.total.published, bench.total.missed) == (3, 3, 2)
    assert bench.ids == [1, 4, 7]


def test_a_chosen_part_of_a_scan_has_gaps_in_its_ids_but_misses_nothing(bench: Bench) -> None:
    for sequence, unique_id in enumerate((3, 9, 11)):
        bench.give(unique_id, Sequence=sequence)
    assert bench.total.missed == 0
    bench.give(20, Sequence=5)
    assert bench.total.missed == 2


def test_a_new_scan_begins_a_new_map_and_a_restarted_detector_too(bench: Bench) -> None:
    bench.give(1, 2, 3, 4)
    bench.settle()
    first = bench.stitched
    assert first is not None
    bench.give(105, 106, 107, 108, scan_id="b")
    bench.settle()
    second = bench.stitched
    assert second is not None
    assert second.origin_m[1] - first.origin_m[1] == pytest.approx(10.4e-6, abs=1e-7)
    assert bench.total.missed == 0
    bench.give(1, scan_id="b")
    bench.settle()
    assert any("restarted detector" in note.text and note.severity is Severity.MINOR for note in bench.notes)
    assert bench.outlet.live is not None
    assert bench.outlet.live.added == 1


def test_predictions_without_a_position_are_published_but_not_stitched(bench: Bench) -> None:
    bench.give(1, PositionX=float("nan"))
    bench.give(2, PositionX="left")
    bench.give(3, scan_id="b", PositionX="left")
    bench.settle()
    assert bench.ids == [1, 2, 3]
    assert bench.total.unplaced == 3
    assert bench.stitched is None
    reason = "is not stitched: its attributes PositionY and PositionX are missing, or no finite numbers"
    assert bench.notes == [Note(f"frame {n} {reason}", Severity.MINOR) for n in (1, 3)], "once for each scan"


def test_a_frame_that_cannot_be_published_is_rejected_and_those_after_it_are_published(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.give(1, 2)
    bench.give(3, Pulse=2**64)
    bench.give(4)
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    bench.take(NdFrame(5, 10**28, array, {"ScanId": "a"}))
    bench.settle()
    assert bench.ids == [1, 2, 4]
    shown = bench.outlet.take_input()
    assert shown is not None and (shown.unique_id, shown.units) == (4, "counts")
    assert bench.outlet.take_input() is None, "it has been shown"
    c = bench.total
    assert (c.received, c.published, c.rejected, c.unplaced) == (5, 3, 2, 0)
    assert bench.scan == c
    assert "attribute Pulse" in bench.notes[0].text and "frame 5 is not published: OverflowError" in bench.notes[1].text
    assert {note.severity for note in bench.notes} == {Severity.MAJOR}
    assert [record.exc_info is not None for record in caplog.records] == [True], "what was not foreseen is logged"


def test_a_prediction_that_cannot_be_placed_is_published_and_unplaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("odd")

    with monkeypatch.context() as patched:
        patched.setattr(LiveMap, "add", fail)
        bench.give(1, 2)
        bench.settle()
    bench.give(3)
    bench.settle()
    c = bench.total
    assert (bench.ids, c.published, c.rejected, c.unplaced) == ([1, 2, 3], 3, 0, 2)
    assert bench.notes[0] == Note("frame 1 is not stitched: ZeroDivisionError: odd", Severity.MINOR)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_an_outlet_that_has_ended(bench: Bench) -> None:
    def fail() -> None:
        raise SystemError("lost")

    began_s = time.monotonic()
    assert not bench.outlet.drain(fail, PATIENCE_S)
    assert not bench.outlet.drain(lambda: None, PATIENCE_S)
    bench.outlet.close(PATIENCE_S)
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert isinstance(bench.outlet.failed, SystemError)


FAR = {"PositionX": 5000.0}


@pytest.mark.parametrize("outliers", [1, 7])
def test_a_map_that_outliers_began_is_begun_anew_at_the_scan(bench: Bench, outliers: int) -> None:
    bench.give(*range(101, 101 + outliers), **FAR)
    bench.give(*range(201, 208))
    bench.settle()
    assert bench.total.unplaced == 7
    assert {note.text.partition(" is ")[2][:12] for note in bench.notes if "stitched" in note.text} == {"not stitched"}
    bench.give(208, 209)
    bench.settle()
    assert bench.outlet.live is not None and bench.outlet.live.added == 9
    assert bench.stitched is not None and bench.stitched.origin_m[1] < 1e-3
    assert (bench.total.published, bench.total.unplaced) == (outliers + 9, outliers) == (bench.scan.published, outliers)
    anew = [note for note in bench.notes if "begun anew" in note.text]
    assert [(f"from the {outliers} on it" in note.text, note.severity) for note in anew] == [(True, Severity.MINOR)]


def test_outliers_that_do_not_outnumber_the_map_or_not_fit_together_leave_it(bench: Bench) -> None:
    bench.give(*range(1, 11))
    bench.give(*range(11, 21), **FAR)
    bench.settle()
    assert bench.outlet.live is not None and bench.outlet.live.added == 10
    for unique_id in range(21, 41):
        bench.give(unique_id, PositionX=5000.0 * unique_id)
    bench.settle()
    assert (bench.outlet.live.added, bench.total.unplaced) == (10, 30)
    bench.give(41)
    bench.give(*range(42, 52), **FAR)
    bench.settle()
    assert bench.outlet.live.added == 11, "only those in a row count"
    bench.give(52, 53, **FAR)
    bench.settle()
    assert (bench.outlet.live.added, bench.total.unplaced) == (12, 30 + 11)
    assert bench.stitched is not None and bench.stitched.origin_m[1] > 1e-3


def test_a_map_may_be_as_large_as_configured(make: Callable[..., Bench], tmp_path: Path) -> None:
    for most_px, placed in ((1024, 1), (2048, 2)):
        bench = make(max_map_px=most_px)
        bench.batches.swap(model(tmp_path))
        assert bench.batches.model is not None
        bench.give(1, PositionX=0.0)
        bench.give(2, PositionX=1500 * bench.batches.model.card.pixel_size_m * 1e6)
        bench.settle()
        assert bench.outlet.live is not None and bench.outlet.live.added == placed


def test_a_swap_falls_between_two_frames_and_loses_none(bench: Bench, tmp_path: Path) -> None:
    bench.give(1, 2)
    former = bench.batches.swap(model(tmp_path, 2, 0.5))
    assert former is not None
    assert former.card.version == 1
    bench.give(3, 4, 5, 6)
    bench.settle()
    former.close()
    assert bench.ids == [1, 2, 3, 4, 5, 6]
    assert [frame.attributes["ModelVersion"] for frame in bench.published] == [1, 1, 2, 2, 2, 2]


def test_latency_counts_from_arrival_when_the_frame_time_cannot_be_right(bench: Bench) -> None:
    bench.give(1)
    bench.settle()
    assert not bench.account.from_arrival
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    bench.take(NdFrame(2, 0, array, {"ScanId": "a"}))
    bench.settle()
    assert bench.account.from_arrival


def test_a_frame_from_the_future_shows_as_a_negative_latency(bench: Bench) -> None:
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    bench.take(NdFrame(1, time.time_ns() + 9_000_000_000, array, {"ScanId": "a"}))
    bench.settle()
    assert bench.account.latency_s()[0] < 0


def test_a_prediction_that_is_not_finite_is_rejected_and_the_others_are_published(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    bench, real = make(), model(tmp_path)
    fragile = AlteredEngine(real.engine, lambda c: np.where(c > 100, np.float32(np.nan), real.engine.infer(c)))
    bench.batches.swap(Model(fragile, real.card))
    bench.give(1, 2)
    bench.give(3, counts=1000)
    bench.give(4)
    bench.settle()
    assert bench.ids == [1, 2, 4]
    c = bench.total
    assert (c.received, c.rejected, c.published, c.unplaced) == (4, 1, 3, 0)
    assert bench.notes == [Note("frame 3: model 1 predicts no finite phase", Severity.MAJOR)]


def test_an_engine_that_fails_rejects_its_batch_and_serves_on(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench, real = make(), model(tmp_path)

    def fail_on_bright(counts: Any) -> Any:
        if counts.max() > 100:
            raise ModelError("out of memory")
        return real.engine.infer(counts)

    bench.batches.swap(Model(AlteredEngine(real.engine, fail_on_bright), real.card))
    bench.give(1, 2, 3, 4, counts=1000)
    bench.give(5, 6, 7, 8)
    bench.settle()
    assert bench.ids == [5, 6, 7, 8]
    assert bench.total.rejected == 4
    assert "out of memory" in bench.outlet.rejected_because


def test_a_frame_of_more_than_float32_holds_is_empty(bench: Bench) -> None:
    bench.take(NdFrame(1, time.time_ns(), np.full((SIDE_PX, SIDE_PX), 1e300), {"ScanId": "a"}))
    bench.settle()
    assert bench.total.empty == 1


def test_the_map_shows_what_was_predicted_where_it_was(bench: Bench) -> None:
    bench.give(1, 2, 3, 4)
    bench.settle()
    assert bench.stitched is not None
    assert np.allclose(bench.stitched.phase_rad[bench.stitched.weight > 0.5], 0.25, atol=1e-5)


def test_a_scan_goes_on_while_frames_come_where_nobody_says_more() -> None:
    watch = ScanWatch("", "")
    assert watch.state(None, 0, streaming=False) is ScanState.WAITING
    assert watch.state(1, 5, streaming=True) is ScanState.RUNNING
    assert watch.state(1, 5, streaming=False) is ScanState.WAITING


def test_a_model_that_predicts_nan_is_refused(tmp_path: Path) -> None:
    frames = [np.ones((SIDE_PX, SIDE_PX), np.uint16)]
    with pytest.raises(ModelError):
        build(Candidate(kept(tmp_path, 1, float("nan")), OPTIONS, frames))


def test_a_model_whose_file_was_replaced_is_refused(tmp_path: Path) -> None:
    wanted = kept(tmp_path, 1, 0.1)
    wanted.onnx.write_bytes(constant_onnx(0.2))
    with pytest.raises(ModelError, match="file has changed"):
        build(Candidate(wanted, OPTIONS, []))
