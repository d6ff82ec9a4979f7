"""The runs and their actions on the disk: enough to go on after a kill at any moment."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hpc_bridge.database import Database
from hpc_bridge.definition import FlowDefinition
from hpc_bridge.ports import Json

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run(
    run_id TEXT PRIMARY KEY, ordinal INTEGER UNIQUE NOT NULL, label TEXT NOT NULL, kind TEXT NOT NULL,
    definition TEXT NOT NULL, document TEXT NOT NULL, state TEXT NOT NULL, status TEXT NOT NULL,
    step INTEGER NOT NULL, attempt INTEGER NOT NULL, lost INTEGER NOT NULL, message TEXT NOT NULL,
    submitted_s REAL NOT NULL, entered_s REAL NOT NULL, started_s REAL, ended_s REAL);
CREATE INDEX IF NOT EXISTS run_by_status ON run(status);
CREATE TABLE IF NOT EXISTS action(
    request_id TEXT PRIMARY KEY, run_id TEXT NOT NULL, state TEXT NOT NULL, url TEXT NOT NULL, body TEXT NOT NULL,
    action_id TEXT, status TEXT, message TEXT, begun_s REAL NOT NULL, ended_s REAL);
CREATE INDEX IF NOT EXISTS action_by_run ON action(run_id);
CREATE TABLE IF NOT EXISTS setting(name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_ROW = "run_id, label, kind, state, status, submitted_s, started_s, ended_s, message"


class RunStatus(StrEnum):
    """Where a run stands."""

    QUEUED = "QUEUED"
    ACTIVE = "ACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether only a retry can change the run."""
        return self not in (RunStatus.QUEUED, RunStatus.ACTIVE)


@dataclass(frozen=True)
class RunRow:
    """One run as operators see it; times are Unix seconds, ``message`` says why it failed or what it waits for."""

    run_id: str
    label: str
    kind: str
    state: str
    status: RunStatus
    submitted_s: float
    started_s: float | None
    ended_s: float | None
    message: str


@dataclass(frozen=True)
class Run:
    """One run with all that is needed to go on: ``step`` counts states entered, ``attempt`` tries of this one,
    ``lost`` how many of those tries were lost with a process that they may have killed."""

    run_id: str
    ordinal: int
    label: str
    kind: str
    definition: FlowDefinition
    document: Json
    state: str
    status: RunStatus
    submitted_s: float
    entered_s: float
    started_s: float | None = None
    ended_s: float | None = None
    step: int = 0
    attempt: int = 1
    lost: int = 0
    message: str = ""

    @property
    def request_id(self) -> str:
        """The id under which the present state's action is begun; a new one for each step and attempt."""
        return f"{self.run_id}:{self.step}:{self.attempt}"

    @property
    def row(self) -> RunRow:
        """What operators see of it."""
        seen = (self.run_id, self.label, self.kind, self.state, self.status)
        return RunRow(*seen, self.submitted_s, self.started_s, self.ended_s, self.message)


@dataclass(frozen=True)
class ActionRow:
    """One action as it was journalled before it began; ``action_id`` is None until its provider has answered."""

    request_id: str
    run_id: str
    state: str
    url: str
    body: Json
    action_id: str | None
    status: str | None
    message: str | None
    begun_s: float
    ended_s: float | None


