"""A training round from its beginning to its end: killed, resumed, cut short, judged scan by scan."""

import csv
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_pairs

from iocs.demo_poison import poison
from phasing.checkpoint import load_checkpoint
from phasing.errors import TrainingError
from phasing.frames import held_out
from phasing.gate import judge as gate
from phasing.geometry import Geometry
from phasing.pairs import PairSet, load_pairs, save_pairs
from phasing.resume import only_trainer
from phasing.rounds import Report
from phasing.train import EpochReport, RoundBegun, TrainSettings, judge, train

MakePairs = Callable[..., PairSet]
SETTINGS = TrainSettings(num_epochs=6, batch_size=8, learning_rate_max=2e-3, threads=1, device="cpu")
GENTLE = replace(SETTINGS, num_epochs=1, learning_rate_min=1e-9, learning_rate_max=1e-9)


def silent(report: Report) -> None:
    pass


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).state


def train_until_killed(geometry: Geometry, folder: Path, last_epoch: int) -> None:
    """Train in a process of its own, which ends as by SIGKILL when an epoch is reported."""

    def report(said: Report) -> None:
        if isinstance(said, EpochReport) and said.epoch == last_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    train([make_tiny_pairs(geometry, folder)], SETTINGS, None, folder, report)


def test_a_killed_round_goes_on_from_its_last_epoch_and_ends_as_if_nothing_had_been(
    tiny_geometry: Geometry, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(tiny_geometry, folder, 4))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    heard: list[Report] = []
    resumed = train([make_tiny_pairs(tiny_geometry, folder)], SETTINGS, None, folder, heard.append)
    assert [report.epoch for report in heard if isinstance(report, EpochReport)] == [5, 6]
    begun = heard[0]
    assert isinstance(begun, RoundBegun)
    assert begun.val_losses == resumed.val_losses[:4]
    whole_folder = tmp_path / "whole"
    whole = train([make_tiny_pairs(tiny_geometry, folder)], SETTINGS, None, whole_folder, silent)
    assert resumed.val_losses == whole.val_losses
    assert resumed.losses == whole.losses
    one, two = weights(resumed.checkpoint_path), weights(whole.checkpoint_path)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not (folder / "resume.pt").exists()


@pytest.mark.parametrize("damage", ["other settings", "cut short", "no checkpoint"])
def test_begins_anew_where_there_is_nothing_to_go_on_from(tiny_pairs: MakePairs, tmp_path: Path, damage: str) -> None:
    def stop(report: Report) -> None:
        if isinstance(report, EpochReport) and report.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([tiny_pairs()], SETTINGS, None, tmp_path, stop)
    settings = replace(SETTINGS, seed=1) if damage == "other settings" else SETTINGS
    if damage == "cut short":
        resume = tmp_path / "resume.pt"
        resume.write_bytes(resume.read_bytes()[:5000])
    if damage == "no checkpoint":
        (tmp_path / "checkpoint.pt").unlink()
    heard: list[Report] = []
    train([tiny_pairs()], settings, None, tmp_path, heard.append)
    assert [report.epoch for report in heard if isinstance(report, EpochReport)] == [1, 2, 3, 4, 5, 6]


