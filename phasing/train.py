"""Continued training of PtychoNN on the union of all scans' training pairs.

Source: Babu et al. 2023, with three repairs: the held-out tenth is the same for ever, the incumbent is judged on the
same frames as the candidate, and the loss is weighted by the probe's amplitude.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phasing.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from phasing.compute import device_name, has_bfloat16, torch_set_up
from phasing.errors import TrainingError
from phasing.pairs import PairSet
from phasing.rounds import CHECKPOINT_NAME, EpochReport, TrainResult, TrainSettings
from phasing.samples import IndexArray, Samples, fitting

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import CyclicLR

    from phasing.network import PtychoNN

__all__ = ["EpochReport", "TrainResult", "TrainSettings", "TrainingCancelled", "train"]

_JUDGED_AT_ONCE = 64
_START_FRAMES = 64
_HALF_CYCLE_SHARE = 6 / 50


class TrainingCancelled(TrainingError):
    """Training was stopped from outside; the best checkpoint so far stays on disk."""


def train(
    pair_sets: Sequence[PairSet],
    settings: TrainSettings,
    parent_checkpoint: Path | None,
    folder: Path,
    report: Callable[[EpochReport], None],
    cancelled: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train on the union of the pair sets, oldest first, starting from the parent's weights where there is one.

    Pair sets that contradict the parent, or else the first set, are left out; the result names them.
    folder: receives `checkpoint.pt`, always complete and always the best so far. report: called after every epoch.
    cancelled: asked before every batch.
    Raises TrainingError when no pair set fits the parent, when there is nothing to train on or to judge by, and when
    the loss is no longer finite; TrainingCancelled; ModelError for a corrupted parent.
    """
    parent = load_checkpoint(parent_checkpoint) if parent_checkpoint else None
    sets, skipped = fitting(pair_sets, parent)
    _check_side(sets[0])
    samples = Samples(sets)
    with torch_set_up(settings.seed, settings.threads):
        training = _Round(samples, settings, parent, cancelled or (lambda: False))
        return replace(training.run(folder / CHECKPOINT_NAME, report), skipped=skipped)


