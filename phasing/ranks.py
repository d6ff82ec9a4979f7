"""The processes that share a training round, one for each GPU: each takes its share of every batch.

The loss of a batch is the same however many processes share it: its sum and its weight are added up over all of
them, so that n processes with b frames each learn what one learns with n b.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import nn


class Ranks:
    """A process on its own: it has every share."""

    index, count = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.index == 0

    def share(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process's part of a batch; may be empty."""
        return indices[self.index :: self.count]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        return values

    def agreed(self, value: float) -> float:
        """The first process's value."""
        return value

    def wait(self) -> None:
        """Wait until every process has come here."""

    def joined(self, network: nn.Module) -> nn.Module:
        """The network as a module whose gradients are the mean over all processes."""
        return network

    def device(self, name: str) -> torch.device:
        """The device that this process computes on, of that kind."""
        import torch

        return torch.device(name)


class TorchRanks(Ranks):
    """A process among several of torch.distributed, as torchrun starts them."""

    def __init__(self) -> None:
        """Take the place that torch.distributed gives."""
        import torch.distributed as distributed

        self.index, self.count = distributed.get_rank(), distributed.get_world_size()

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes."""
        import torch.distributed as distributed

        summed = values.detach().clone()
        distributed.all_reduce(summed)
        return summed

    def agreed(self, value: float) -> float:
        """The first process's value."""
        import torch.distributed as distributed

        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]

    def wait(self) -> None:
        """Wait until every process has come here."""
        import torch.distributed as distributed

        distributed.barrier()

    def joined(self, network: nn.Module) -> nn.Module:
        """The network wrapped in DistributedDataParallel."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(network)

    def device(self, name: str) -> torch.device:
        """A GPU of its own, or the CPU."""
        import torch

        return torch.device(name, self.index % torch.cuda.device_count()) if name == "cuda" else torch.device(name)


@contextmanager
def torch_ranks(device: str) -> Iterator[TorchRanks]:
    """Join the processes that torchrun has started; leave them at the end."""
    import torch
    import torch.distributed as distributed

    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        ranks = TorchRanks()
        if device == "cuda":
            torch.cuda.set_device(ranks.device(device))
        yield ranks
    finally:
        distributed.destroy_process_group()