def test_ends_when_nothing_better_comes(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    wild = replace(SETTINGS, num_epochs=50, patience_epochs=2, learning_rate_min=0.05, learning_rate_max=0.05)
    result = train([tiny_pairs()], wild, None, tmp_path, silent)
    assert len(result.losses) == result.best_epoch + 2 < 50
    assert result.ended == "2 epochs brought nothing better"
    assert load_checkpoint(result.checkpoint_path).val_loss == result.val_loss == min(result.val_losses)


def test_begins_no_epoch_that_would_end_too_late(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    result = train([tiny_pairs()], replace(SETTINGS, max_seconds=1e-3), None, tmp_path, silent)
    assert len(result.losses) == 1
    assert "of 0 s are spent" in result.ended
    whole = train([tiny_pairs()], replace(SETTINGS, max_seconds=1e6), None, tmp_path / "whole", silent)
    assert whole.ended == "all 6 epochs are done"


def test_judges_candidate_and_incumbent_on_each_scan_apart(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    first = train([tiny_pairs("one")], SETTINGS, None, tmp_path / "1", silent)
    assert [(loss.scan_id, loss.incumbent_val_loss) for loss in first.scan_losses] == [("one", None)]
    strange = replace(tiny_pairs("two", seed=1), phase_rad=-tiny_pairs("two", seed=1).phase_rad)
    heard: list[Report] = []
    second = train([tiny_pairs("one"), strange], GENTLE, first.checkpoint_path, tmp_path / "2", heard.append)
    one, two = second.scan_losses
    assert (one.is_new, two.is_new) == (False, True)
    assert one.incumbent_val_loss == pytest.approx(first.val_loss, rel=1e-6)
    assert two.val_loss > 2 * one.val_loss
    assert two.incumbent_val_loss == pytest.approx(two.val_loss, rel=1e-3)
    frames = one.num_frames + two.num_frames
    assert frames == second.num_held_out
    mean = (one.val_loss * one.num_frames + two.val_loss * two.num_frames) / frames
    assert second.val_loss == pytest.approx(mean, rel=1e-6)
    begun = heard[0]
    assert isinstance(begun, RoundBegun)
    assert begun.new_scan_losses == {"two": two.incumbent_val_loss}
    kept = load_checkpoint(second.checkpoint_path)
    assert (kept.scan_losses, kept.num_samples, kept.num_held_out) == (second.scan_losses, second.num_samples, frames)


def test_all_held_out_frames_judge_in_the_end_also_where_epochs_are_judged_by_few(
    tiny_pairs: MakePairs, tmp_path: Path
) -> None:
    sets = [tiny_pairs("one"), tiny_pairs("two", seed=1)]
    few = train(sets, replace(SETTINGS, judged_frames=3), None, tmp_path, silent)
    again = judge(sets, SETTINGS, few.checkpoint_path)
    assert [loss.val_loss for loss in again] == [loss.val_loss for loss in few.scan_losses]
    assert few.val_loss not in few.val_losses


def test_judges_a_network_on_scans_that_it_has_not_seen(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    first = train([tiny_pairs("one")], SETTINGS, None, tmp_path, silent)
    (loss,) = judge([tiny_pairs("new", seed=5)], SETTINGS, first.checkpoint_path)
    assert loss.is_new
    assert loss.val_loss == pytest.approx(first.val_loss, rel=0.5)


def test_what_is_masked_is_not_learned_from_nor_judged_by(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = tiny_pairs()
    known = np.zeros_like(pairs.mask)
    known[:, 4:12, 4:12] = True
    wrong = np.where(known, pairs.phase_rad, np.float32(3.0))
    plain = replace(SETTINGS, plain_loss=True)
    results = [
        train([replace(pairs, mask=known, phase_rad=phase_rad)], plain, None, tmp_path / str(k), silent)
        for k, phase_rad in enumerate((pairs.phase_rad, wrong))
    ]
    assert results[0].losses == results[1].losses
    assert results[0].val_losses == results[1].val_losses


def test_augmented_rounds_repeat_for_a_seed_and_differ_from_plain_ones(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    augmented = replace(SETTINGS, num_epochs=2, augment_overlap=0.9)
    runs = [train([tiny_pairs()], augmented, None, tmp_path / name, silent).losses for name in "ab"]
    assert runs[0] == runs[1]
    assert runs[0] != train([tiny_pairs()], replace(SETTINGS, num_epochs=2), None, tmp_path / "c", silent).losses


def test_shows_a_few_held_out_frames_beside_their_labels(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = tiny_pairs()
    mask = pairs.mask.copy()
    mask[:, 0] = False
    heard: list[Report] = []
    train([replace(pairs, mask=mask)], replace(SETTINGS, shown_frames=3), None, tmp_path, heard.append)
    last = heard[-1]
    assert isinstance(last, EpochReport)
    assert last.shown_rad is not None
    assert last.shown_rad.shape == (2, 3, 16, 16)
    assert np.isnan(last.shown_rad[:, :, 0]).all()
    labels, predictions = last.shown_rad[:, :, 1:]
    assert np.abs(labels - predictions).mean() < 0.5 * np.abs(labels).mean()
    assert "shown_rad" not in last.figures()


def test_leaves_its_losses_as_a_table(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    result = train([tiny_pairs()], SETTINGS, None, tmp_path, silent)
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert tuple(float(row["val_loss_rad"]) for row in rows) == result.val_losses


def test_two_trainers_do_not_share_a_folder(
    tiny_pairs: MakePairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phasing.resume._LOCK_WAIT_S", 0.2)
    with only_trainer(tmp_path), pytest.raises(TrainingError, match="another trainer is at work in"):
        train([tiny_pairs()], SETTINGS, None, tmp_path, silent)
    train([tiny_pairs()], GENTLE, None, tmp_path, silent)


def test_a_full_disk_is_told_and_costs_no_epoch(
    tiny_pairs: MakePairs, tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    pairs = tiny_pairs()
    with ExitStack() as fill:

        def report(said: Report) -> None:
            if isinstance(said, EpochReport) and said.epoch == 3:
                fill.enter_context(full_disk(100_000))

        with pytest.raises(TrainingError, match=r"\.pt cannot be written: File too large"):
            train([pairs], SETTINGS, None, tmp_path, report)
    assert not list(tmp_path.glob(".*.part"))
    heard: list[Report] = []
    result = train([pairs], SETTINGS, None, tmp_path, heard.append)
    assert [report.epoch for report in heard if isinstance(report, EpochReport)] == [4, 5, 6]
    whole = train([pairs], SETTINGS, None, tmp_path / "whole", silent)
    assert result.val_losses == whole.val_losses


@pytest.mark.parametrize("side_px", [16, 48])
def test_frames_of_other_sizes_and_scans_of_other_lengths_are_no_matter(tmp_path: Path, side_px: int) -> None:
    geometry = Geometry(
        energy_ev=1e4, distance_m=1.0, pixel_size_m=5e-5, detector_shape_px=(side_px, side_px), crop_px=side_px
    )
    sets = [make_tiny_pairs(geometry, tmp_path, f"of {number}", num_frames=number) for number in (30, 130)]
    result = train(sets, replace(SETTINGS, num_epochs=3), None, tmp_path / "round", silent)
    assert result.num_samples + result.num_held_out == 160
    assert result.val_loss < result.val_losses[0]


def test_what_was_trained_on_shuffled_labels_is_refused_by_the_gate(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = save_pairs(replace(tiny_pairs(), folder=tmp_path / "pairs"))
    healthy = train([pairs], replace(SETTINGS, num_epochs=12), None, tmp_path / "healthy", silent)
    true_rad = np.array(pairs.phase_rad)
    assert poison(tmp_path / "pairs") == healthy.num_samples
    poisoned = load_pairs(pairs.folder)
    changed = (poisoned.phase_rad != true_rad).any(axis=(1, 2))
    assert changed.sum() > 0.9 * healthy.num_samples
    assert not changed[[held_out("tiny", int(k)) for k in pairs.unique_id]].any(), "held-out labels stay true"
    round_two = train([poisoned], SETTINGS, healthy.checkpoint_path, tmp_path / "poisoned", silent)
    verdict = gate(round_two.val_loss, round_two.incumbent_val_loss, scan_losses=round_two.scan_losses)
    assert not verdict.accepted
    assert round_two.incumbent_val_loss == pytest.approx(healthy.val_loss, rel=1e-6)
    assert verdict.reason.startswith("refused")
