"""The model registry: SQLite for what is known of a model, files named by their sha256 for its bytes.

Several processes may publish and read at once. A model is there only when its files lie complete on disk.
"""

import fcntl
import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from phasing.card import ModelCard
from phasing.errors import ModelError
from phasing.files import replaced_file

logger = logging.getLogger(__name__)

_LOCK_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    lineage TEXT NOT NULL,
    onnx TEXT NOT NULL,
    checkpoint TEXT NOT NULL,
    card TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    card_digest TEXT NOT NULL DEFAULT ''
)
"""
_ADD_CARD_DIGEST = "ALTER TABLE models ADD COLUMN card_digest TEXT NOT NULL DEFAULT ''"
"""For a registry of an earlier version, whose cards are not verified."""
_GUESTS_SCHEMA = "CREATE TABLE IF NOT EXISTS guests (lineage TEXT PRIMARY KEY, version INTEGER NOT NULL)"
"""Versions of another lineage that somebody has let serve this one."""


_Row = tuple[int, str, str, str, str]
_COLUMNS = "version, card, state, reason, card_digest"


class ModelState(StrEnum):
    """Where a model stands in its lineage; at most one of a lineage is active."""

    CANDIDATE = "candidate"
    REFUSED = "refused"
    ACTIVE = "active"
    RETIRED = "retired"
    DELETING = "to be deleted"


@dataclass(frozen=True, eq=False)
class Entry:
    """One row of the registry: the card, where the model stands, and why."""

    card: ModelCard
    state: ModelState
    reason: str


class Registry:
    """All models under one folder: `registry.sqlite` and `objects/<two digits>/<sha256>`.

    Every method opens its own connection, so that one Registry may be shared between threads, and one folder
    between processes. All raise ModelError when the registry or what was asked for cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._database = root / "registry.sqlite"
        self._unreadable: set[int] = set()
        self._objects.mkdir(parents=True, exist_ok=True)
        self._set_up()

    def publish(self, onnx_path: Path, checkpoint_path: Path | None, draft: ModelCard) -> ModelCard:
        """Take a model in as a candidate and return its card with the version that it was given.

        draft: the card as export_onnx made it; its version is ignored. checkpoint_path: None for a network whose
        weights cannot be trained on. Files first, then one transaction: a process that dies between them leaves
        nothing that a reader could see.
        Raises ModelError if the ONNX file is not the one that the card describes.
        """
        onnx = self._keep(onnx_path)
        if onnx != draft.digest:
            raise ModelError(f"{onnx_path} is not the model of its card: sha256 {onnx[:12]}, not {draft.digest[:12]}")
        checkpoint = "" if checkpoint_path is None else self._keep(checkpoint_path)
        with self._transaction() as connection:
            row = (draft.lineage, onnx, checkpoint, "", ModelState.CANDIDATE, "")
            version = connection.execute(
                "INSERT INTO models (lineage, onnx, checkpoint, card, state, reason) VALUES (?, ?, ?, ?, ?, ?)", row
            ).lastrowid
            card = replace(draft, version=version or 0)
            text = json.dumps(card.to_json())
            kept = (text, _digest(text), version)
            connection.execute("UPDATE models SET card = ?, card_digest = ? WHERE version = ?", kept)
        return card

    def entry(self, version: int) -> Entry:
        """Card, state and reason of one version."""
        rows = self._rows("WHERE version = ?", (version,))
        if not rows:
            raise ModelError(f"there is no model version {version}")
        return _entry(*rows[0])

    def card(self, version: int) -> ModelCard:
        """The card of one version."""
        return self.entry(version).card

    def versions(self, lineage: str | None = None) -> tuple[Entry, ...]:
        """All models of a lineage, or of all lineages, oldest first; corrupted rows are logged and left out."""
        if lineage is None:
            return self._readable(self._rows("ORDER BY version", ()))
        return self._readable(self._rows("WHERE lineage = ? ORDER BY version", (lineage,)))

    def choices(self, lineage: str) -> tuple[Entry, ...]:
        """What may serve a lineage: its own models, those that came without weights, and its guest; oldest first."""
        guest = "version = (SELECT version FROM guests WHERE lineage = ?)"
        clause = f"WHERE lineage = ? OR checkpoint = '' OR {guest} ORDER BY version"
        return self._readable(self._rows(clause, (lineage, lineage)))

    def active(self, lineage: str) -> ModelCard | None:
        """The card of the model that serves this lineage, None before the first or when its row is corrupted."""
        guest = "WHERE version = (SELECT version FROM guests WHERE lineage = ?)"
        own = "WHERE lineage = ? AND state = ?"
        entries = self._readable(self._rows(guest, (lineage,)) or self._rows(own, (lineage, ModelState.ACTIVE)))
        return entries[0].card if entries else None

    def onnx_bytes(self, version: int) -> bytes:
        """The network as ONNX, verified by its digest at every read."""
        return self._verified(version, self.card(version).digest)[1]

    def standing(self) -> frozenset[tuple[object, ...]]:
        """Which versions there are, in which state, and which are guests: another value after every change."""
        with self._transaction() as connection:
            models = connection.execute("SELECT version, state FROM models").fetchall()
            return frozenset(models + connection.execute("SELECT version, lineage FROM guests").fetchall())

    def version_of(self, digest: str) -> int | None:
        """The newest version whose network has this digest; None where there is none."""
        with self._transaction() as connection:
            found = connection.execute("SELECT MAX(version) FROM models WHERE onnx = ?", (digest,)).fetchone()[0]
        return None if found is None else int(found)

    def checkpoint_path(self, version: int) -> Path | None:
        """The file of the network's weights, verified by its digest at every call; None if it came without."""
        with self._transaction() as connection:
            row = connection.execute("SELECT checkpoint FROM models WHERE version = ?", (version,)).fetchone()
        if row is None:
            raise ModelError(f"there is no model version {version}")
        return self._verified(version, row[0])[0] if row[0] else None

    def set_active(self, version: int, reason: str = "", *, lineage: str | None = None) -> None:
        """Let one version serve a lineage; the one that did so until now retires in the same transaction.

        lineage: by default the version's own. In another one it is a guest: it serves there until a further version
        does, and its state in its own lineage stays what it is.
        """
        own = self.card(version).lineage
        served = own if lineage is None else lineage
        with self._transaction() as connection:
            connection.execute(
                "UPDATE models SET state = ?, reason = ? WHERE lineage = ? AND state = ? AND version <> ?",
                (ModelState.RETIRED, f"version {version} took over", served, ModelState.ACTIVE, version),
            )
            connection.execute("DELETE FROM guests WHERE lineage = ?", (served,))
            if served == own:
                _set_state(connection, version, ModelState.ACTIVE, reason)
            else:
                connection.execute("INSERT INTO guests (lineage, version) VALUES (?, ?)", (served, version))

    def refuse(self, version: int, reason: str) -> None:
        """Keep a candidate from going live, with the gate's reason."""
        with self._transaction() as connection:
            row = connection.execute("SELECT state FROM models WHERE version = ?", (version,)).fetchone()
            if row is None:
                raise ModelError(f"there is no model version {version}")
            serves = connection.execute("SELECT 1 FROM guests WHERE version = ?", (version,)).fetchone()
            if row[0] == ModelState.ACTIVE or serves:
                raise ModelError(f"model version {version} is active: activate another one first")
            _set_state(connection, version, ModelState.REFUSED, reason)

    def mark_for_deletion(self, version: int) -> None:
        """The first step of deleting: the version is marked, and shown so; to activate it takes the mark away.

        Raises ModelError for one that is active or guest anywhere, and for the parent of one that is: it is the way
        back.
        """
        with self._transaction() as connection:
            self._refuse_to_lose(connection, version)
            _set_state(connection, version, ModelState.DELETING, "marked for deletion")

    def delete(self, version: int) -> None:
        """The second step: forget a version that is marked, and its files unless another version has the same.

        Raises ModelError for one that is not marked, and as mark_for_deletion does.
        """
        with self._transaction() as connection:
            self._refuse_to_lose(connection, version)
            row = connection.execute(
                "SELECT state, onnx, checkpoint FROM models WHERE version = ?", (version,)
            ).fetchone()
            if row[0] != ModelState.DELETING:
                raise ModelError(f"model version {version} is {row[0]}: mark it for deletion first")
            connection.execute("DELETE FROM models WHERE version = ?", (version,))
            for digest in filter(None, row[1:]):
                still = "SELECT 1 FROM models WHERE onnx = ? OR checkpoint = ?"
                if connection.execute(still, (digest, digest)).fetchone() is None:
                    self._object_path(digest).unlink(missing_ok=True)

    def _refuse_to_lose(self, connection: sqlite3.Connection, version: int) -> None:
        if connection.execute("SELECT 1 FROM models WHERE version = ?", (version,)).fetchone() is None:
            raise ModelError(f"there is no model version {version}")
        serving = f"SELECT {_COLUMNS} FROM models WHERE state = ? OR version IN (SELECT version FROM guests)"
        for row in connection.execute(serving, (ModelState.ACTIVE,)).fetchall():
            if row[0] == version:
                raise ModelError(f"model version {version} is active: activate another one first")
            if _entry(*row).card.parent == version:
                raise ModelError(f"model version {version} is the way back from version {row[0]}, which is active")

    def _set_up(self) -> None:
        """Make the database, one process at a time, for SQLite lets nobody wait while the journal mode is changed."""
        with self._database.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._connection() as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            with self._transaction() as connection:
                connection.execute(_SCHEMA)
                if "card_digest" not in {row[1] for row in connection.execute("PRAGMA table_info(models)")}:
                    connection.execute(_ADD_CARD_DIGEST)
                connection.execute(_GUESTS_SCHEMA)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._database, timeout=_LOCK_TIMEOUT_S, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise ModelError(f"model registry {self._database}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _rows(self, clause: str, arguments: tuple[object, ...]) -> list[_Row]:
        with self._transaction() as connection:
            return connection.execute(f"SELECT {_COLUMNS} FROM models {clause}", arguments).fetchall()

    def _readable(self, rows: list[_Row]) -> tuple[Entry, ...]:
        """The entries of all rows but the corrupted ones, so that one bad row hides no other model."""
        entries = []
        for row in rows:
            try:
                entries.append(_entry(*row))
            except ModelError as error:
                if row[0] not in self._unreadable:
                    self._unreadable.add(row[0])
                    logger.error("%s; it is left out", error)
        return tuple(entries)

    def _keep(self, source: Path) -> str:
        """Copy a file to its place under its digest: write, fsync, rename."""
        try:
            content = source.read_bytes()
        except OSError as error:
            raise ModelError(f"{source} cannot be read: {error.strerror}") from error
        digest = hashlib.sha256(content).hexdigest()
        target = self._object_path(digest)
        target.parent.mkdir(exist_ok=True)
        with replaced_file(target) as part:
            part.write_bytes(content)
        return digest

    def _object_path(self, digest: str) -> Path:
        return self._objects / digest[:2] / digest

    def _verified(self, version: int, digest: str) -> tuple[Path, bytes]:
        """A file and its content, which is the content that was verified, whatever becomes of the file meanwhile."""
        path = self._object_path(digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ModelError(f"model version {version}: {path} cannot be read: {error.strerror}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise ModelError(f"model version {version} is corrupted: sha256 is {found[:12]}, not {digest[:12]}")
        return path, content


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(version: int, card: str, state: str, reason: str, card_digest: str) -> Entry:
    if card_digest and _digest(card) != card_digest:
        raise ModelError(f"model version {version}: its card was changed in the registry")
    try:
        return Entry(ModelCard.from_json(json.loads(card)), ModelState(state), reason)
    except (TypeError, ValueError, ModelError) as error:
        raise ModelError(f"model version {version}: its row in the registry is corrupted: {error}") from error


def _set_state(connection: sqlite3.Connection, version: int, state: ModelState, reason: str) -> None:
    connection.execute("UPDATE models SET state = ?, reason = ? WHERE version = ?", (state, reason, version))
