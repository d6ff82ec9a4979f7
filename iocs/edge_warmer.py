"""Builds the next engine beside the running one and tries it on real recent frames, in a thread of its own."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from iocs.edge_models import KeptModel
from iocs.edge_pipeline import Model
from phasing.card import ModelCard
from phasing.engines import Engine, build_engine
from phasing.errors import FrameRejected, ModelError, PhaselineError
from phasing.frames import prepare

LOW_PRIORITY = 10


class Warmer:
    """One model at a time on its way to going live; a newer request replaces one that still waits."""

    def __init__(self, *, engine: str, threads: int) -> None:
        self._engine, self._threads = engine, threads
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next: Callable[[], None] | None = None
        self._ready: list[tuple[KeptModel, Model | str]] = []

    def warm(self, kept: KeptModel, batch_size: int, recent: Sequence[npt.NDArray[Any]]) -> None:
        """Begin to build a model; `recent` are raw frames (H, W) that it is tried on."""
        frames = list(recent)
        with self._lock:
            self._next = lambda: self._build(kept, batch_size, frames)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="warmer", daemon=True)
                self._thread.start()

    def ready(self) -> tuple[KeptModel, Model | str] | None:
        """A model that is done: ready to serve, or with the reason why it is not."""
        with self._lock:
            return self._ready.pop(0) if self._ready else None

    def join(self) -> None:
        """Wait for the thread to end."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)
        while True:
            with self._lock:
                job, self._next = self._next, None
                if job is None:
                    self._thread = None
                    return
            job()

    def _build(self, kept: KeptModel, batch_size: int, recent: list[npt.NDArray[Any]]) -> None:
        try:
            result: Model | str = load(kept, self._engine, self._threads, batch_size, recent)
        except (PhaselineError, OSError, MemoryError) as error:
            result = str(error) or type(error).__name__
        with self._lock:
            self._ready.append((kept, result))


def load(kept: KeptModel, engine_name: str, threads: int, batch_size: int, recent: Sequence[npt.NDArray[Any]]) -> Model:
    """Build and try the engine of a model on disk; ModelError with the reason when it must not go live."""
    try:
        card = ModelCard.from_json(json.loads(kept.card.read_text()))
    except ValueError as error:
        raise ModelError(f"its card is not JSON: {error}") from error
    engine = build_engine(kept.onnx.read_bytes(), card, name=engine_name, batch_size=batch_size, threads=threads)
    try:
        _try(engine, card, recent)
    except ModelError:
        engine.close()
        raise
    return Model(engine, card)


def _try(engine: Engine, card: ModelCard, recent: Sequence[npt.NDArray[Any]]) -> None:
    """Predict real frames; those that the model's geometry does not fit are another detector's and say nothing."""
    for raw in recent:
        try:
            counts = prepare(raw[None], card.geometry)
        except FrameRejected:
            continue
        if not np.isfinite(engine.infer(counts[:, None])).all():
            raise ModelError("it predicts NaN on real frames")
