"""What a training round is told, what it says while it runs, and what it leaves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phasing.errors import TrainingError

CHECKPOINT_NAME = "checkpoint.pt"
"""What a round calls the weights that it leaves in its folder."""
LOSSES_NAME = "losses.csv"
"""What a round calls its losses by epoch, for people without EPICS."""
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainSettings:
    """How one round is trained; by default as in arXiv 2304.04297.

    batch_size: frames a step on each device. learning_rate_min, learning_rate_max, half_cycle_epochs: CyclicLR's
    triangular2, stepped every batch; half a cycle None is the paper's share, 6 of 50 epochs. plain_loss: mean absolute
    error without the probe's weight.
    last_scans, reservoir_frames: train on the scans of the last n ids, or on so many frames drawn from all scans, the
    same ones for the same seed as long as no new ones come; 0 for all. min_counts: frames with fewer counts are empty.
    augment_overlap: the symmetries under which the probe is its own image to at least this share turn and mirror the
    pairs; 0 for none.
    patience_epochs: the round ends when so many epochs bring no better loss; 0 for never. max_seconds: no epoch begins
    that would end later than this after the round began; 0 for no limit.
    judged_frames: held-out frames that are judged after every epoch, at most; all of them are in the end.
    shown_frames: held-out frames whose prediction every epoch shows. threads: None takes all cores but one. device:
    cpu, cuda, or auto for a GPU where there is one. precision: of the network while it learns; auto is bfloat16 where
    the hardware has it, else float16 on a GPU, else float32. processes: that share a round, one for each GPU; 0 for all
    GPUs.
    """

    num_epochs: int = 50
    batch_size: int = 64
    learning_rate_min: float = 1e-4
    learning_rate_max: float = 5e-4
    half_cycle_epochs: float | None = None
    plain_loss: bool = False
    last_scans: int = 0
    reservoir_frames: int = 0
    min_counts: float = 0.0
    augment_overlap: float = 0.0
    patience_epochs: int = 0
    max_seconds: float = 0.0
    judged_frames: int = 2048
    shown_frames: int = 4
    seed: int = 0
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "learning_rate_min", "judged_frames"):
            if getattr(self, name) <= 0:
                raise TrainingError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("last_scans", "reservoir_frames", "min_counts", "patience_epochs", "max_seconds", "processes"):
            if getattr(self, name) < 0:
                raise TrainingError(f"{name} must not be below 0, not {getattr(self, name)}")
        if self.learning_rate_max < self.learning_rate_min:
            raise TrainingError("learning_rate_max must not be below learning_rate_min")
        if self.last_scans and self.reservoir_frames:
            raise TrainingError("last_scans and reservoir_frames exclude one another")
        if not 0.0 <= self.augment_overlap <= 1.0:
            raise TrainingError(f"augment_overlap must be from 0 to 1, not {self.augment_overlap}")
        if self.precision not in PRECISIONS:
            raise TrainingError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision}")


@dataclass(frozen=True)
class ScanLoss:
    """How candidate and incumbent do on the held-out frames of one scan, in rad.

    is_new: the incumbent had not learned from this scan.
    """

    scan_id: str
    num_frames: int
    val_loss: float
    incumbent_val_loss: float | None = None
    is_new: bool = True


@dataclass(frozen=True)
class RoundBegun:
    """What a round is about: how many frames of how many scans; epochs that an earlier attempt has done already.

    new_scan_losses: the incumbent's loss in rad on scans that it had not learned from, by scan.
    """

    scans: tuple[str, ...]
    num_samples: int
    num_held_out: int
    skipped: tuple[str, ...]
    losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    learning_rates: tuple[float, ...]
    new_scan_losses: dict[str, float]


@dataclass(frozen=True, eq=False)
class EpochReport:
    """One epoch of a round, counted from 1; losses in rad.

    shown_rad: (2, K, n, n) float32, labels and predictions of K held-out frames, NaN where nothing is known.
    """

    epoch: int
    num_epochs: int
    loss: float
    val_loss: float
    best_val_loss: float
    learning_rate: float
    samples_per_s: float
    time_left_s: float
    shown_rad: npt.NDArray[np.float32] | None = field(default=None, repr=False)

    def figures(self) -> dict[str, Any]:
        """The numbers, by name."""
        return {name: value for name, value in vars(self).items() if name != "shown_rad"}


Report = RoundBegun | EpochReport


@dataclass(frozen=True)
class TrainResult:
    """What a round left: the best checkpoint, and how it and its parent do on the same held-out frames (rad).

    val_losses: by epoch, on the frames that every epoch is judged by. scan_losses: on all held-out frames, scan by
    scan. skipped: one line for each scan that was left out, with the reason. ended: why no further epoch came.
    """

    checkpoint_path: Path
    val_loss: float
    incumbent_val_loss: float | None
    losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    best_epoch: int
    scans: tuple[str, ...]
    scan_losses: tuple[ScanLoss, ...]
    num_samples: int
    num_held_out: int
    counts_scale: float
    pixel_size_m: float
    seconds: float
    ended: str
    skipped: tuple[str, ...] = ()
