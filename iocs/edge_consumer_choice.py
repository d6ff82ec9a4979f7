"""Where frames are predicted: in the stream process itself, or in the consumers of pvapy's streaming framework."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from iocs.edge_accounting import Account
from iocs.edge_batches import Batcher, Model
from iocs.edge_consumer_glimpse import Glimpse
from iocs.edge_consumer_merged import Merged
from iocs.edge_consumers import Consumers
from iocs.edge_messages import Note, Settings, StreamConfig
from iocs.edge_outlet import Outlet
from iocs.edge_trial import Candidate
from iocs.edge_warmer import built
from iocs.stream import NdFrame
from phasing.card import ModelCard

Recent = Sequence[npt.NDArray[Any]]


class Here:
    """One process: frames come from the detector, and the model is built in it."""

    def __init__(self, config: StreamConfig, settings: Settings, outlet: Outlet) -> None:
        self.source = config.source
        self.batches = Batcher(settings, outlet.emit)

    def make(self, candidate: Candidate) -> Model:
        """A model that has passed its trial, ready to serve; ModelError when it does not get ready."""
        return built(candidate)

    def recent(self, taken: Recent) -> Recent:
        """Raw frames (H, W) to try a model on, given those `taken` from the stream."""
        return taken

    def close(self) -> None:
        """Nothing runs here."""


class InConsumers:
    """Several processes: frames come predicted, in the order of ids; raw ones are only looked at now and then."""

    def __init__(
        self,
        config: StreamConfig,
        settings: Settings,
        outlet: Outlet,
        account: Account,
        note: Callable[[Note], None],
    ) -> None:
        self._outlet = outlet
        self._consumers = Consumers(config, settings, note)
        self.source = self._consumers.merged
        self.batches = Merged(settings, outlet.emit, account=account, note=note, configure=self._consumers.set)
        self._glimpse = Glimpse(config.source, config.edge.input_period_s, card=self._card, show=self._show)

    def make(self, candidate: Candidate) -> Model:
        """A model that has passed its trial, serving in all consumers; ModelError when it does not get ready."""
        return self._consumers.adopt(candidate, self.batches.expect)

    def recent(self, taken: Recent) -> Recent:
        """Raw frames (H, W) to try a model on: the stream's come predicted, so those that were looked at."""
        return self._glimpse.recent

    def close(self) -> None:
        """End the consumers and what belongs to them."""
        self._glimpse.close()
        self._consumers.close()

    def _card(self) -> ModelCard | None:
        model = self.batches.model
        return None if model is None else model.card

    def _show(self, frame: NdFrame) -> None:
        self._outlet.show_input(frame, frame.array)