class Journal:
    """Runs, actions and settings in one SQLite file."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises BackendUnavailable when another process holds it."""
        self._database = Database(path, _SCHEMA)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write several things so that all of them are on the disk, or none is."""
        with self._database.transaction():
            yield

    def next_ordinal(self) -> int:
        """Return the place at the end of the queue."""
        return int(self._database.query("SELECT COALESCE(MAX(ordinal), 0) + 1 AS next FROM run")[0]["next"])

    def save(self, run: Run) -> None:
        """Write a run as it is now."""
        self._database.execute(
            "INSERT OR REPLACE INTO run VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            *(run.run_id, run.ordinal, run.label, run.kind),
            *(json.dumps(run.definition.to_json()), json.dumps(run.document), run.state, run.status),
            *(run.step, run.attempt, run.lost, run.message),
            *(run.submitted_s, run.entered_s, run.started_s, run.ended_s),
        )

    def run(self, run_id: str) -> Run | None:
        """Return one run, or None when there is none of that id."""
        rows = self._database.query("SELECT * FROM run WHERE run_id=?", run_id)
        return _run(rows[0]) if rows else None

    def document(self, run_id: str) -> Json | None:
        """Return one run's document without the rest of it, or None when there is no such run."""
        rows = self._database.query("SELECT document FROM run WHERE run_id=?", run_id)
        return dict(json.loads(rows[0]["document"])) if rows else None

    def open_runs(self) -> list[Run]:
        """Return the runs that have not ended, first in first."""
        rows = self._database.query("SELECT * FROM run WHERE status IN ('QUEUED', 'ACTIVE') ORDER BY ordinal")
        return [_run(row) for row in rows]

    def rows(self, limit: int) -> list[RunRow]:
        """Return the newest runs, the newest first."""
        rows = self._database.query(f"SELECT {_ROW} FROM run ORDER BY ordinal DESC LIMIT ?", limit)
        return [RunRow(**{**dict(row), "status": RunStatus(row["status"])}) for row in rows]

    def counts(self) -> dict[RunStatus, int]:
        """Return how many runs there are of each status."""
        rows = self._database.query("SELECT status, COUNT(*) AS number FROM run GROUP BY status")
        found = {row["status"]: int(row["number"]) for row in rows}
        return {status: found.get(status, 0) for status in RunStatus}

    def action(self, request_id: str) -> ActionRow | None:
        """Return the action of a request, or None when it was never journalled."""
        found = self._actions("request_id=?", request_id)
        return found[0] if found else None

    def actions(self, run_id: str) -> list[ActionRow]:
        """Return every action of a run in the order in which they began."""
        return self._actions("run_id=?", run_id)

    def orphans(self) -> list[ActionRow]:
        """Return the actions that were left running when their run was ended by force."""
        ended = "SELECT run_id FROM run WHERE status NOT IN ('QUEUED', 'ACTIVE')"
        return self._actions(f"ended_s IS NULL AND action_id IS NOT NULL AND run_id IN ({ended})")

    def begin_action(self, run: Run, url: str, body: Json, begun_s: float) -> None:
        """Note an action that is about to begin."""
        values = (run.request_id, run.run_id, run.state, url, json.dumps(body), begun_s)
        self._database.execute("INSERT INTO action VALUES(?,?,?,?,?,NULL,NULL,NULL,?,NULL)", *values)

    def begun_action(self, request_id: str, action_id: str) -> None:
        """Note the id that the provider gave it."""
        self._database.execute("UPDATE action SET action_id=? WHERE request_id=?", action_id, request_id)

    def end_action(self, request_id: str, status: str, message: str, ended_s: float) -> None:
        """Note how it ended."""
        statement = "UPDATE action SET status=?, message=?, ended_s=? WHERE request_id=?"
        self._database.execute(statement, status, message, ended_s, request_id)

    def setting(self, name: str) -> str:
        """Return a setting, empty when it was never made."""
        rows = self._database.query("SELECT value FROM setting WHERE name=?", name)
        return str(rows[0]["value"]) if rows else ""

    def set_setting(self, name: str, value: str) -> None:
        """Keep a setting."""
        self._database.execute("INSERT OR REPLACE INTO setting VALUES(?,?)", name, value)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _actions(self, condition: str, *values: str) -> list[ActionRow]:
        rows = self._database.query(f"SELECT * FROM action WHERE {condition} ORDER BY begun_s, rowid", *values)
        return [ActionRow(**{**dict(row), "body": json.loads(row["body"])}) for row in rows]


def _run(row: sqlite3.Row) -> Run:
    values = dict(row)
    flow = json.loads(values["definition"])
    values["definition"] = FlowDefinition(flow["StartAt"], flow["States"])  # checked when it was submitted
    values["document"] = json.loads(values["document"])
    values["status"] = RunStatus(values["status"])
    return Run(**values)
