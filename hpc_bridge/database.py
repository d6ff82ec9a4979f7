"""One SQLite database used by the threads of one process, written so that a kill at any moment loses nothing."""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpc_bridge.errors import BackendUnavailable

BUSY_S = 10.0


class Database:
    """A WAL database with one owner: a second process that opens it is refused while the first lives."""

    def __init__(self, path: Path, schema: str) -> None:
        """Open or make the database. Raises BackendUnavailable when another process holds it or it cannot be read."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._owner = path.with_name(path.name + ".lock").open("w")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._owner.close()
            raise BackendUnavailable(f"{path} is in use by another process") from error
        self._lock = threading.RLock()
        try:
            with self._named_errors():
                self._connection = _connected(path, schema)
        except BackendUnavailable:
            self._owner.close()
            raise

    def query(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """Return every row of a SELECT. Raises BackendUnavailable when the file cannot be read."""
        with self._lock, self._named_errors():
            return self._connection.execute(statement, values).fetchall()

    def execute(self, statement: str, *values: Any) -> int:
        """Run one writing statement and return how many rows it changed. Raises BackendUnavailable on a full disk."""
        with self._lock, self._named_errors():
            return self._connection.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group statements so that all of them are on the disk, or none is."""
        with self._lock, self._named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the database and let another process have it."""
        with self._lock:
            self._connection.close()
            self._owner.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):  # no fault of the disk but a mistake of the caller
            raise
        except sqlite3.DatabaseError as error:  # a full disk or a malformed file, for two
            raise BackendUnavailable(f"{self._path}: {error}") from error


def _connected(path: Path, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        # FULL: what was journalled before an action begins is on the disk even when the power fails
        connection.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {schema}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
