"""What a training round leaves after every epoch, so that a trainer that was killed goes on from there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phasing.checkpoint import load_tensors, save_tensors
from phasing.errors import ModelError, TrainingError
from phasing.rounds import TrainSettings
from phasing.samples import Samples

_NAME = "resume.pt"
_LOCK_NAME = ".lock"
_LOCK_WAIT_S = 10.0
"""How long a trainer is waited for that was killed a moment ago."""
_LOCK_LOOK_S = 0.1
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""What file systems say that have no locks, as Lustre mounted without flock."""


Row = dict[str, float]
"""The figures of one epoch, as the file of losses has them."""


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a round is: its epochs, the seconds they took, the shuffler, and what the learner goes on from."""

    rows: tuple[Row, ...]
    seconds: float
    shuffle: dict[str, Any]
    learner: dict[str, Any]


class ResumeFile:
    """The file in a round's folder; it counts only for the very same round."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._path, self._fingerprint = folder / _NAME, fingerprint

    def save(self, progress: Progress) -> None:
        """Replace what was saved. Raises TrainingError when the disk does not take it."""
        facts = {"rows": progress.rows, "seconds": progress.seconds, "shuffle": progress.shuffle}
        content = {"fingerprint": self._fingerprint, "facts": json.dumps(facts), "learner": progress.learner}
        save_tensors(content, self._path)

    def load(self) -> Progress | None:
        """What was saved for this round; None where there is nothing that can be gone on from."""
        if not self._path.exists():
            return None
        try:
            content = load_tensors(self._path)
            if content["fingerprint"] != self._fingerprint:
                return None
            facts = json.loads(content["facts"])
            return Progress(tuple(facts["rows"]), facts["seconds"], facts["shuffle"], content["learner"])
        except (ModelError, LookupError, TypeError, ValueError):
            return None  # the round begins anew

    def remove(self) -> None:
        """The round is over."""
        self._path.unlink(missing_ok=True)


def fingerprint(samples: Samples, settings: TrainSettings, parent_path: Path | None) -> str:
    """A digest of all that decides what a round learns: settings, frames, the parent's weights."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    digest.update(b"" if parent_path is None else hashlib.sha256(parent_path.read_bytes()).digest())
    for pairs in samples.sets:
        digest.update(f"{pairs.scan_id} {pairs.folder}".encode())
        digest.update(np.ascontiguousarray(pairs.unique_id).tobytes())
    for indices in (samples.training, samples.judging):
        digest.update(indices.tobytes())
    return digest.hexdigest()


@contextmanager
def only_trainer(folder: Path) -> Iterator[None]:
    """Keep every other trainer out of a round's folder. Raises TrainingError when one is at work there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as lock:
        until_s = time.monotonic() + _LOCK_WAIT_S
        while not _locked(lock.fileno()):
            if time.monotonic() > until_s:
                raise TrainingError(f"another trainer is at work in {folder}")
            time.sleep(_LOCK_LOOK_S)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
