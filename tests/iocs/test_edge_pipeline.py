"""What the edge does with each frame: batches, order, counters, scan boundaries, maps."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_models import SIDE_PX, constant_onnx, write_model

from iocs.edge_messages import Note, Settings, StreamConfig
from iocs.edge_models import Announcement, KeptModel
from iocs.edge_pipeline import Model, Pipeline
from iocs.edge_warmer import Warmer, load
from iocs.stream import NdFrame
from phasing.errors import ModelError
from pvdb import Severity

CONFIG = StreamConfig(
    source="source",
    phase="phase",
    stitched="stitched",
    input="input",
    queue_frames=10,
    engine="onnxruntime",
    threads=1,
    scan_id_attribute="ScanId",
    position_x_attribute="PositionX",
    position_y_attribute="PositionY",
    position_unit_m=1e-6,
    stitch_period_s=0.1,
    input_period_s=0.1,
    last_frame=None,
)
SETTINGS = Settings(batch_size=4, max_wait_s=0.005, min_counts=1.0, enabled=True)


class Bench:
    """A pipeline with what it published and noted."""

    def __init__(self, settings: Settings = SETTINGS, config: StreamConfig = CONFIG) -> None:
        self.published: list[NdFrame] = []
        self.notes: list[Note] = []
        self.overflowed = 0
        self.pipeline = Pipeline(
            config,
            settings,
            publish=self.published.append,
            overflowed=lambda: self.overflowed,
            note=self.notes.append,
        )

    def give(self, *ids: int, scan_id: str = "a", counts: int = 5, side_px: int = SIDE_PX, **attributes: float) -> None:
        for unique_id in ids:
            array = np.full((side_px, side_px), counts, np.uint16)
            place = {"PositionX": unique_id * 0.1, "PositionY": 0.0}
            frame = NdFrame(unique_id, time.time_ns(), array, {"ScanId": scan_id, **place, **attributes})
            self.pipeline.take(frame, time.time_ns())

    @property
    def ids(self) -> list[int]:
        return [frame.unique_id for frame in self.published]


def kept(folder: Path, version: int = 1, phase_rad: float = 0.25) -> KeptModel:
    return KeptModel(Announcement(version, "", 1), *write_model(folder, version, phase_rad))


def model(folder: Path, version: int = 1, phase_rad: float = 0.25) -> Model:
    return load(kept(folder, version, phase_rad), "onnxruntime", 1, 4, [])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench()
    made.pipeline.swap(model(tmp_path))
    return made


def test_without_a_model_frames_are_counted_and_nothing_fails() -> None:
    bench = Bench()
    bench.give(1, 2, 3)
    counters = bench.pipeline.account.counters
    assert (counters.received, counters.no_model, counters.published) == (3, 3, 0)


def test_a_partial_batch_is_published_when_it_has_waited(bench: Bench) -> None:
    bench.give(*range(1, 7))
    assert bench.ids == [1, 2, 3, 4]
    assert bench.pipeline.time_left_s() is not None
    while bench.pipeline.time_left_s():
        bench.pipeline.flush_if_due()
    bench.pipeline.flush_if_due()
    assert bench.ids == [1, 2, 3, 4, 5, 6]
    assert bench.pipeline.time_left_s() is None


def test_a_prediction_keeps_id_time_stamp_and_attributes_of_its_frame(bench: Bench) -> None:
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    frame = NdFrame(7, 1_700_000_000_123_456_789, array, {"ScanId": "a", "Temperature": 21.5})
    bench.pipeline.take(frame, time.time_ns())
    bench.pipeline.flush()
    (published,) = bench.published
    assert (published.unique_id, published.time_ns) == (7, 1_700_000_000_123_456_789)
    assert published.attributes["Temperature"] == 21.5
    assert published.attributes["ModelVersion"] == 1
    assert published.array.shape == (SIDE_PX, SIDE_PX)
    assert np.allclose(published.array, 0.25)


def test_every_frame_is_accounted_for(bench: Bench) -> None:
    bench.give(1, 2)
    bench.give(3, counts=0)
    bench.give(4, side_px=SIDE_PX + 1)
    bench.give(8)
    bench.pipeline.flush()
    c = bench.pipeline.account.counters
    assert (c.empty, c.rejected, c.missed, c.published) == (1, 1, 3, 3)
    assert c.received == c.published + c.dropped + c.rejected + c.empty + c.no_model
    assert any("does not fit" in note.text for note in bench.notes)


def test_frames_lost_in_our_own_queue_are_dropped_not_missed(bench: Bench) -> None:
    bench.give(1)
    bench.overflowed = 2
    bench.give(4)
    bench.give(8)
    c = bench.pipeline.account.counters
    assert (c.dropped, c.missed) == (2, 3)
    assert c.received == 5


def test_frames_dropped_behind_those_of_the_former_scan_are_not_missed_in_the_next(bench: Bench) -> None:
    bench.give(1, 2, 3)
    bench.overflowed = 5
    bench.pipeline.count_dropped()
    bench.give(4)
    bench.give(1, 2, 8, scan_id="b")
    c = bench.pipeline.account.counters
    assert (c.dropped, c.missed) == (5, 0)


def test_frames_dropped_where_no_gap_shows_hide_no_later_loss(bench: Bench) -> None:
    bench.give(1)
    bench.overflowed = 5
    bench.pipeline.count_dropped()
    queued = CONFIG.queue_frames
    bench.give(*range(1, queued + 2), scan_id="b")
    bench.give(queued + 4, scan_id="b")
    assert bench.pipeline.account.counters.missed == 2


def test_frames_dropped_before_a_reset_do_not_count_after_it(bench: Bench) -> None:
    bench.give(1, 2, 3)
    bench.overflowed = 5
    bench.pipeline.reset()
    bench.pipeline.count_dropped()
    bench.give(4, 10)
    c = bench.pipeline.account.counters
    assert (c.received, c.dropped, c.missed) == (2, 0, 0)


def test_a_frame_that_a_reconnected_stream_sends_again_is_no_restarted_detector(bench: Bench) -> None:
    frame = NdFrame(4, 1_700_000_000_000_000_000, np.full((SIDE_PX, SIDE_PX), 5, np.uint16), {"ScanId": "a"})
    bench.give(1, 2, 3)
    bench.pipeline.take(frame, time.time_ns())
    bench.pipeline.take(frame, time.time_ns())
    bench.give(5)
    bench.pipeline.flush()
    assert bench.ids == [1, 2, 3, 4, 5]
    assert bench.notes == []


def test_a_frame_that_a_former_process_handled_is_not_taken_again() -> None:
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    frames = [NdFrame(unique_id, 1_700_000_000_000_000_000, array, {"ScanId": "a"}) for unique_id in (4, 5)]
    former = Bench()
    former.pipeline.take(frames[0], time.time_ns())
    bench = Bench(config=replace(CONFIG, last_frame=former.pipeline.last_frame))
    for frame in frames:
        bench.pipeline.take(frame, time.time_ns())
    assert bench.pipeline.account.counters.received == 1
    assert bench.notes == []


def test_frames_that_pass_while_disabled_are_not_missed_afterwards(bench: Bench) -> None:
    bench.give(1)
    bench.pipeline.settings = replace(SETTINGS, enabled=False)
    bench.give(2, 3)
    bench.pipeline.settings = SETTINGS
    bench.give(4, 7)
    bench.pipeline.flush()
    c = bench.pipeline.account.counters
    assert (c.received, c.published, c.missed) == (3, 3, 2)
    assert bench.ids == [1, 4, 7]


def test_a_chosen_part_of_a_scan_has_gaps_in_its_ids_but_misses_nothing(bench: Bench) -> None:
    for sequence, unique_id in enumerate((3, 9, 11)):
        bench.give(unique_id, Sequence=sequence)
    assert bench.pipeline.account.counters.missed == 0
    bench.give(20, Sequence=5)
    assert bench.pipeline.account.counters.missed == 2


def test_a_new_scan_begins_a_new_map_and_a_restarted_detector_too(bench: Bench) -> None:
    bench.give(1, 2, 3, 4)
    first = bench.pipeline.stitched()
    assert first is not None
    bench.give(105, 106, 107, 108, scan_id="b")
    second = bench.pipeline.stitched()
    assert second is not None
    assert second.origin_m[1] - first.origin_m[1] == pytest.approx(10.4e-6, abs=1e-7)
    assert bench.pipeline.account.counters.missed == 0
    bench.give(1, scan_id="b")
    assert any("restarted detector" in note.text and note.severity is Severity.MINOR for note in bench.notes)
    assert bench.pipeline.stitched() is None


def test_predictions_without_a_position_are_published_but_not_stitched(bench: Bench) -> None:
    bench.give(1, PositionX=float("nan"))
    bench.pipeline.flush()
    assert bench.ids == [1]
    assert bench.pipeline.account.counters.unplaced == 1
    assert bench.pipeline.stitched() is None


def test_a_swap_falls_between_two_frames_and_loses_none(bench: Bench, tmp_path: Path) -> None:
    bench.give(1, 2)
    former = bench.pipeline.swap(model(tmp_path, 2, 0.5))
    assert former is not None
    assert former.card.version == 1
    bench.give(3, 4, 5, 6)
    assert bench.ids == [1, 2, 3, 4, 5, 6]
    assert [frame.attributes["ModelVersion"] for frame in bench.published] == [1, 1, 2, 2, 2, 2]


def test_reset_counts_from_zero_and_forgets_the_map(bench: Bench) -> None:
    bench.give(1, 2, 3, 4)
    bench.pipeline.reset()
    assert bench.pipeline.account.counters.received == 0
    assert bench.pipeline.stitched() is None
    bench.give(2)
    assert bench.pipeline.account.counters.missed == 0


def test_latency_counts_from_arrival_when_the_frame_time_cannot_be_right(bench: Bench) -> None:
    bench.give(1)
    bench.pipeline.flush()
    assert not bench.pipeline.account.from_arrival
    array = np.full((SIDE_PX, SIDE_PX), 5, np.uint16)
    bench.pipeline.take(NdFrame(2, 0, array, {"ScanId": "a"}), time.time_ns())
    bench.pipeline.flush()
    assert bench.pipeline.account.from_arrival
    assert bench.pipeline.account.latency_s()[1] < 1.0


def test_a_prediction_that_is_not_finite_is_rejected_and_the_others_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, fragile = Bench(), model(tmp_path)
    infer = fragile.engine.infer
    monkeypatch.setattr(fragile.engine, "infer", lambda c: np.where(c > 100, np.float32(np.nan), infer(c)))
    bench.pipeline.swap(fragile)
    bench.give(1, 2)
    bench.give(3, counts=1000)
    bench.give(4)
    assert bench.ids == [1, 2, 4]
    c = bench.pipeline.account.counters
    assert (c.received, c.rejected, c.published, c.unplaced) == (4, 1, 3, 0)
    assert bench.notes == [Note("frame 3: model 1 predicts no finite phase", Severity.MAJOR)]


def test_a_frame_of_more_than_float32_holds_is_empty(bench: Bench) -> None:
    frame = NdFrame(1, time.time_ns(), np.full((SIDE_PX, SIDE_PX), 1e300), {"ScanId": "a"})
    bench.pipeline.take(frame, time.time_ns())
    assert bench.pipeline.account.counters.empty == 1


def test_the_map_shows_what_was_predicted_where_it_was(bench: Bench) -> None:
    bench.give(1, 2, 3, 4)
    stitched = bench.pipeline.stitched()
    assert stitched is not None
    assert np.allclose(stitched.phase_rad[stitched.weight > 0.5], 0.25, atol=1e-5)


def test_a_model_that_predicts_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        load(kept(tmp_path, 1, float("nan")), "onnxruntime", 1, 4, [np.ones((SIDE_PX, SIDE_PX), np.uint16)])


def test_the_warmer_hands_back_a_model_or_the_reason(tmp_path: Path) -> None:
    warmer = Warmer(engine="onnxruntime", threads=1)
    wanted = kept(tmp_path, 3, 0.1)
    warmer.warm(wanted, 4, [])
    warmer.join()
    found, made = warmer.ready() or (None, None)
    assert found == wanted
    assert isinstance(made, Model)
    wanted.onnx.write_bytes(b"no network")
    warmer.warm(wanted, 4, [])
    warmer.join()
    done = warmer.ready()
    assert done is not None
    assert isinstance(done[1], str)
    assert "version 3" in done[1]


def test_constant_models_differ_by_digest() -> None:
    assert constant_onnx(0.1) != constant_onnx(0.2)
