"""Frames into batches, batches through the engine: several at a time, handed on in order."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iocs.edge_accounting import Scan
from iocs.edge_messages import Settings
from iocs.stream import NdFrame, decode
from phasing.card import ModelCard
from phasing.engines import Engine
from phasing.errors import FrameRejected, ModelError
from phasing.frames import prepare

log = logging.getLogger("phaseline.edge")
FloatArray = npt.NDArray[np.float32]
NEXT_BATCHES = 1
"""Batches that wait for the engine beside those in it: more of them would be smaller than they need to be."""
UNPUBLISHED_PER_ENGINE = 3
"""Batches not yet published for each that the engine predicts at once: an outlet that lags holds the engine up."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A frame on its way through the edge."""

    frame: NdFrame
    scan: Scan
    arrival_ns: int
    since_s: float
    mismatch: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a frame: predicted, empty (no phase, no reason), or rejected with the reason."""

    pending: Pending
    counts: FloatArray | None = None
    phase_rad: FloatArray | None = None
    reason: str = ""


class Model:
    """A network that is ready to serve, what its card says, and the threads that it computes in."""

    def __init__(self, engine: Engine, card: ModelCard) -> None:
        self.engine, self.card = engine, card
        self._pool = ThreadPoolExecutor(engine.parallel, thread_name_prefix=f"model-{card.version}")

    def predict(self, batch: list[Pending], min_counts: float) -> "Future[list[Outcome]]":
        """Have a batch predicted; the outcomes are in its order."""
        return self._pool.submit(_predict, self, batch, min_counts)

    def close(self) -> None:
        """Wait for what is under way and give the engine back."""
        self._pool.shutdown()
        self.engine.close()


def close_retired(model: Model) -> None:
    """Close a model that serves no more; one that fails at that is logged, for others wait for the thread."""
    try:
        model.close()
    except Exception:
        log.exception("model %d does not close", model.card.version)


Emit = Callable[["Future[list[Outcome]]", Model], None]


class Batcher:
    """Closes a batch when it is full or its oldest frame has waited long enough; called from one thread.

    Only so many batches are under way at once. While none more may be, frames gather, and batches get fuller; when two
    batches' worth has gathered, no frame should be taken from the stream's queue, whose bound is the only one.
    """

    def __init__(self, settings: Settings, emit: Emit) -> None:
        """`emit` gets every batch's future in order, and has `done` called when its outcomes are through."""
        self.settings, self._emit = settings, emit
        self._gathered: deque[Pending] = deque()
        self._free = threading.Condition()
        self._unpredicted = self._unpublished = 0
        self.model: Model | None = None

    def decode(self, received: Any) -> NdFrame | None:
        """As `iocs.stream.decode`."""
        return decode(received)

    def card_of(self, frame: NdFrame) -> ModelCard | None:
        """The card of the model that a frame is for; None if there is none."""
        return None if self.model is None else self.model.card

    def takes(self, frame: NdFrame) -> bool:
        """Whether a frame is to be counted and predicted."""
        return self.settings.enabled

    def add(self, pending: Pending) -> None:
        """Take a frame and close a batch if that fills it."""
        self._gathered.append(pending)
        self.close_if_due()

    def close_if_due(self) -> None:
        """Close as many batches as are due and may be under way."""
        while self._due() and self._may_begin():
            self._close()

    def wait_s(self, limit_s: float) -> float:
        """How long the next frame may be waited for, at most `limit_s`; 0 if frames must not be taken now."""
        if len(self._gathered) >= 2 * self.settings.batch_size:
            return 0.0
        if not self._gathered:
            return limit_s
        left_s = self._gathered[0].since_s + self.settings.max_wait_s - time.monotonic()
        return min(limit_s, max(left_s, 1e-3))

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until one more batch may be under way, and close what is due."""
        with self._free:
            self._free.wait_for(self._has_room, timeout_s)
        self.close_if_due()

    def swap(self, model: Model | None) -> Model | None:
        """Let a model or none serve from the next frame on; what has gathered goes to the former, which is returned."""
        self.flush()
        former, self.model = self.model, model
        return former

    def flush(self) -> None:
        """Close whatever has gathered, however many batches are under way."""
        while self._gathered:
            self._close()

    def done(self) -> None:
        """A batch is through; safe from any thread."""
        with self._free:
            self._unpublished -= 1
            self._free.notify()

    def _predicted(self, _: "Future[list[Outcome]]") -> None:
        with self._free:
            self._unpredicted -= 1
            self._free.notify()

    def _due(self) -> bool:
        if not self._gathered:
            return False
        if len(self._gathered) >= self.settings.batch_size:
            return True
        return time.monotonic() - self._gathered[0].since_s >= self.settings.max_wait_s

    def _may_begin(self) -> bool:
        with self._free:
            return self._has_room()

    def _has_room(self) -> bool:
        if self.model is None:
            return True
        parallel = self.model.engine.parallel
        return self._unpredicted < parallel + NEXT_BATCHES and self._unpublished < UNPUBLISHED_PER_ENGINE * parallel

    def _close(self) -> None:
        assert self.model is not None, "frames are gathered for a model only"
        size = min(self.settings.batch_size, len(self._gathered))
        batch = [self._gathered.popleft() for _ in range(size)]
        with self._free:
            self._unpredicted += 1
            self._unpublished += 1
        future = self.model.predict(batch, self.settings.min_counts)
        future.add_done_callback(self._predicted)
        self._emit(future, self.model)


def _predict(model: Model, batch: list[Pending], min_counts: float) -> list[Outcome]:
    """Prepare and predict a batch; nothing that is in it can make it fail as a whole.

    Frames with fewer than min_counts, in the detector's counts over what is cropped, are not predicted.
    """
    counts, reasons = _prepared([pending.frame.array for pending in batch], model.card)
    # Bins hold means: their sum is that of the frame over the pixels of a bin.
    lit = counts.sum(axis=(1, 2)) >= min_counts / model.card.geometry.bin_px**2
    predictions = iter(_predictions(model, counts if lit.all() else counts[lit]))
    frames = zip(counts, lit, strict=True)
    outcomes = []
    for pending, reason in zip(batch, reasons, strict=True):
        if reason:
            outcomes.append(Outcome(pending, reason=reason))
            continue
        frame_counts, is_lit = next(frames)
        phase_rad, reason = next(predictions) if is_lit else (None, "")
        outcomes.append(Outcome(pending, frame_counts, phase_rad, reason))
    return outcomes


def _predictions(model: Model, counts: FloatArray) -> list[tuple[FloatArray | None, str]]:
    """The phase of each of (K, n, n) prepared frames, or the reason why there is none."""
    if not len(counts):
        return []
    try:
        phases_rad = model.engine.infer(counts[:, None])[:, 0]
    except ModelError as error:
        return [(None, f"model {model.card.version}: {error}")] * len(counts)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(phases_rad.sum(axis=(1, 2)))  # what is not finite outlives a sum
    wrong = f"model {model.card.version} predicts no finite phase"
    return [(one, "") if good else (None, wrong) for one, good in zip(phases_rad, finite, strict=True)]


def _prepared(arrays: list[npt.NDArray[Any]], card: ModelCard) -> tuple[FloatArray, list[str]]:
    """Prepared counts (K, n, n) of the frames that can be used, and for each frame the reason if it cannot."""
    if len({(array.shape, array.dtype) for array in arrays}) == 1:
        try:
            return prepare(np.stack(arrays), card.geometry), [""] * len(arrays)
        except FrameRejected:
            pass  # one of them, and only that one, is told below
    found: list[FloatArray] = []
    reasons = []
    for array in arrays:
        try:
            found.append(prepare(array[None], card.geometry))
            reasons.append("")
        except FrameRejected as error:
            reasons.append(str(error))
    return np.concatenate(found) if found else np.empty((0, *card.input_shape[1:]), np.float32), reasons
