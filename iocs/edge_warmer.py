"""Makes the next model ready beside the running one: tried in a process of its own, then built in a thread here."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from iocs.config import EdgeSection
from iocs.edge_batches import Model, close_retired
from iocs.edge_messages import LoadModel
from iocs.edge_models import KeptModel
from iocs.edge_trial import Candidate, Trials, build, reason_of
from phasing.compute import cores_available
from phasing.engines import EngineOptions

PARALLEL = 4
"""Batches predicted at the same time unless configured: each on threads of its own waits for no other."""
CLOSE_S = 1.0
"""How long the end of the thread is waited for: a build cannot be called off, and the process does not stay for it."""


def built(candidate: Candidate) -> Model:
    """A model built in this process; ModelError when it cannot be."""
    return Model(*build(candidate))


class Warmer:
    """One model at a time on its way to going live; a newer request replaces one that still waits.

    Whatever happens to a model, the thread is there for the next one.
    """

    def __init__(self, edge: EdgeSection, cache: Path, make: Callable[[Candidate], Model] = built) -> None:
        """`cache` is the folder of what engines compile; `make` gets a model ready that has passed its trial."""
        self._edge, self._cache, self._make = edge, cache, make
        self._changed = threading.Condition()
        self._wanted: tuple[LoadModel, Candidate] | None = None
        self._retired: list[Model] = []
        self._ready: list[tuple[KeptModel, Model | str]] = []
        self._trials = Trials()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="edge-warmer", daemon=True)
        self._thread.start()

    def warm(self, command: LoadModel, batch_size: int, recent: Iterable[npt.NDArray[Any]]) -> None:
        """Begin to make a model ready; `recent` are raw frames (H, W) that it is tried on."""
        candidate = Candidate(command.model, self._options(batch_size), list(recent))
        with self._changed:
            self._wanted = command, candidate
            self._changed.notify()

    def retire(self, model: Model) -> None:
        """Close a model that serves no more, when its last batch is through."""
        with self._changed:
            self._retired.append(model)
            self._changed.notify()

    def ready(self) -> tuple[KeptModel, Model | str] | None:
        """A model that is done: ready to serve, or with the reason why it is not."""
        with self._changed:
            return self._ready.pop(0) if self._ready else None

    def close(self) -> None:
        """End a trial that runs, and the thread, unless it is in the middle of a build."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._trials.end()
        self._thread.join(CLOSE_S)

    def _options(self, batch_size: int) -> EngineOptions:
        edge = self._edge
        threads = edge.threads or cores_available()
        parallel = edge.parallel or min(threads, PARALLEL)
        return EngineOptions(
            name=edge.engine,
            batch_size=batch_size,
            threads=threads,
            parallel=parallel,
            precision=edge.precision,
            providers=edge.providers,
            max_difference_rad=edge.max_difference_rad,
            cache=self._cache,
        )

    def _work(self) -> None:
        while self._something_to_do():
            self._close_retired()
            self._make_wanted()

    def _something_to_do(self) -> bool:
        """Wait for a model to make or to close; false at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._wanted or self._retired)
            return not self._closed

    # Each of these forgets its models when it returns: what the thread held while it waits would not be freed.

    def _close_retired(self) -> None:
        with self._changed:
            retired, self._retired = self._retired, []
        for model in retired:
            close_retired(model)

    def _make_wanted(self) -> None:
        with self._changed:
            wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        command, candidate = wanted
        result = self._made(candidate, proven=command.proven)
        with self._changed:
            self._ready.append((command.model, result))

    def _made(self, candidate: Candidate, *, proven: bool) -> Model | str:
        """The model, or why it must not go live; one that has served here before is not tried again.

        It is built without frames: what its trial chose for it is kept.
        """
        try:
            reason = "" if proven else self._trials.reason_against(candidate, self._edge.model_timeout_s)
            return reason or self._make(replace(candidate, recent=()))
        except Exception as error:  # noqa: BLE001  (it is the answer, and the next model needs this thread)
            return reason_of(error)
