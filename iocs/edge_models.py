"""The edge's own copy of models: fetched over pvAccess, checked by digest, kept on disk, the last one known."""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pvaccess as pva

from phasing.card import ModelCard
from phasing.errors import ModelError, PhaselineError
from phasing.files import replaced_file

FETCH_ATTEMPTS = 3
FETCH_AGAIN_S = 1.0
REMEMBERED = 16
"""Models of which it is known that they have served: to go back to one takes no trial."""


class NoAnswer(ModelError):
    """The workflow IOC gave no model: it is away, too slow, or does not have it."""


@dataclass(frozen=True)
class Announcement:
    """What should be live: version, digest of the ONNX bytes, and a number that is never used twice."""

    version: int
    digest: str
    serial: int

    def __str__(self) -> str:
        return f"{self.version} {self.digest} {self.serial}"

    def same_model(self, other: "Announcement") -> bool:
        """Whether two announcements mean the same bytes: the workflow IOC announces again when it starts."""
        return (self.version, self.digest) == (other.version, other.digest)

    @classmethod
    def parse(cls, text: str) -> "Announcement":
        """Undo str(); ModelError when it is nothing of the kind."""
        try:
            version, digest, serial = text.split()
            return cls(int(version), digest, int(serial))
        except ValueError as error:
            raise ModelError(f"{text!r} announces no model") from error


@dataclass(frozen=True)
class KeptModel:
    """A model on the edge's disk."""

    announcement: Announcement
    onnx: Path
    card: Path


class ModelStore:
    """Models on the edge's disk by digest, and which of them have served."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._served = folder / "served.json"
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, announcement: Announcement) -> KeptModel | None:
        """A model that is here and whole; None when it must be fetched."""
        kept = self._paths(announcement)
        try:
            _check(announcement, kept.card.read_text(), kept.onnx.read_bytes())
        except (OSError, ValueError, ModelError):
            return None
        return kept

    def put(self, announcement: Announcement, card: str, onnx: bytes) -> KeptModel:
        """Keep a fetched model; ModelError when its bytes or card are not what was announced."""
        _check(announcement, card, onnx)
        kept = self._paths(announcement)
        with replaced_file(kept.onnx) as path:
            path.write_bytes(onnx)
        with replaced_file(kept.card) as path:
            path.write_text(card)
        return kept

    def remember(self, announcement: Announcement) -> None:
        """Note which model serves, for the next start and for whoever goes back to it."""
        self._note([announcement, *self._others(announcement)][:REMEMBERED])

    def forget(self, announcement: Announcement) -> None:
        """Note that a model must not serve again without another trial."""
        self._note(self._others(announcement))

    def served(self) -> list[Announcement]:
        """The models that have served here, the last one first; none when the note of them cannot be read."""
        try:
            return [Announcement.parse(text) for text in json.loads(self._served.read_text())]
        except (OSError, ValueError, TypeError, AttributeError, ModelError):
            return []

    def has_served(self, announcement: Announcement) -> bool:
        """Whether this model has served here: it need not prove itself again."""
        return any(map(announcement.same_model, self.served()))

    def _others(self, announcement: Announcement) -> list[Announcement]:
        return [other for other in self.served() if not other.same_model(announcement)]

    def _note(self, announcements: list[Announcement]) -> None:
        with replaced_file(self._served) as path:
            path.write_text(json.dumps([str(announcement) for announcement in announcements]))

    def _paths(self, announcement: Announcement) -> KeptModel:
        stem = f"{announcement.version}-{announcement.digest[:16]}"
        return KeptModel(announcement, self._folder / f"{stem}.onnx", self._folder / f"{stem}.json")


def fetch(procedure: str, announcement: Announcement, timeout_s: float) -> tuple[str, bytes]:
    """Card (JSON text) and ONNX bytes of a version, from the workflow IOC's RPC; NoAnswer when it gives none."""
    try:
        request = pva.PvObject({"version": pva.STRING}, {"version": str(announcement.version)})
        reply = pva.RpcClient(procedure).invoke(request, timeout_s)
        return str(reply["card"]), np.asarray(reply["data"], dtype=np.uint8).tobytes()
    except (pva.PvaException, LookupError, TypeError, ValueError) as error:  # no answer, or one that is no model
        raise NoAnswer(f"{procedure} gave no model: {error}") from error


class Fetcher:
    """Gets models from disk or over pvAccess, one at a time; of the wishes that wait, only the newest counts.

    Its thread is never joined: a request that waits for its answer cannot be called off, and must not keep an IOC
    that was told to stop.
    """

    def __init__(
        self,
        store: ModelStore,
        procedure: str,
        timeout_s: float,
        *,
        done: Callable[[Announcement, KeptModel | str], None],
    ) -> None:
        """`done` gets the model on disk, or the reason why there is none, in the fetcher's thread."""
        self._store, self._procedure, self._timeout_s, self._done = store, procedure, timeout_s, done
        self._wish: Announcement | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="fetch", daemon=True).start()

    def want(self, announcement: Announcement) -> None:
        """Get this model next."""
        with self._changed:
            self._wish = announcement
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wish is not None)
                wish, self._wish = self._wish, None
            if wish is not None:
                self._done(wish, self._get(wish))

    def _get(self, wish: Announcement) -> KeptModel | str:
        """The model, or why there is none; who gives no answer is asked again, unless something newer is wanted."""
        for attempts_left in reversed(range(FETCH_ATTEMPTS)):
            try:
                kept = self._store.get(wish)
                return kept or self._store.put(wish, *fetch(self._procedure, wish, self._timeout_s))
            except NoAnswer as error:
                reason = str(error)
            except (PhaselineError, OSError) as error:
                return str(error)
            with self._changed:
                if not attempts_left or self._changed.wait_for(lambda: self._wish is not None, FETCH_AGAIN_S):
                    break
        return reason


def _check(announcement: Announcement, card: str, onnx: bytes) -> None:
    """ModelError when card and bytes are not those of the announced model."""
    found = hashlib.sha256(onnx).hexdigest()
    if found != announcement.digest:
        raise ModelError(f"its digest is {found[:12]}, announced was {announcement.digest[:12]}")
    try:
        read = ModelCard.from_json(json.loads(card))
    except ValueError as error:
        raise ModelError(f"its card is not JSON: {error}") from error
    if read.digest != announcement.digest or read.version != announcement.version:
        raise ModelError(f"its card is that of version {read.version}, digest {read.digest[:12]}")
