"""Which frames a round trains on and is judged by."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from phasing.errors import TrainingError
from phasing.frames import held_out
from phasing.pairs import PairSet
from phasing.samples import Samples, mean_losses, sound_samples
from phasing.train import TrainSettings

MakePairs = Callable[..., PairSet]
Frames = set[tuple[str, int]]


def frames(samples: Samples, indices: np.ndarray) -> Frames:
    every = [(pairs.scan_id, int(unique_id)) for pairs in samples.sets for unique_id in pairs.unique_id]
    return {every[k] for k in indices}


def of(sets: list[PairSet], **settings: float) -> Samples:
    return Samples(sets, TrainSettings(**settings))  # type: ignore[arg-type]


def test_no_frame_ever_changes_sides(tiny_pairs: MakePairs) -> None:
    sets = [tiny_pairs(f"scan {k}", seed=k) for k in range(5)]
    sides = [of(sets[: k + 1]) for k in range(5)] + [of(sets, seed=7), of(sets[::-1]), of(sets, reservoir_frames=50)]
    trained: Frames = set().union(*(frames(samples, samples.training) for samples in sides))
    judged: Frames = set().union(*(frames(samples, samples.judging) for samples in sides))
    assert trained.isdisjoint(judged)
    assert all(held_out(*frame) for frame in judged)
    assert 0.05 < len(judged) / (len(judged) + len(trained)) < 0.15


def test_trains_on_the_last_scans_and_judges_by_all(tiny_pairs: MakePairs) -> None:
    sets = [tiny_pairs(f"scan {k}", seed=k) for k in range(5)]
    samples = of(sets, last_scans=2)
    assert samples.trained_scans() == ("scan 3", "scan 4")
    assert np.array_equal(samples.judging, of(sets).judging)
    again = of([*sets, replace(sets[0], phase_rad=-sets[0].phase_rad)], last_scans=1)
    assert again.trained_scans() == ("scan 0",), "the scan that was made last"
    assert of(sets, last_scans=99).trained_scans() == tuple(pairs.scan_id for pairs in sets)


def test_a_reservoir_is_bounded_seeded_and_gives_way_slowly(tiny_pairs: MakePairs) -> None:
    sets = [tiny_pairs(f"scan {k}", seed=k) for k in range(6)]
    before, after = (
        frames(s, s.training) for s in (of(sets[:5], reservoir_frames=100), of(sets, reservoir_frames=100))
    )
    assert len(before) == len(after) == 100
    newest = {frame for frame in after if frame[0] == "scan 5"}
    assert after - before == newest, "only frames of the new scan come in"
    assert 5 <= len(newest) <= 35
    other = of(sets, reservoir_frames=100, seed=1)
    assert frames(other, other.training) != after
    few = of(sets, reservoir_frames=10_000)
    assert np.array_equal(few.training, of(sets).training)


def test_every_epoch_is_judged_by_no_more_frames_than_configured(tiny_pairs: MakePairs) -> None:
    samples = of([tiny_pairs("one"), tiny_pairs("two")], judged_frames=5)
    assert len(samples.judged) == 5
    assert set(samples.judged) < set(samples.judging)


def test_leaves_empty_frames_out(tiny_pairs: MakePairs) -> None:
    pairs = tiny_pairs()
    dim = np.where(np.arange(80) % 2, pairs.frame_counts, 0.0)
    samples = of([replace(pairs, frame_counts=dim)])
    assert all(k % 2 for k in (*samples.training, *samples.judging))
    bright = of([pairs], min_counts=float(np.median(pairs.frame_counts)))
    assert len(bright.training) + len(bright.judging) == 40


def test_leaves_a_damaged_set_out_and_names_frame_and_folder(tiny_pairs: MakePairs) -> None:
    good, bad = tiny_pairs("good"), tiny_pairs("bad")
    counts = bad.counts.copy()
    counts[11] = np.nan
    bad = replace(bad, counts=counts)
    samples, skipped = sound_samples([good, bad], TrainSettings())
    assert [pairs.scan_id for pairs in samples.sets] == ["good"]
    assert skipped == (f"scan bad is damaged: {bad.folder}: counts of frame 11 is not finite",)
    with pytest.raises(TrainingError, match="counts of frame 11"):
        sound_samples([bad], TrainSettings())


def test_turns_pairs_only_by_what_their_probe_allows(tiny_pairs: MakePairs) -> None:
    skew = replace(tiny_pairs("skew"), symmetry=(1.0, 0.2, 0.2, 0.99, 0.2, 0.2, 0.2, 0.2))
    samples = of([skew, tiny_pairs("round")])
    every = np.arange(160)
    turns = samples.draw_operations(every, 0.9, np.random.default_rng(0))
    assert set(turns[:80]) == {0, 3}
    assert set(turns[80:]) == set(range(8))
    straight, found = samples.gather(every), samples.gather(every, turns)
    k = int(np.flatnonzero(turns == 3)[0])
    assert np.array_equal(found.counts[k, 0, 1:, 1:], straight.counts[k, 0, :0:-1, :0:-1])
    assert np.array_equal(found.counts[turns == 0], straight.counts[turns == 0])


def test_the_mean_loss_of_all_scans_weighs_frames_alike() -> None:
    total, each = mean_losses(np.array([[1.0, 10.0], [9.0, 30.0], [0.0, 0.0]]))
    assert total == 0.25
    assert each[:2].tolist() == [0.1, 0.3]
    assert np.isnan(each[2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"last_scans": 1, "reservoir_frames": 1}, "exclude one another"),
        ({"last_scans": -1}, "last_scans"),
        ({"augment_overlap": 1.5}, "augment_overlap"),
        ({"precision": "float8"}, "precision must be one of"),
    ],
)
def test_refuses_choices_that_cannot_be(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrainSettings(**wrong)  # type: ignore[arg-type]
