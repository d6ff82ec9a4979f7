from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from phasing.card import lineage_key
from phasing.checkpoint import load_checkpoint
from phasing.errors import ModelError, TrainingError
from phasing.frames import held_out
from phasing.geometry import Geometry
from phasing.pairs import PairSet
from phasing.rounds import Report
from phasing.samples import Samples
from phasing.train import EpochReport, RoundBegun, TrainingCancelled, TrainSettings, train

MakePairs = Callable[..., PairSet]
SETTINGS = TrainSettings(num_epochs=12, batch_size=8, learning_rate_max=2e-3, threads=1, device="cpu")


def silent(report: Report) -> None:
    pass


class Heard:
    """Takes what a round reports."""

    def __init__(self) -> None:
        self.begun: list[RoundBegun] = []
        self.epochs: list[EpochReport] = []

    def __call__(self, report: Report) -> None:
        if isinstance(report, RoundBegun):
            self.begun.append(report)
        else:
            self.epochs.append(report)


def test_learns_and_keeps_the_best_of_all_epochs(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    heard = Heard()
    result = train([tiny_pairs()], SETTINGS, None, tmp_path, heard)
    reports = heard.epochs
    assert result.val_loss < 0.5 * result.val_losses[0]
    assert result.val_loss == min(result.val_losses)
    assert result.val_losses[result.best_epoch - 1] == result.val_loss
    assert result.incumbent_val_loss is None
    assert [report.epoch for report in reports] == list(range(1, 13))
    assert tuple(report.val_loss for report in reports) == result.val_losses
    assert [report.best_val_loss for report in reports] == list(np.minimum.accumulate(result.val_losses))
    assert reports[-1].time_left_s == 0.0
    assert all(report.samples_per_s > 0 for report in reports)
    assert len({report.learning_rate for report in reports}) > 3


def test_the_checkpoint_says_what_it_is(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    result = train([tiny_pairs()], replace(SETTINGS, num_epochs=2), None, tmp_path, silent)
    checkpoint = load_checkpoint(result.checkpoint_path)
    assert checkpoint.scans == result.scans == ("tiny",)
    assert checkpoint.val_losses == result.val_losses
    assert checkpoint.losses == result.losses
    assert checkpoint.counts_scale == result.counts_scale
    assert checkpoint.probe_intensity.max() == 1.0
    assert checkpoint.probe_intensity.min() == pytest.approx(0.04)
    assert checkpoint.geometry.differences(tiny_pairs().geometry) == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint.pt", "losses.csv"]


def test_held_out_frames_are_judged_by_and_never_trained_on(tiny_pairs: MakePairs) -> None:
    sets = [tiny_pairs("one"), tiny_pairs("two", seed=1)]
    samples = Samples(sets, SETTINGS)
    judged = [sets[k // 80].scan_id for k in samples.judging if not held_out(sets[k // 80].scan_id, k % 80)]
    assert judged == []
    assert len(samples.training) + len(samples.judging) == 160
    assert not set(samples.training) & set(samples.judging)
    found = samples.gather(np.array([3, 100, 7]))
    assert np.array_equal(found.counts[1, 0], sets[1].counts[20])
    assert np.array_equal(found.phase_rad[2, 0], sets[0].phase_rad[7])
    assert found.owner.tolist() == [0, 1, 0]
    assert samples.weights(plain=False).mean(axis=(1, 2, 3)) == pytest.approx(1.0, rel=1e-5)


def test_parts_of_a_scan_train_together_and_no_frame_counts_twice(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    left, right = (part(tiny_pairs(), rows) for rows in (slice(0, 50), slice(50, 80)))
    halves = Samples([left, right], SETTINGS)
    assert len(halves.training) + len(halves.judging) == 80
    again = Samples([left, tiny_pairs(seed=1)], SETTINGS)
    assert len(again.training) + len(again.judging) == 80
    assert {*again.training, *again.judging} == set(range(50, 130))
    result = train([left, right], replace(SETTINGS, num_epochs=1), None, tmp_path, silent)
    assert result.scans == ("tiny",)
    assert result.num_samples + result.num_held_out == 80


def part(pairs: PairSet, rows: slice) -> PairSet:
    by_frame = ("counts", "phase_rad", "mask", "frame_counts", "unique_id")
    return replace(pairs, **{name: getattr(pairs, name)[rows] for name in by_frame})


def test_a_new_mask_does_not_end_a_lineage(tiny_pairs: MakePairs, tiny_geometry: Geometry, tmp_path: Path) -> None:
    short = replace(SETTINGS, num_epochs=1)
    masked = replace(tiny_pairs("two", seed=1), geometry=replace(tiny_geometry, mask=np.eye(16, dtype=bool)))
    first = train([tiny_pairs("one")], short, None, tmp_path / "1", silent)
    result = train([tiny_pairs("one"), masked], short, first.checkpoint_path, tmp_path / "2", silent)
    # Live frames are prepared as those of the newest scan were.
    assert load_checkpoint(result.checkpoint_path).geometry.differences(masked.geometry) == ()


def test_refuses_frames_of_a_size_that_the_network_cannot_halve(
    tiny_pairs: MakePairs, tiny_geometry: Geometry, tmp_path: Path
) -> None:
    odd = replace(tiny_pairs(), geometry=replace(tiny_geometry, crop_px=12))
    with pytest.raises(TrainingError, match=r"12 px .* multiple of 16"):
        train([odd], SETTINGS, None, tmp_path, silent)


def test_a_round_starts_from_the_parent_and_judges_it_on_the_same_frames(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    first = train([tiny_pairs("one")], SETTINGS, None, tmp_path / "1", silent)
    brighter = tiny_pairs("two", seed=1)
    gentle = replace(SETTINGS, num_epochs=1, learning_rate_min=1e-9, learning_rate_max=1e-9)
    same = train([tiny_pairs("one")], gentle, first.checkpoint_path, tmp_path / "2", silent)
    assert same.incumbent_val_loss == pytest.approx(first.val_loss, rel=1e-3)
    assert same.val_loss == pytest.approx(first.val_loss, rel=1e-2)
    union = train([tiny_pairs("one"), brighter], gentle, first.checkpoint_path, tmp_path / "3", silent)
    assert union.scans == ("one", "two")
    assert union.num_samples + union.num_held_out == 160
    assert union.counts_scale == first.counts_scale
    assert union.incumbent_val_loss != first.val_loss


def test_the_same_seed_gives_the_same_weights(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    short = replace(SETTINGS, num_epochs=2)
    states = [
        load_checkpoint(train([tiny_pairs()], short, None, tmp_path / name, silent).checkpoint_path).state
        for name in "ab"
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_leaves_torchs_threads_and_random_numbers_as_they_were(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train([tiny_pairs()], replace(SETTINGS, num_epochs=1), None, tmp_path, silent)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_the_plain_loss_weighs_all_pixels_alike(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = tiny_pairs()
    ring = pairs.phase_rad.copy()
    ring[:, pairs.weight < 1.0] = 3.0
    spoiled = replace(pairs, phase_rad=ring)
    gentle = replace(SETTINGS, num_epochs=1, learning_rate_min=1e-9, learning_rate_max=1e-9)
    plain, weighted = (
        train([spoiled], replace(gentle, plain_loss=plain), None, tmp_path / str(plain), silent).val_loss
        for plain in (True, False)
    )
    assert plain > 1.3 * weighted


def test_can_be_cancelled_and_leaves_the_best_so_far(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    heard = Heard()
    with pytest.raises(TrainingCancelled, match="epoch 3"):
        train([tiny_pairs()], SETTINGS, None, tmp_path, heard, lambda: len(heard.epochs) == 2)
    assert load_checkpoint(tmp_path / "checkpoint.pt").val_loss == heard.epochs[-1].best_val_loss


def test_leaves_out_what_does_not_belong_together_and_names_it(
    tiny_pairs: MakePairs, tiny_geometry: Geometry, tmp_path: Path
) -> None:
    short = replace(SETTINGS, num_epochs=1)
    turned = replace(tiny_pairs("turned"), geometry=replace(tiny_geometry, flip_rows=True))
    coarse = replace(tiny_pairs("coarse"), pixel_size_m=30e-9)
    first = train([tiny_pairs("one"), turned, coarse, tiny_pairs("two")], short, None, tmp_path, silent)
    assert first.scans == ("one", "two")
    assert first.skipped == (
        "scan turned does not fit scan one: flip_rows differ",
        "scan coarse does not fit scan one: pixel sizes differ",
    )
    heard = Heard()
    result = train([turned, tiny_pairs("one")], short, first.checkpoint_path, tmp_path / "next", heard)
    assert heard.begun[0].scans == ("one",)
    assert result.scans == ("one", "two"), "all that the weights have learned from"
    assert result.skipped == ("scan turned does not fit the incumbent: flip_rows differ",)
    with pytest.raises(TrainingError, match="turned does not fit the incumbent: flip_rows"):
        train([turned], SETTINGS, first.checkpoint_path, tmp_path / "next", silent)
    with pytest.raises(TrainingError, match="no training pairs"):
        train([], SETTINGS, None, tmp_path, silent)


def test_scans_of_one_lineage_train_together(tiny_pairs: MakePairs, tiny_geometry: Geometry, tmp_path: Path) -> None:
    # as far apart as numbers that agree to six digits can be, each the way that changes the pixel of the phase most
    geometries = [
        replace(tiny_geometry, energy_ev=10_000.9501, distance_m=1.00001499, pixel_size_m=100.000501e-6),
        replace(tiny_geometry, energy_ev=10_001.0499, distance_m=1.00000501, pixel_size_m=100.001499e-6),
    ]
    assert len({lineage_key("test", geometry) for geometry in geometries}) == 1
    sets = [
        replace(tiny_pairs(str(index)), geometry=geometry, pixel_size_m=geometry.object_pixel_size_m)
        for index, geometry in enumerate(geometries)
    ]
    first = train(sets, replace(SETTINGS, num_epochs=1), None, tmp_path, silent)
    assert first.skipped == ()
    result = train(sets, replace(SETTINGS, num_epochs=1), first.checkpoint_path, tmp_path / "next", silent)
    assert result.skipped == ()


def test_refuses_too_few_and_empty_frames(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = tiny_pairs()
    with pytest.raises(TrainingError, match="too few"):
        train([part(pairs, slice(1))], SETTINGS, None, tmp_path, silent)
    with pytest.raises(TrainingError, match="80 frames, 80 of them empty"):
        train([replace(pairs, frame_counts=np.zeros(80))], SETTINGS, None, tmp_path, silent)


def test_a_loss_that_is_no_number_ends_the_round(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    wild = replace(SETTINGS, learning_rate_min=1e30, learning_rate_max=1e30)
    with pytest.raises(TrainingError, match="loss is nan"):
        train([tiny_pairs()], wild, None, tmp_path, silent)


@pytest.mark.parametrize("wrong", [{"num_epochs": 0}, {"batch_size": 0}, {"learning_rate_max": 1e-9}])
def test_refuses_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=next(iter(wrong))):
        TrainSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_refuses_a_damaged_parent(tiny_pairs: MakePairs, tmp_path: Path, damage: bytes | None) -> None:
    path = train([tiny_pairs()], replace(SETTINGS, num_epochs=1), None, tmp_path, silent).checkpoint_path
    path.write_bytes(path.read_bytes()[:20_000] if damage is None else damage)
    with pytest.raises(ModelError, match=r"checkpoint\.pt"):
        train([tiny_pairs()], SETTINGS, path, tmp_path / "next", silent)