class _Round:
    """One training run; lives as long as the call of train()."""

    def __init__(
        self,
        samples: Samples,
        settings: TrainSettings,
        parent: Checkpoint | None,
        cancelled: Callable[[], bool],
    ) -> None:
        import torch

        from phasing.network import load_network

        self._samples, self._settings, self._cancelled = samples, settings, cancelled
        self._shuffle = np.random.default_rng(settings.seed)
        self._device = torch.device(device_name(settings.device))
        self._counts_scale = parent.counts_scale if parent else samples.counts_scale()
        network = load_network(parent.state) if parent else self._untrained()
        self._network = network.to(self._device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=settings.learning_rate_min)
        self._schedule = _schedule(self._optimizer, settings, len(samples.training))
        self._losses: list[float] = []
        self._val_losses: list[float] = []
        self._incumbent_val_loss = self._judge() if parent else None
        self._started_s = time.monotonic()

    def run(self, path: Path, report: Callable[[EpochReport], None]) -> TrainResult:
        """All epochs; the file at `path` is the best network so far at any moment."""
        path.parent.mkdir(parents=True, exist_ok=True)
        best = self._epoch(path, None, report)
        for _ in range(self._settings.num_epochs - 1):
            best = self._epoch(path, best, report)
        best = replace(best, losses=tuple(self._losses), val_losses=tuple(self._val_losses), seconds=self._elapsed_s())
        save_checkpoint(best, path)
        return self._result(best, path)

    def _epoch(self, path: Path, best: Checkpoint | None, report: Callable[[EpochReport], None]) -> Checkpoint:
        started_s = time.monotonic()
        self._losses.append(self._learn())
        learned_s = time.monotonic() - started_s
        self._val_losses.append(self._judge())
        if best is None or self._val_losses[-1] < best.val_loss:
            best = self._checkpoint()
            save_checkpoint(best, path)
        report(self._report(best, learned_s))
        return best

    def _learn(self) -> float:
        """One pass over the training frames in a new order; their mean loss in rad."""
        import torch

        self._network.train()
        total, order = 0.0, self._shuffle.permutation(self._samples.training)
        for batch in _batches(order, self._settings.batch_size):
            if self._cancelled():
                raise TrainingCancelled(f"training was cancelled in epoch {len(self._losses) + 1}")
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            torch.autograd.backward(loss)
            self._optimizer.step()
            self._schedule.step()
            total += float(loss.detach()) * len(batch)
        return _finite(total / len(order), "training loss")

    def _judge(self) -> float:
        """Mean loss in rad over the held-out frames of all scans."""
        import torch

        self._network.eval()
        with torch.inference_mode():
            losses = [
                float(self._loss(batch)) * len(batch) for batch in _batches(self._samples.judging, _JUDGED_AT_ONCE)
            ]
        return _finite(sum(losses) / len(self._samples.judging), "validation loss")

    def _loss(self, indices: IndexArray) -> "torch.Tensor":
        """Mean absolute error in rad, weighted by the probe's amplitude unless the plain one was asked for."""
        import torch

        counts, phase_rad, weight = (
            torch.from_numpy(array).to(self._device) for array in self._samples.gather(indices)
        )
        scaled = (counts * self._counts_scale).to(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=has_bfloat16(self._device)):
            predicted_rad = self._network(scaled)
        error_rad: torch.Tensor = (predicted_rad.float() - phase_rad).abs()
        return error_rad.mean() if self._settings.plain_loss else (error_rad * weight).mean()

    def _checkpoint(self) -> Checkpoint:
        newest = self._samples.sets[-1]
        return Checkpoint(
            state={key: value.detach().cpu().clone() for key, value in self._network.state_dict().items()},
            scans=tuple(dict.fromkeys(pairs.scan_id for pairs in self._samples.sets)),
            val_loss=self._val_losses[-1],
            incumbent_val_loss=self._incumbent_val_loss,
            losses=tuple(self._losses),
            val_losses=tuple(self._val_losses),
            counts_scale=self._counts_scale,
            pixel_size_m=newest.pixel_size_m,
            geometry=newest.geometry,
            probe_intensity=self._samples.probe_intensity(),
            seconds=self._elapsed_s(),
        )

    def _report(self, best: Checkpoint, learned_s: float) -> EpochReport:
        done, wanted = len(self._losses), self._settings.num_epochs
        return EpochReport(
            epoch=done,
            num_epochs=wanted,
            loss=self._losses[-1],
            val_loss=self._val_losses[-1],
            best_val_loss=best.val_loss,
            learning_rate=float(self._schedule.get_last_lr()[0]),
            samples_per_s=len(self._samples.training) / learned_s,
            time_left_s=self._elapsed_s() / done * (wanted - done),
        )

    def _result(self, best: Checkpoint, path: Path) -> TrainResult:
        return TrainResult(
            checkpoint_path=path,
            val_loss=best.val_loss,
            incumbent_val_loss=self._incumbent_val_loss,
            losses=best.losses,
            val_losses=best.val_losses,
            best_epoch=1 + best.val_losses.index(best.val_loss),
            scans=best.scans,
            num_samples=len(self._samples.training),
            num_held_out=len(self._samples.judging),
            counts_scale=self._counts_scale,
            pixel_size_m=best.pixel_size_m,
            seconds=best.seconds,
        )

    def _untrained(self) -> "PtychoNN":
        import torch

        from phasing.network import PtychoNN, start_weights

        network = PtychoNN()
        counts, _, _ = self._samples.gather(self._shuffle.permutation(self._samples.training)[:_START_FRAMES])
        start_weights(network, torch.from_numpy(counts) * self._counts_scale)
        return network

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s


def _schedule(optimizer: "torch.optim.Optimizer", settings: TrainSettings, num_samples: int) -> "CyclicLR":
    from torch.optim.lr_scheduler import CyclicLR

    batches = -(-num_samples // settings.batch_size)
    half_cycle_epochs = settings.half_cycle_epochs or _HALF_CYCLE_SHARE * settings.num_epochs
    return CyclicLR(
        optimizer,
        settings.learning_rate_min,
        settings.learning_rate_max,
        step_size_up=max(1, round(half_cycle_epochs * batches)),
        mode="triangular2",
        cycle_momentum=False,
    )


def _batches(indices: IndexArray, size: int) -> Iterator[IndexArray]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _finite(loss: float, name: str) -> float:
    if not math.isfinite(loss):
        raise TrainingError(f"the {name} is {loss}: lower the learning rate or look at the training pairs")
    return loss


def _check_side(pairs: PairSet) -> None:
    from phasing.network import SIDE_STEP_PX

    side_px = pairs.geometry.frame_px
    if side_px % SIDE_STEP_PX:
        raise TrainingError(
            f"frames of {side_px} px cannot be trained on: the side must be a multiple of {SIDE_STEP_PX}"
        )
