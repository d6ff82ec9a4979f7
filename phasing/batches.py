"""Batches of samples on the device that trains: read and turned by threads, ahead of when they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from phasing.samples import IndexArray, Samples

if TYPE_CHECKING:
    from phasing.ranks import Ranks

_AHEAD = 2
"""Batches that lie ready for each reading thread."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples on the device: counts, phase_rad and mask (B, 1, n, n); owner, which pair set each is of, (B,) int64.

    indices: of the samples, on the CPU. counts_for: 0 where the batch has no share for this process, which then
    computes one sample for nothing, because all processes compute each batch together; else 1.
    """

    indices: IndexArray
    counts: torch.Tensor
    phase_rad: torch.Tensor
    mask: torch.Tensor
    owner: torch.Tensor
    counts_for: int


class Batches:
    """Owns the threads that read samples from disk."""

    def __init__(self, samples: Samples, device: torch.device, ranks: Ranks) -> None:
        """Read for one device."""
        self._samples, self._device, self._ranks = samples, device, ranks
        self._num_readers = 1 if device.type == "cpu" else 4
        self._pool = ThreadPoolExecutor(self._num_readers, "samples")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def of(self, order: IndexArray, size: int, operations: IndexArray | None = None) -> Iterator[Batch]:
        """This process's share of batches of `size` samples a process, in this order; `operations` turn each."""
        size *= self._ranks.count
        ready: deque[Future[Batch]] = deque()
        for start in range(0, len(order), size):
            part = slice(start, start + size)
            job = partial(self._read, order[part], None if operations is None else operations[part])
            ready.append(self._pool.submit(job))
            if len(ready) > _AHEAD * self._num_readers:
                yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()

    def _read(self, order: IndexArray, operations: IndexArray | None) -> Batch:
        mine = self._ranks.share(order)
        turns = None if operations is None else self._ranks.share(operations)
        counts_for = min(1, len(mine))
        if not counts_for:
            mine, turns = order[:1], None
        found = self._samples.gather(mine, turns)
        counts, phase_rad, mask, owner = map(self._sent, (found.counts, found.phase_rad, found.mask, found.owner))
        counts = counts.contiguous(memory_format=torch.channels_last)
        return Batch(mine, counts, phase_rad, mask, owner, counts_for)

    def _sent(self, array: object) -> torch.Tensor:
        tensor = torch.as_tensor(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
