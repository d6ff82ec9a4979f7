"""One network that learns: its optimizer, its learning rate, the loss, and the losses of scans that it is judged by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim.lr_scheduler import CyclicLR

from phasing.compute import short_float
from phasing.samples import finite

if TYPE_CHECKING:
    from phasing.batches import Batch
    from phasing.network import PtychoNN
    from phasing.ranks import Ranks
    from phasing.rounds import TrainSettings
    from phasing.samples import FloatArray, Samples, Sums

_HALF_CYCLE_SHARE = 6 / 50


class Learner:
    """Adam on the mean absolute error in rad over all pixels that are known, weighted by the probe's amplitude.

    Source: Babu et al. 2023 (Adam, CyclicLR triangular2 stepped per batch); the weight and the mask are ours.
    """

    def __init__(
        self,
        network: PtychoNN,
        samples: Samples,
        settings: TrainSettings,
        counts_scale: float,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        """Take a network over; it is moved to the device."""
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self._samples, self._ranks, self._device = samples, ranks, device
        self._joined = ranks.joined(self.network)
        self._counts_scale = counts_scale
        self._weights = torch.from_numpy(samples.weights(plain=settings.plain_loss)).to(device)
        self._short = short_float(device, settings.precision)
        is_cuda = device.type == "cuda"
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=settings.learning_rate_min, fused=True if is_cuda else None
        )
        # float16 has so few exponents that small gradients vanish unless they are scaled
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._short is torch.float16)
        self._schedule = _schedule(self._optimizer, settings, len(samples.training), ranks.count)

    @property
    def learning_rate(self) -> float:
        """The rate of the next batch."""
        return float(self._schedule.get_last_lr()[0])

    def learn(self, batches: Iterable[Batch]) -> float:
        """One step for every batch; the mean loss in rad. Raises TrainingError when it is not finite."""
        self._joined.train()
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for batch in batches:
            self._optimizer.zero_grad(set_to_none=True)
            error, weight = (part.sum() for part in self._errors(self._joined, batch))
            whole_weight = self._ranks.total(weight)
            # each process's gradients are averaged afterwards: the sum of all shares is wanted
            torch.autograd.backward(self._scaler.scale(error / whole_weight * self._ranks.count))
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._schedule.step()
            sums += torch.stack([error.detach(), weight])
        error_sum, weight_sum = self._ranks.total(sums).tolist()
        return finite(error_sum / weight_sum, "training loss")

    def judge(self, batches: Iterable[Batch]) -> Sums:
        """Sums of weighted errors in rad and of weights for each of the samples' scans."""
        self.network.eval()
        sums = torch.zeros(len(self._samples.scans), 2, dtype=torch.float64, device=self._device)
        with torch.inference_mode():
            for batch in batches:
                scans = torch.from_numpy(self._samples.scan_of(batch.indices)).to(self._device)
                errors = torch.stack(self._errors(self.network, batch), dim=1).double()
                # no index_add_: on a GPU it adds up in any order
                sums += torch.nn.functional.one_hot(scans, len(sums)).double().T @ errors
        return np.asarray(self._ranks.total(sums).cpu().numpy())

    def predict(self, counts: FloatArray) -> FloatArray:
        """Phase in rad of prepared frames (B, 1, n, n)."""
        self.network.eval()
        with torch.inference_mode():
            return np.asarray(self._predicted(self.network, torch.from_numpy(counts).to(self._device)).cpu().numpy())

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the network's weights on the CPU."""
        return {key: value.detach().cpu().clone() for key, value in self.network.state_dict().items()}

    def to_resume(self) -> dict[str, Any]:
        """All that learning goes on from."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from what `to_resume` gave."""
        self.network.load_state_dict(saved["network"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._schedule.load_state_dict(saved["schedule"])
        self._scaler.load_state_dict(saved["scaler"])

    def _predicted(self, network: torch.nn.Module, counts: torch.Tensor) -> torch.Tensor:
        scaled = counts * self._counts_scale
        with torch.autocast(self._device.type, self._short, enabled=self._short is not None):
            predicted: torch.Tensor = network(scaled)
        return predicted.float()

    def _errors(self, network: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted absolute errors and weights, each summed over the pixels of every sample, (B,)."""
        weight = self._weights[batch.owner] * batch.mask * batch.counts_for
        error = (self._predicted(network, batch.counts) - batch.phase_rad).abs() * weight
        return error.sum(dim=(1, 2, 3)), weight.sum(dim=(1, 2, 3))


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainSettings, num_samples: int, num_processes: int
) -> CyclicLR:
    batches = -(-num_samples // (settings.batch_size * num_processes))
    half_cycle_epochs = settings.half_cycle_epochs or _HALF_CYCLE_SHARE * settings.num_epochs
    return CyclicLR(
        optimizer,
        settings.learning_rate_min,
        settings.learning_rate_max,
        step_size_up=max(1, round(half_cycle_epochs * batches)),
        mode="triangular2",
        cycle_momentum=False,
    )
