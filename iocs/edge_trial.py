"""The trial of a model in a process of its own, at the lowest priority, before it may come near the frames.

What a model's library does with a bad network is not ours to know: it may take for ever, or take the process along.
Here it takes none that serves. What was built is kept on disk where the engine can: building it again is quick.
"""

import json
import logging
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

from hpc_bridge.parent import die_with_parent
from iocs.edge_models import KeptModel
from phasing.card import ModelCard
from phasing.engines import Engine, EngineOptions, build_engine
from phasing.errors import FrameRejected, ModelError, PhaselineError
from phasing.frames import prepare

log = logging.getLogger("phaseline.edge")

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


def reason_of(error: Exception) -> str:
    """Why a model must not go live, in words; an error that no library is known to make is logged as a whole."""
    if isinstance(error, (PhaselineError, OSError, MemoryError)):
        return str(error) or type(error).__name__
    log.error("a model fails in a way that is not foreseen", exc_info=error)
    return f"{type(error).__name__}: {error}"


class Trials:
    """A process that tries one candidate after another; may be ended from another thread.

    It is started ahead, while no frames come: starting a process holds Python's lock until the child runs its own
    program, and on a busy machine that is as long as a swap may not take.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._ended = False
        self._start()

    @property
    def process_id(self) -> int:
        """The process that tries models."""
        return int(self._process.pid or 0)

    def reason_against(self, candidate: Candidate, timeout_s: float) -> str:
        """Try a candidate: why it must not go live, empty when it may."""
        try:
            self._send(candidate)
            if self._pipe.poll(timeout_s):
                return str(self._pipe.recv())
            reason = f"it was not built within {timeout_s:g} s"
        except (EOFError, OSError):
            self._process.join(KILL_TIMEOUT_S)
            status = self._process.exitcode or 0
            died = f"signal {-status}" if status < 0 else f"status {status}"
            reason = f"the process that tried it died ({died})"
        self._start_again()
        return reason

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._changing:
            self._ended = True
            self._kill()

    def _send(self, candidate: Candidate) -> None:
        """Give a candidate to a process that lives: one that was killed while idle says nothing about this model."""
        if not self._process.is_alive():
            self._start_again()
        try:
            self._pipe.send(candidate)
        except OSError:
            self._start_again()
            self._pipe.send(candidate)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid()), name="edge-trials")
        self._process.start()
        theirs.close()

    def _start_again(self) -> None:
        with self._changing:
            if not self._ended:
                self._kill()
                self._start()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, parent_pid: int) -> None:
    """Try what comes until nobody is left to hear of it."""
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    try:
        while True:
            pipe.send(_verdict(pipe.recv()))
    except (EOFError, OSError):
        return


def _verdict(candidate: Candidate) -> str:
    try:
        engine, _ = build(candidate)
        engine.close()
    except Exception as error:  # noqa: BLE001  (it is the answer, and the next model is tried by the same process)
        return reason_of(error)
    return ""


def _prepared(recent: Sequence[npt.NDArray[Any]], card: ModelCard) -> npt.NDArray[np.float32] | None:
    """Recent frames (K, 1, n, n) as the model gets them, None if there are none of use.

    Those that its geometry does not fit are another detector's and say nothing, nor do dark ones.
    """
    found = []
    for raw in recent:
        try:
            counts = prepare(raw[None], card.geometry)
        except FrameRejected:
            continue
        if counts.any():
            found.append(counts)
    return np.concatenate(found)[:, None] if found else None
