"""What every provider on this machine shares: actions that are remembered, and begun once for each request."""

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpc_bridge.database import Database
from hpc_bridge.errors import BackendUnavailable, BridgeError, WorkerLost
from hpc_bridge.ports import ActionState, ActionStatus, Json

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS action(
    request_id TEXT PRIMARY KEY, action_id TEXT UNIQUE NOT NULL, body TEXT NOT NULL,
    status TEXT NOT NULL, details TEXT NOT NULL, begun_s REAL NOT NULL, ended_s REAL);
"""


@dataclass(frozen=True)
class OpenAction:
    """An action that had not ended when its provider's process did, with what that had noted of it."""

    action_id: str
    body: Json
    noted: Json

    @property
    def running(self) -> bool:
        """Whether its work had begun and gone on."""
        return bool(self.noted.get("running"))


class ActionStore:
    """The actions of one provider, on the disk: which request began which action, and how it ended."""

    def __init__(self, path: Path) -> None:
        """Open or make the store. Raises BackendUnavailable when another process holds it."""
        self._database = Database(path, _SCHEMA)
        self._live = {row["action_id"] for row in self._open_rows()}
        self._unwritten: dict[str, ActionStatus] = {}
        self._notify: Callable[[], None] = lambda: None

    def begin(self, request_id: str, body: Json) -> tuple[str, bool]:
        """Return the request's action id and whether this call made it (only then is it to be started)."""
        new = str(uuid.uuid4())
        with self._database.transaction():
            made = self._database.execute(
                "INSERT OR IGNORE INTO action VALUES(?,?,?,?,?,?,NULL)",
                *(request_id, new, json.dumps(body), ActionState.ACTIVE, "{}", time.time()),
            )
            row = self._database.query("SELECT action_id FROM action WHERE request_id=?", request_id)[0]
        if made:
            self._live.add(new)
        return str(row["action_id"]), bool(made)

    def end(self, action_id: str, status: ActionState, details: Json) -> bool:
        """Record how an action ended; the first end stands, and whether this was it is returned.

        An end that the disk does not take is known until this process ends; to the next one the action is unfinished.
        """
        try:
            changed = self._database.execute(
                "UPDATE action SET status=?, details=?, ended_s=? WHERE action_id=? AND ended_s IS NULL",
                *(status, json.dumps(details), time.time(), action_id),
            )
        except BackendUnavailable:
            logger.exception("how action %s ended (%s) cannot be written", action_id, status)
            changed = action_id not in self._unwritten
            self._unwritten.setdefault(action_id, ActionStatus(status, details))
        self._live.discard(action_id)
        self._notify()
        return bool(changed)

    def fail(self, action_id: str, error: BridgeError, **more: object) -> bool:
        """Record that an action failed with a named error; ``more`` goes into its details."""
        failed = ActionStatus.failed(error, **more)
        return self.end(action_id, failed.status, dict(failed.details))

    def note(self, action_id: str, noted: Json) -> None:
        """Keep what the next process must know of an open action. Raises BackendUnavailable when it cannot be kept."""
        statement = "UPDATE action SET details=? WHERE action_id=? AND ended_s IS NULL"
        self._database.execute(statement, json.dumps(noted), action_id)

    def set_running(self, action_id: str, on: bool) -> None:
        """Note whether an open action's work goes on: if it does when the process dies, it may be what killed it.

        Where the disk does not take this, the action passes for one that waits.
        """
        try:
            self.note(action_id, {"running": on})
        except BackendUnavailable:
            logger.exception("that action %s is %s cannot be written", action_id, "running" if on else "waiting")

    def lose_unfinished(self, ran: Callable[[OpenAction], bool] = lambda action: action.running) -> None:
        """Record that the open actions were lost with the process that had them, so that new attempts may begin.

        ``ran`` tells whose work had begun: it may be what killed the process.
        """
        for action in self.unfinished():
            error = WorkerLost("the process that ran this task ended")
            self.fail(action.action_id, error, interrupted=True, blameless=not ran(action))

    def is_live(self, action_id: str) -> bool:
        """Tell without reading the disk whether the action has not ended."""
        return action_id in self._live

    def status(self, action_id: str) -> ActionStatus:
        """Return an action as it was recorded. Raises BridgeError for an unknown id."""
        if unwritten := self._unwritten.get(action_id):
            return unwritten
        rows = self._database.query("SELECT status, details FROM action WHERE action_id=?", action_id)
        if not rows:
            raise BridgeError(f"there is no action {action_id}")
        return ActionStatus(ActionState(rows[0]["status"]), json.loads(rows[0]["details"]))

    def unfinished(self) -> list[OpenAction]:
        """Return the actions that have not ended, the oldest first."""
        return [_open_action(row) for row in self._open_rows()]

    def forget(self, action_id: str) -> None:
        """Drop an action that has ended."""
        statement = "DELETE FROM action WHERE action_id=? AND (ended_s IS NOT NULL OR ?)"
        self._database.execute(statement, action_id, action_id in self._unwritten)
        self._unwritten.pop(action_id, None)

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back whenever an action ends, from the thread in which it ended."""
        self._notify = callback

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _open_rows(self) -> list[Json]:
        rows = self._database.query(
            "SELECT action_id, body, details FROM action WHERE ended_s IS NULL ORDER BY begun_s"
        )
        return [dict(row) for row in rows]


def _open_action(row: Json) -> OpenAction:
    return OpenAction(row["action_id"], json.loads(row["body"]), json.loads(row["details"]))


class StoredProvider:
    """An action provider of this process over an ActionStore; subclasses start, watch and stop the work."""

    def __init__(self, store: ActionStore) -> None:
        self._store = store

    def run(self, request_id: str, body: Json) -> str:
        """Begin the action once for each request_id. Raises BridgeError when the body cannot be accepted."""
        self.check(body)
        action_id, new = self._store.begin(request_id, body)
        if new:
            self.begin(action_id, body)
        return action_id

    def status(self, action_id: str) -> ActionStatus:
        """Tell how the action stands; an active one carries its progress. Raises BridgeError for an unknown id."""
        if self._store.is_live(action_id):
            return ActionStatus(ActionState.ACTIVE, self.progress(action_id))
        return self._store.status(action_id)

    def cancel(self, action_id: str) -> None:
        """End the action now, unless it has ended."""
        if self._store.is_live(action_id):
            self.halt(action_id)

    def release(self, action_id: str) -> None:
        """Forget an action that has ended."""
        self._store.forget(action_id)

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back whenever an action ends."""
        self._store.notify(callback)

    def check(self, body: Json) -> None:
        """Raise BridgeError when the body cannot be accepted."""

    def begin(self, action_id: str, body: Json) -> None:
        """Start the work of a new action, without waiting for it."""
        raise NotImplementedError

    def progress(self, action_id: str) -> Json:
        """Return the details of an action that is running."""
        raise NotImplementedError

    def halt(self, action_id: str) -> None:
        """Stop the work of an action and record it as Cancelled."""
        raise NotImplementedError
