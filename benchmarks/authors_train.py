"""Training as the authors of arXiv 2304.04297 published it, beside ours: float32, contiguous, a DataLoader.

Rebuilt from what is known of their code: all pairs in memory, batches of 64 from a DataLoader with 4 workers that
shuffles, Adam, CyclicLR triangular2 stepped per batch, plain mean absolute error. Mixed precision only on a GPU.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import CyclicLR
from torch.utils.data import DataLoader, TensorDataset

from phasing.network import PtychoNN, load_network
from phasing.pairs import PairSet
from phasing.rounds import TrainSettings
from phasing.samples import Samples

WORKERS = 4


class AuthorsLoop:
    """Their loop on the frames that we train on and judge by; weights as given."""

    def __init__(
        self, sets: Sequence[PairSet], settings: TrainSettings, state: dict[str, torch.Tensor], counts_scale: float
    ) -> None:
        """Load everything into memory, as they do."""
        samples = Samples(sets, settings)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        training, judging = (
            _dataset(samples, indices, counts_scale) for indices in (samples.training, samples.judging)
        )
        pinned = self._device.type == "cuda"
        self._training: DataLoader[Any] = DataLoader(
            training, batch_size=settings.batch_size, shuffle=True, num_workers=WORKERS, pin_memory=pinned
        )
        self._judging: DataLoader[Any] = DataLoader(
            judging, batch_size=settings.batch_size, num_workers=WORKERS, pin_memory=pinned
        )
        self.network: PtychoNN = load_network(state).to(self._device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate_min)
        half_cycle = 6 * len(self._training) * settings.num_epochs // 50
        self._schedule = CyclicLR(
            self._optimizer,
            settings.learning_rate_min,
            settings.learning_rate_max,
            step_size_up=max(1, half_cycle),
            mode="triangular2",
            cycle_momentum=False,
        )
        self._num_training = len(samples.training)

    def epoch(self) -> float:
        """One pass over the training frames; returns samples a second."""
        self.network.train()
        began_s = time.monotonic()
        for counts, phase_rad in self._training:
            self._optimizer.zero_grad()
            with self._mixed():
                loss = (self.network(counts.to(self._device)) - phase_rad.to(self._device)).abs().mean()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            loss.item()
        return self._num_training / (time.monotonic() - began_s)

    def val_loss(self) -> float:
        """Mean absolute error in rad on the held-out frames."""
        self.network.eval()
        errors = []
        with torch.inference_mode(), self._mixed():
            for counts, phase_rad in self._judging:
                error = (self.network(counts.to(self._device)) - phase_rad.to(self._device)).abs()
                errors += error.mean(dim=(1, 2, 3)).tolist()
        return float(np.mean(errors))

    def _mixed(self) -> Any:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda")


def mean_absolute_error(
    network: Callable[[torch.Tensor], torch.Tensor], sets: Sequence[PairSet], settings: TrainSettings, scale: float
) -> float:
    """The plain mean absolute error in rad over all held-out frames, in float32: the measure for both loops."""
    samples = Samples(sets, settings)
    found = samples.gather(samples.judging)
    with torch.inference_mode():
        predicted_rad = torch.cat([network(part) for part in (torch.from_numpy(found.counts) * scale).split(64)])
    return float((predicted_rad - torch.from_numpy(found.phase_rad)).abs().mean())


def _dataset(samples: Samples, indices: np.ndarray, counts_scale: float) -> TensorDataset:
    found = samples.gather(indices)
    return TensorDataset(torch.from_numpy(found.counts) * counts_scale, torch.from_numpy(found.phase_rad))
