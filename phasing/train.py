"""Continued training of PtychoNN on the union of all scans' training pairs.

Source: Babu et al. 2023, with three repairs: the held-out tenth is the same for ever, the incumbent is judged on the
same frames as the candidate, and the loss is weighted by the probe's amplitude.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phasing.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from phasing.compute import device_name, torch_set_up
from phasing.errors import ModelError, TrainingError
from phasing.files import replaced_file
from phasing.pairs import PairSet
from phasing.ranks import Ranks
from phasing.resume import Progress, ResumeFile, Row, fingerprint, only_trainer
from phasing.rounds import (
    CHECKPOINT_NAME,
    LOSSES_NAME,
    EpochReport,
    Report,
    RoundBegun,
    ScanLoss,
    TrainResult,
    TrainSettings,
)
from phasing.samples import FloatArray, IndexArray, Samples, Sums, fitting, mean_losses, sound_samples

if TYPE_CHECKING:
    from phasing.batches import Batch
    from phasing.network import PtychoNN

__all__ = ["EpochReport", "RoundBegun", "TrainResult", "TrainSettings", "TrainingCancelled", "judge", "train"]

_START_FRAMES = 64


class TrainingCancelled(TrainingError):
    """Training was stopped from outside; the best checkpoint so far stays on disk."""


def train(
    pair_sets: Sequence[PairSet],
    settings: TrainSettings,
    parent_checkpoint: Path | None,
    folder: Path,
    report: Callable[[Report], None],
    cancelled: Callable[[], bool] | None = None,
    *,
    ranks: Ranks | None = None,
) -> TrainResult:
    """Train on the union of the pair sets, oldest first, starting from the parent's weights where there is one.

    Pair sets that contradict the parent, or else the first set, and damaged ones are left out; the result names them.
    folder: receives `checkpoint.pt`, always complete and always the best so far, and `losses.csv`. A round that was
    killed goes on in the same folder from its last whole epoch. report: called at the beginning and after every epoch.
    cancelled: asked before every batch. ranks: the processes that share the round, all of which call this.
    Raises TrainingError when no pair set fits the parent, when there is nothing to train on or to judge by, when the
    loss is no longer finite, when the disk takes no checkpoint, and when another trainer is at work in the folder;
    TrainingCancelled; ModelError for a corrupted parent.
    """
    ranks = ranks or Ranks()
    parent = load_checkpoint(parent_checkpoint) if parent_checkpoint else None
    sets, unfit = fitting(pair_sets, parent)
    _check_side(sets[0])
    samples, damaged = sound_samples(sets, settings)
    with (
        only_trainer(folder) if ranks.is_first else nullcontext(),
        _round(samples, settings, parent, ranks) as training,
    ):
        resume = ResumeFile(folder, fingerprint(samples, settings, parent_checkpoint))
        return training.run(folder, resume, report, cancelled or (lambda: False), unfit + damaged)


def judge(pair_sets: Sequence[PairSet], settings: TrainSettings, checkpoint: Path) -> tuple[ScanLoss, ...]:
    """The loss of a network, in rad, on the held-out frames of each scan; `is_new` where it has not learned from it.

    Raises TrainingError when no pair set fits the network, and ModelError for a corrupted checkpoint.
    """
    network = load_checkpoint(checkpoint)
    samples, _ = sound_samples(fitting(pair_sets, network)[0], settings)
    with _round(samples, settings, network, Ranks()) as training:
        return training.scan_losses(training.judged(samples.judging), None)


@contextmanager
def _round(samples: Samples, settings: TrainSettings, parent: Checkpoint | None, ranks: Ranks) -> Iterator[_Round]:
    with torch_set_up(settings.seed, settings.threads, repeatable=True):
        training = _Round(samples, settings, parent, ranks)
        try:
            yield training
        finally:
            training.close()


class _Round:
    """One training run; lives as long as the call of train()."""

    def __init__(self, samples: Samples, settings: TrainSettings, parent: Checkpoint | None, ranks: Ranks) -> None:
        from phasing.batches import Batches
        from phasing.learner import Learner
        from phasing.network import load_network

        self._samples, self._settings, self._parent, self._ranks = samples, settings, parent, ranks
        self._shuffle = np.random.default_rng(settings.seed)
        self._counts_scale = parent.counts_scale if parent else samples.counts_scale()
        network = load_network(parent.state) if parent else self._untrained()
        device = ranks.device(device_name(settings.device))
        self._batches = Batches(samples, device, ranks)
        self._learner = Learner(network, samples, settings, self._counts_scale, device, ranks)
        self._rows: list[Row] = []
        self._best_val_loss = math.inf
        self._earlier_s = 0.0
        self._started_s = time.monotonic()

    def close(self) -> None:
        """End the threads that read."""
        self._batches.close()

    def run(
        self,
        folder: Path,
        resume: ResumeFile,
        report: Callable[[Report], None],
        cancelled: Callable[[], bool],
        skipped: tuple[str, ...],
    ) -> TrainResult:
        """All epochs, and the judgement of the best; the checkpoint in the folder is the best so far at any moment.

        Of several processes the first alone writes and reports.
        """
        path = folder / CHECKPOINT_NAME
        incumbent = self.judged(self._samples.judging) if self._parent else None
        self._take_up(resume, path)
        if self._ranks.is_first:
            report(self._begun(incumbent, skipped))
        while not (ended := self._ended()):
            row = self._epoch(cancelled)
            if self._ranks.is_first:
                if row["val_loss_rad"] < self._best_val_loss:
                    save_checkpoint(self._checkpoint(), path)
                self._save(folder, resume)
                report(self._report(row))
            self._best_val_loss = row["best_val_loss_rad"]
        self._ranks.wait()
        best = self._judged_best(path, incumbent)
        self._ranks.wait()
        if self._ranks.is_first:
            save_checkpoint(best, path)
            resume.remove()
        return self._result(best, path, ended, skipped)

    def judged(self, indices: IndexArray) -> Sums:
        """Sums of errors and weights of the network as it is now, scan by scan."""
        return self._learner.judge(self._batches.of(indices, self._settings.batch_size))

    def scan_losses(self, sums: Sums, incumbent: Sums | None) -> tuple[ScanLoss, ...]:
        """The losses of the scans that have held-out frames, and the incumbent's beside them."""
        scans, num_frames = self._samples.scans, self._samples.num_held_out()
        before = self._parent.scans if self._parent else ()
        losses = mean_losses(sums)[1]
        former = None if incumbent is None else mean_losses(incumbent)[1]
        return tuple(
            ScanLoss(
                scan_id=scan_id,
                num_frames=int(num_frames[k]),
                val_loss=float(losses[k]),
                incumbent_val_loss=None if former is None else float(former[k]),
                is_new=scan_id not in before,
            )
            for k, scan_id in enumerate(scans)
            if num_frames[k]
        )

    def _take_up(self, resume: ResumeFile, path: Path) -> None:
        """Go on from where an earlier attempt at the same round was killed."""
        progress = resume.load()
        if progress is None:
            return
        try:
            best = load_checkpoint(path)
        except ModelError:
            return  # the round begins anew
        self._learner.resume(progress.learner)
        self._shuffle.bit_generator.state = progress.shuffle
        self._rows, self._earlier_s = list(progress.rows), progress.seconds
        # of an epoch that was not noted any more, the checkpoint may be there already
        self._best_val_loss = min(self._rows[-1]["best_val_loss_rad"], best.val_loss or math.inf)

    def _ended(self) -> str:
        """Why no further epoch comes; empty while one does."""
        settings, done = self._settings, len(self._rows)
        if done >= settings.num_epochs:
            return f"all {done} epochs are done"
        if settings.patience_epochs and done:
            since = done - _best_epoch(self._rows)
            if since >= settings.patience_epochs:
                return f"{since} epochs brought nothing better"
        elapsed_s = self._ranks.agreed(self._elapsed_s())
        if settings.max_seconds and done and elapsed_s * (done + 1) / done > settings.max_seconds:
            return f"{elapsed_s:.0f} of {settings.max_seconds:.0f} s are spent"
        return ""

    def _epoch(self, cancelled: Callable[[], bool]) -> Row:
        """Learn once from all training frames, in a new order, and judge what came of it."""
        settings, samples = self._settings, self._samples
        began_s = time.monotonic()
        order = self._shuffle.permutation(samples.training)
        turns = None
        if settings.augment_overlap:
            turns = samples.draw_operations(order, settings.augment_overlap, self._shuffle)
        batches = self._batches.of(order, settings.batch_size, turns)
        loss = self._learner.learn(self._unless_cancelled(batches, cancelled))
        learned_s = time.monotonic() - began_s
        val_loss = mean_losses(self.judged(samples.judged))[0]
        row = {
            "epoch": len(self._rows) + 1,
            "loss_rad": loss,
            "val_loss_rad": val_loss,
            "best_val_loss_rad": min(val_loss, self._best_val_loss),
            "learning_rate": self._learner.learning_rate,
            "samples_per_s": len(order) / learned_s,
            "seconds": self._elapsed_s(),
        }
        self._rows.append(row)
        return row

    def _unless_cancelled(self, batches: Iterator[Batch], cancelled: Callable[[], bool]) -> Iterator[Batch]:
        for batch in batches:
            if cancelled():
                raise TrainingCancelled(f"training was cancelled in epoch {len(self._rows) + 1}")
            yield batch

    def _save(self, folder: Path, resume: ResumeFile) -> None:
        shuffle = dict(self._shuffle.bit_generator.state)
        resume.save(Progress(tuple(self._rows), self._elapsed_s(), shuffle, self._learner.to_resume()))
        table = io.StringIO()
        writer = csv.DictWriter(table, self._rows[0].keys())
        writer.writeheader()
        writer.writerows(self._rows)
        with replaced_file(folder / LOSSES_NAME) as part:
            part.write_text(table.getvalue())

    def _begun(self, incumbent: Sums | None, skipped: tuple[str, ...]) -> RoundBegun:
        samples = self._samples
        known = () if incumbent is None else self.scan_losses(incumbent, None)
        return RoundBegun(
            scans=samples.trained_scans(),
            num_samples=len(samples.training),
            num_held_out=len(samples.judging),
            skipped=skipped,
            losses=self._column("loss_rad"),
            val_losses=self._column("val_loss_rad"),
            learning_rates=self._column("learning_rate"),
            new_scan_losses={one.scan_id: one.val_loss for one in known if one.is_new},
        )

    def _report(self, row: Row) -> EpochReport:
        done, wanted = len(self._rows), self._settings.num_epochs
        return EpochReport(
            epoch=done,
            num_epochs=wanted,
            loss=row["loss_rad"],
            val_loss=row["val_loss_rad"],
            best_val_loss=row["best_val_loss_rad"],
            learning_rate=row["learning_rate"],
            samples_per_s=row["samples_per_s"],
            time_left_s=row["seconds"] / done * (wanted - done),
            shown_rad=self._shown(),
        )

    def _shown(self) -> FloatArray | None:
        """Labels and predictions of a few held-out frames, (2, K, n, n) rad, NaN where nothing is known."""
        wanted = min(self._settings.shown_frames, len(self._samples.judged))
        if not wanted:
            return None
        spread = np.linspace(0, len(self._samples.judged) - 1, wanted).astype(int)
        found = self._samples.gather(self._samples.judged[spread])
        both = np.stack([found.phase_rad[:, 0], self._learner.predict(found.counts)[:, 0]])
        return np.where(found.mask[:, 0], both, np.float32(np.nan))

    def _checkpoint(self) -> Checkpoint:
        """The network as it is now."""
        newest = self._samples.sets[-1]
        before = self._parent.scans if self._parent else ()
        return Checkpoint(
            state=self._learner.state(),
            scans=tuple(dict.fromkeys((*before, *self._samples.trained_scans()))),
            val_loss=self._rows[-1]["val_loss_rad"],
            incumbent_val_loss=None,
            scan_losses=(),
            num_samples=len(self._samples.training),
            num_held_out=len(self._samples.judging),
            losses=self._column("loss_rad"),
            val_losses=self._column("val_loss_rad"),
            counts_scale=self._counts_scale,
            pixel_size_m=newest.pixel_size_m,
            geometry=newest.geometry,
            probe_intensity=self._samples.probe_intensity(),
            seconds=self._elapsed_s(),
        )

    def _judged_best(self, path: Path, incumbent: Sums | None) -> Checkpoint:
        """The best checkpoint with its losses on all held-out frames, beside the incumbent's."""
        best = load_checkpoint(path)
        self._learner.network.load_state_dict(best.state)
        sums = self.judged(self._samples.judging)
        return replace(
            best,
            val_loss=mean_losses(sums)[0],
            incumbent_val_loss=None if incumbent is None else mean_losses(incumbent)[0],
            scan_losses=self.scan_losses(sums, incumbent),
            losses=self._column("loss_rad"),
            val_losses=self._column("val_loss_rad"),
            seconds=self._elapsed_s(),
        )

    def _result(self, best: Checkpoint, path: Path, ended: str, skipped: tuple[str, ...]) -> TrainResult:
        assert best.val_loss is not None, "it was judged"
        return TrainResult(
            checkpoint_path=path,
            val_loss=best.val_loss,
            incumbent_val_loss=best.incumbent_val_loss,
            losses=best.losses,
            val_losses=best.val_losses,
            best_epoch=_best_epoch(self._rows),
            scans=best.scans,
            scan_losses=best.scan_losses,
            num_samples=best.num_samples,
            num_held_out=best.num_held_out,
            counts_scale=best.counts_scale,
            pixel_size_m=best.pixel_size_m,
            seconds=best.seconds,
            ended=ended,
            skipped=skipped,
        )

    def _untrained(self) -> PtychoNN:
        import torch

        from phasing.network import PtychoNN, start_weights

        network = PtychoNN()
        found = self._samples.gather(self._shuffle.permutation(self._samples.training)[:_START_FRAMES])
        start_weights(network, torch.from_numpy(found.counts) * self._counts_scale)
        return network

    def _column(self, name: str) -> tuple[float, ...]:
        return tuple(row[name] for row in self._rows)

    def _elapsed_s(self) -> float:
        return self._earlier_s + time.monotonic() - self._started_s


def _best_epoch(rows: Sequence[Row]) -> int:
    return 1 + min(range(len(rows)), key=lambda k: rows[k]["val_loss_rad"])


def _check_side(pairs: PairSet) -> None:
    from phasing.network import SIDE_STEP_PX

    side_px = pairs.geometry.frame_px
    if side_px % SIDE_STEP_PX:
        raise TrainingError(
            f"frames of {side_px} px cannot be trained on: the side must be a multiple of {SIDE_STEP_PX}"
        )
