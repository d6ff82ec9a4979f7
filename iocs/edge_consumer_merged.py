"""The consumers' merged stream as the edge's stream process takes it: in place of batches and a model of its own."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from iocs.edge_accounting import Account
from iocs.edge_batches import Emit, FloatArray, Model, Outcome, Pending
from iocs.edge_consumer_orders import OUTCOME, REASON, VERSION, Answer, Became
from iocs.edge_messages import Note, Settings
from iocs.stream import NdFrame, decode
from phasing.card import ModelCard
from phasing.errors import FrameRejected, ModelError
from pvdb import Severity

MOST_UNDER_WAY = 64
"""Frames that may wait to be published; the others stay in the stream's queue, whose bound is the only one."""
CARDS_KEPT = 4


class RemoteEngine:
    """What is known here of an engine that computes elsewhere."""

    batch_size = None
    parallel = 1

    def __init__(self, name: str, difference_rad: float | None = None, remark: str = "") -> None:
        self.name, self.difference_rad, self.remark = name[:39], difference_rad, remark

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "RemoteEngine":
        """The engines of all consumers as one: the first one's name, the largest difference, every remark once."""
        differences = [answer.difference_rad for answer in answers if answer.difference_rad is not None]
        remarks = dict.fromkeys(answer.remark for answer in answers if answer.remark)
        return cls(f"{len(answers)} x {answers[0].engine}", max(differences, default=None), "; ".join(remarks))

    def infer(self, counts: FloatArray) -> FloatArray:
        """Raise ModelError: frames are predicted by the consumers."""
        raise ModelError("frames are predicted by the consumers")

    def close(self) -> None:
        """Nothing is held here."""


class Merged:
    """Turns frames that come predicted into outcomes; has the methods of Batcher, and is called as that is."""

    def __init__(
        self,
        settings: Settings,
        emit: Emit,
        *,
        account: Account,
        note: Callable[[Note], None],
        configure: Callable[[Settings], None],
    ) -> None:
        """`emit` gets every frame's outcome; `configure` tells the consumers the setpoints."""
        self._settings, self._emit, self._account, self._note = settings, emit, account, note
        self._configure = configure
        self._cards: dict[int, Model] = {}
        self._free = threading.Condition()
        self._under_way = 0
        self.model: Model | None = None

    @property
    def settings(self) -> Settings:
        """Setpoints in force."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        self._configure(settings)

    def decode(self, received: Any) -> NdFrame | None:
        """As `iocs.stream.decode`; raises FrameRejected too for what a consumer could not read."""
        frame = decode(received)
        if frame is not None and _became(frame) is Became.REJECTED and not frame.attributes.get(VERSION):
            raise FrameRejected(str(frame.attributes.get(REASON, "")))
        return frame

    def expect(self, card: ModelCard) -> None:
        """Know a model before its first frame comes; safe from any thread."""
        with self._free:
            self._cards[card.version] = Model(RemoteEngine(""), card)
            while len(self._cards) > CARDS_KEPT:
                del self._cards[next(iter(self._cards))]

    def card_of(self, frame: NdFrame) -> ModelCard | None:
        """The card of the model that a frame was for; None if there was none."""
        if _became(frame) is Became.NO_MODEL:
            return None
        model = self._model_of(frame)
        return None if model is None else model.card

    def takes(self, frame: NdFrame) -> bool:
        """Whether a frame is to be counted: neither here nor in its consumer was the edge disabled."""
        return self._settings.enabled and _became(frame) is not Became.DISABLED

    def add(self, pending: Pending) -> None:
        """Hand on what became of a frame."""
        frame = pending.frame
        became, reason, model = _became(frame), str(frame.attributes.get(REASON, "")), self._model_of(frame)
        pending = replace(pending, frame=_plain(frame))
        if became is Became.DROPPED:
            self._account.count(pending.scan, "dropped")
            self._note(Note(f"frame {frame.unique_id} dropped: its consumer's queue is full", Severity.MAJOR))
            return
        assert model is not None, "frames without a model are counted before"
        done: Future[list[Outcome]] = Future()
        done.set_result([Outcome(pending, None, frame.array if became is Became.PREDICTED else None, reason)])
        with self._free:
            self._under_way += 1
        self._emit(done, model)

    def close_if_due(self) -> None:
        """Nothing gathers here."""

    def flush(self) -> None:
        """Nothing gathers here."""

    def wait_s(self, limit_s: float) -> float:
        """How long the next frame may be waited for; 0 if frames must not be taken now."""
        with self._free:
            return limit_s if self._has_room() else 0.0

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until another frame may be taken."""
        with self._free:
            self._free.wait_for(self._has_room, timeout_s)

    def swap(self, model: Model) -> Model | None:
        """Note which model serves; the consumers have swapped before, and nothing is to be closed here."""
        self.model = model
        return None

    def done(self) -> None:
        """A frame is through; safe from any thread."""
        with self._free:
            self._under_way -= 1
            self._free.notify()

    def _has_room(self) -> bool:
        return self._under_way < MOST_UNDER_WAY

    def _model_of(self, frame: NdFrame) -> Model | None:
        version = frame.attributes.get(VERSION)
        with self._free:
            known = self._cards.get(version) if isinstance(version, int) else None
        return known or self.model


def _became(frame: NdFrame) -> Became:
    try:
        return Became(str(frame.attributes.get(OUTCOME)))
    except ValueError:
        return Became.NO_MODEL


def _plain(frame: NdFrame) -> NdFrame:
    """A frame without what its consumer added."""
    added = {OUTCOME, REASON, VERSION}
    return replace(frame, attributes={name: value for name, value in frame.attributes.items() if name not in added})
