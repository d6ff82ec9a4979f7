"""An engine of any number of frames from a network of some: padding, splitting, and taking turns."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from phasing.engines.protocol import FloatArray, Network, cannot_infer
from phasing.errors import ModelError, PhaselineError

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A network behind the Engine protocol. frame_shape: (1, n, n) of one frame."""

    network: Network
    frame_shape: tuple[int, int, int]
    difference_rad: float | None = None
    remark: str = ""

    @property
    def name(self) -> str:
        """Library, device and precision."""
        return self.network.name

    @property
    def batch_size(self) -> int | None:
        """The only number of frames that the network takes at once."""
        return self.network.batch_size

    @property
    def parallel(self) -> int:
        """How many threads may compute at the same time."""
        return self.network.parallel

    def infer(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) float32 prepared counts to phase in rad, in as many calls of the network as B needs."""
        if counts.shape[1:] != self.frame_shape:
            raise ModelError(f"{self.name} takes frames of shape {self.frame_shape}, not {counts.shape[1:]}")
        most = self.network.batch_size or self.network.largest or len(counts)
        if len(counts) <= most:
            return self._part(counts)
        return np.concatenate([self._part(counts[start : start + most]) for start in range(0, len(counts), most)])

    def close(self) -> None:
        """Give the network's memory and threads back."""
        self.network.close()

    def _part(self, counts: FloatArray) -> FloatArray:
        fixed = self.network.batch_size
        if fixed is None or fixed == len(counts):
            return self._run(counts)
        padded = np.zeros((fixed, *self.frame_shape), np.float32)
        padded[: len(counts)] = counts
        return self._run(padded)[: len(counts)].copy()

    def _run(self, counts: FloatArray) -> FloatArray:
        try:
            phase_rad = self.network.run(counts)
        except (PhaselineError, MemoryError):
            raise
        except Exception as error:
            raise cannot_infer(self.name, error) from error
        if phase_rad.shape != counts.shape:
            raise ModelError(f"{self.name}: output has shape {phase_rad.shape}, expected {counts.shape}")
        return phase_rad


class Turns(Generic[T]):
    """Things of which each serves one thread at a time; who comes when all are taken waits."""

    def __init__(self, things: list[T]) -> None:
        # First in, first out: calls one after the other go round, so that a few of them warm all.
        self._free: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._count = len(things)
        for thing in things:
            self._free.put(thing)

    @contextmanager
    def one(self) -> Iterator[T]:
        """One of them, for this thread alone."""
        thing = self._free.get()
        try:
            yield thing
        finally:
            self._free.put(thing)

    def take_all(self) -> list[T]:
        """All of them, once those at work are done; nobody gets one afterwards, and none is held here."""
        count, self._count = self._count, 0
        return [self._free.get() for _ in range(count)]
