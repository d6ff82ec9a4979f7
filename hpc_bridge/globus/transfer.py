"""Globus Transfer: checksummed copies between collections, each submitted once."""

import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpc_bridge.errors import TaskFailed
from hpc_bridge.globus.apps import client_options, sdk
from hpc_bridge.globus.errors import named_errors
from hpc_bridge.globus.remote import Remote, RemoteProvider
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.ports import ActionState, ActionStatus, Json
from hpc_bridge.transfer_body import check_body, check_item


class GlobusTransfer(RemoteProvider):
    """Carries out the body of Transfer's action by the service's own interface."""

    def __init__(self, app: Any, settings: GlobusSettings, path: Path) -> None:
        """``app`` logs in, ``path`` is the file that remembers actions."""
        self._settings = settings
        self._client = sdk().TransferClient(app=app, **client_options(settings))
        super().__init__(path, settings.poll_s)

    def check(self, body: Json) -> None:
        """Raise TaskFailed naming what is missing or unknown."""
        check_body(body)
        for key in ("source_endpoint", "destination_endpoint"):
            check_uuid(f"the transfer's {key}", body[key])
        for item in body["DATA"]:
            check_item(item)

    def prepare(self, remote: Remote) -> Json:
        """Ask for a submission id: whatever is submitted under it comes into being once."""
        with named_errors(self._settings, "Globus Transfer"):
            return {"submission_id": self._client.get_submission_id()["value"]}

    def submit(self, remote: Remote) -> str:
        """Submit the copy; a second submission is answered with the first one's task."""
        body, noted = remote.body, remote.noted
        data = sdk().TransferData(
            body["source_endpoint"],
            body["destination_endpoint"],
            label=_label(body.get("label", "phaseline"), remote.action_id),
            submission_id=noted["submission_id"],
            verify_checksum=True,
            sync_level="checksum",
            encrypt_data=bool(body.get("encrypt_data", False)),
            preserve_timestamp=bool(body.get("preserve_timestamp", False)),
            deadline=datetime.fromtimestamp(noted["prepared_s"] + self._settings.deadline_s, UTC).isoformat(),
            notify_on_succeeded=False,
            notify_on_failed=False,
        )
        for item in body["DATA"]:
            data.add_item(item["source_path"], item["destination_path"], recursive=bool(item.get("recursive", False)))
        with named_errors(self._settings, "Globus Transfer"):
            return str(self._client.submit_transfer(data)["task_id"])

    def look(self, remote: Remote) -> ActionStatus:
        """Return the task as it stands; paused is INACTIVE, with the service's reason."""
        with named_errors(self._settings, "Globus Transfer"):
            task = self._client.get_task(remote.remote_id)
        state = ActionState(task["status"])
        details = _details(task, remote)
        if state is ActionState.INACTIVE:
            reason = task.get("nice_status_short_description") or task.get("nice_status") or "no reason is given"
            details["description"] = f"transfer task {remote.remote_id} is paused: {reason}"
        if state is ActionState.FAILED:
            fatal = task.get("fatal_error") or {}
            reason = fatal.get("description") or task.get("nice_status_short_description") or task.get("nice_status")
            details |= {"code": "TaskFailed", "description": f"transfer task {remote.remote_id} failed: {reason}"}
        return ActionStatus(state, details)

    def end(self, remote: Remote) -> None:
        """Cancel the task; of one that was prepared only, nothing has begun, or it is found by its submission."""
        task_id = remote.remote_id or self.submit(remote)
        with named_errors(self._settings, "Globus Transfer"):
            self._client.cancel_task(task_id)


def check_uuid(what: str, value: object) -> None:
    """Raise TaskFailed unless a value is a UUID, as all names of Globus are."""
    try:
        uuid.UUID(str(value))
    except ValueError as error:
        raise TaskFailed(f"{what} is no UUID: {value!r}") from error


def _details(task: Any, remote: Remote) -> Json:
    """The progress, under the names that copies on this machine have; the total is not known to the service."""
    done = int(task.get("bytes_transferred") or 0)
    return {
        "task_id": remote.remote_id,
        "bytes_transferred": done,
        "bytes_total": done if task["status"] == "SUCCEEDED" else 0,
        "files_done": int(task.get("files_transferred") or 0),
        "files_total": int(task.get("files") or len(remote.body["DATA"])),
        "rate_bytes_per_s": float(task.get("effective_bytes_per_second") or _mean_rate(done, remote)),
    }


def _mean_rate(done: int, remote: Remote) -> float:
    return float(done / max(time.time() - remote.noted["prepared_s"], 1e-3))


def _label(label: object, action_id: str) -> str:
    """What people see in the web app: letters, digits, blanks and a few signs are all that the service takes."""
    text = "".join(c if c.isalnum() or c in " -_," else "-" for c in str(label))
    return f"{text[:80]} {action_id[:8]}"
