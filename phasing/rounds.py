"""What a training round is told, what it says while it runs, and what it leaves."""

from dataclasses import dataclass
from pathlib import Path

from phasing.errors import TrainingError

CHECKPOINT_NAME = "checkpoint.pt"
"""What a round calls the weights that it leaves in its folder."""


@dataclass(frozen=True)
class TrainSettings:
    """How one round is trained.

    batch_size: frames a step. learning_rate_min, learning_rate_max, half_cycle_epochs: CyclicLR's triangular2,
    stepped every batch; half a cycle None is the paper's share, 6 of 50 epochs. plain_loss: mean absolute error
    without the probe's weight. threads: None takes all cores but one. device: cpu, cuda, or auto for a GPU where
    there is one.
    """

    num_epochs: int = 20
    batch_size: int = 16
    learning_rate_min: float = 1e-4
    learning_rate_max: float = 5e-4
    half_cycle_epochs: float | None = None
    plain_loss: bool = False
    seed: int = 0
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for field in ("num_epochs", "batch_size", "learning_rate_min"):
            if getattr(self, field) <= 0:
                raise TrainingError(f"{field} must be above 0, not {getattr(self, field)}")
        if self.learning_rate_max < self.learning_rate_min:
            raise TrainingError("learning_rate_max must not be below learning_rate_min")


@dataclass(frozen=True)
class EpochReport:
    """One epoch of a round, counted from 1; losses in rad."""

    epoch: int
    num_epochs: int
    loss: float
    val_loss: float
    best_val_loss: float
    learning_rate: float
    samples_per_s: float
    time_left_s: float


@dataclass(frozen=True)
class TrainResult:
    """What a round left: the best checkpoint, and how it and its parent do on the same held-out frames (rad).

    skipped: one line for each scan that was left out, with the reason.
    """

    checkpoint_path: Path
    val_loss: float
    incumbent_val_loss: float | None
    losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    best_epoch: int
    scans: tuple[str, ...]
    num_samples: int
    num_held_out: int
    counts_scale: float
    pixel_size_m: float
    seconds: float
    skipped: tuple[str, ...] = ()
