"""The trial of a model in a process of its own, at the lowest priority, before it may come near the frames.

What a model's library does with a bad network is not ours to know: it may take for ever, or take the process along.
Here it takes none that serves. What was built is kept on disk where the engine can: building it again is quick.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from iocs.edge_models import KeptModel
from phasing.card import ModelCard
from phasing.engines import Engine, EngineOptions, build_engine
from phasing.errors import FrameRejected, ModelError, PhaselineError
from phasing.frames import prepare

LOWEST_PRIORITY = 19
KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model on disk, how to build it, and raw frames (H, W) that it is tried on."""

    kept: KeptModel
    options: EngineOptions
    recent: Sequence[npt.NDArray[Any]]


def build(candidate: Candidate) -> tuple[Engine, ModelCard]:
    """Build and try the engine of a model on disk; ModelError with the reason when it must not go live."""
    kept = candidate.kept
    onnx = kept.onnx.read_bytes()
    if sha256(onnx).hexdigest() != kept.announcement.digest:
        raise ModelError("its file has changed: the digest is not the announced one")
    try:
        card = ModelCard.from_json(json.loads(kept.card.read_text()))
    except ValueError as error:
        raise ModelError(f"its card is not JSON: {error}") from error
    return build_engine(onnx, card, candidate.options, _prepared(candidate.recent, card)), card


class Trial:
    """One trial; may be ended from another thread."""

    def __init__(self, candidate: Candidate) -> None:
        """Start the process; `candidate` reaches it as a copy."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(candidate, theirs), name="edge-trial")
        # A process inherits the priority of the thread that starts it, which cannot be raised again afterwards.
        starter = threading.Thread(target=self._start, name="edge-trial-start")
        starter.start()
        starter.join()
        theirs.close()

    def _start(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        self._process.start()

    @property
    def process_id(self) -> int:
        """The process that builds the model."""
        return int(self._process.pid or 0)

    @property
    def is_running(self) -> bool:
        """Whether that process is there."""
        return self._process.is_alive()

    def reason_against(self, timeout_s: float) -> str:
        """Wait for the verdict: why the model must not go live, empty when it may."""
        try:
            if not self._pipe.poll(timeout_s):
                return f"it was not built within {timeout_s:g} s"
            return str(self._pipe.recv())
        except (EOFError, OSError):
            self._process.join(KILL_TIMEOUT_S)
            status = self._process.exitcode or 0
            return f"the process that tried it died ({f'signal {-status}' if status < 0 else f'status {status}'})"
        finally:
            self.end()

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()


def _run(candidate: Candidate, verdict: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        engine, _ = build(candidate)
        engine.close()
    except (PhaselineError, OSError, MemoryError) as error:
        verdict.send(str(error) or type(error).__name__)
    else:
        verdict.send("")


def _prepared(recent: Sequence[npt.NDArray[Any]], card: ModelCard) -> npt.NDArray[np.float32] | None:
    """Recent frames as the model gets them; those its geometry does not fit are another detector's and say nothing."""
    found = []
    for raw in recent:
        try:
            found.append(prepare(raw[None], card.geometry))
        except FrameRejected:
            continue
    return np.concatenate(found)[:, None] if found else None
