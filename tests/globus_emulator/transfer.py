"""Globus Transfer: tasks that really copy, between folders that stand for collections."""

import uuid
from pathlib import Path
from typing import Any

from globus_emulator.auth import Auth
from globus_emulator.web import Refusal, Request, Web
from hpc_bridge.errors import BridgeError
from hpc_bridge.local_transfer import LocalTransfer
from hpc_bridge.ports import ActionState, Json

SERVER = "transfer.api.globus.org"


class Transfer:
    """Tasks by submission id; a task may be paused or made to fail by its label."""

    def __init__(self, web: Web, auth: Auth, folder: Path, collections: dict[str, Path]) -> None:
        self._auth, self._collections = auth, collections
        self.local = LocalTransfer(collections, folder / "transfer.sqlite")
        self.paused: set[str] = set()
        self.failing: set[str] = set()
        self.needs_consent: set[str] = set()
        self._labels: dict[str, str] = {}
        web.route("GET", "/v0.10/submission_id", self._submission_id)
        web.route("POST", "/v0.10/transfer", self._submit)
        web.route("GET", "/v0.10/task/([^/]+)", self._task)
        web.route("POST", "/v0.10/task/([^/]+)/cancel", self._cancel)
        web.route("GET", "/v0.10/endpoint/([^/]+)", self._endpoint)
        web.route("GET", "/https/([^/]+)/(.*)", self._https)

    def run(self, request_id: str, body: Json) -> str:
        """A task, also for the emulated Flows."""
        return self.local.run(request_id, body)

    def _submission_id(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        return 200, {"DATA_TYPE": "submission_id", "value": str(uuid.uuid4())}

    def _submit(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        body = request.json
        for endpoint in (body["source_endpoint"], body["destination_endpoint"]):
            self._known(request, endpoint)
            scope = f"https://auth.globus.org/scopes/{endpoint}/data_access"
            if endpoint in self.needs_consent and not self._auth.consented(request, scope):
                required = [f"urn:globus:auth:scope:transfer.api.globus.org:all[*{scope}]"]
                more = {"required_scopes": required}
                raise _error(403, "ConsentRequired", "Missing required data_access consent", request, more)
        copied = {key: body[key] for key in ("source_endpoint", "destination_endpoint")}
        items = [{key: item[key] for key in ("source_path", "destination_path")} for item in body["DATA"]]
        try:
            task_id = self.run(body["submission_id"], {**copied, "DATA": items})
        except BridgeError as error:
            raise _error(400, "ClientError.BadRequest", str(error), request) from error
        again = task_id in self._labels
        self._labels[task_id] = body["label"]
        answer = {"DATA_TYPE": "transfer_result", "code": "Duplicate" if again else "Accepted", "task_id": task_id}
        return 202, {**answer, "submission_id": body["submission_id"], "message": "ok"}

    def _task(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        task_id = request.match[0]
        try:
            found = self.local.status(task_id)
        except BridgeError as error:
            raise _error(404, "TaskNotFound", str(error), request) from error
        label = self._labels.get(task_id, "")
        status = str(found.status)
        if any(word in label for word in self.failing):
            status = "FAILED"
        elif any(word in label for word in self.paused):
            status = "INACTIVE"
        details = found.details
        task = {
            "DATA_TYPE": "task",
            "task_id": task_id,
            "status": status,
            "label": label,
            "nice_status": {"INACTIVE": "PAUSED_BY_ADMIN", "FAILED": "FAILED"}.get(status),
            "nice_status_short_description": "paused by an administrator" if status == "INACTIVE" else None,
            "bytes_transferred": details.get("bytes_transferred", 0),
            "files_transferred": details.get("files_done", 0),
            "files": details.get("files_total", 0),
            "effective_bytes_per_second": details.get("rate_bytes_per_s", 0),
            "fatal_error": None,
        }
        if status == "FAILED":
            task["fatal_error"] = {"code": "ERROR", "description": details.get("description", "it was told to fail")}
        return 200, task

    def _cancel(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        ended = self.local.status(request.match[0]).status is not ActionState.ACTIVE
        self.local.cancel(request.match[0])
        return 200, {"DATA_TYPE": "result", "code": "TaskComplete" if ended else "Canceled", "message": "ok"}

    def _endpoint(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        endpoint = self._known(request, request.match[0])
        url = f"http://{request.headers['Host']}/https/{endpoint}"
        return 200, {"DATA_TYPE": "endpoint", "id": endpoint, "https_server": url}

    def _https(self, request: Request) -> tuple[int, Any] | tuple[int, Any, dict[str, str]]:
        collection, path = request.match
        self._auth.check(request, collection)
        file = self._collections[collection] / path
        if not file.is_file():
            raise Refusal(404, {"code": "NotFound", "message": path})
        content = file.read_bytes()
        begin = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if begin and begin >= len(content):
            raise Refusal(416, {"code": "RangeNotSatisfiable", "message": path})
        return (206 if begin else 200), content[begin:]

    def _known(self, request: Request, endpoint: str) -> str:
        if endpoint not in self._collections:
            raise _error(404, "EndpointNotFound", f"No such endpoint '{endpoint}'", request)
        return endpoint


def _error(status: int, code: str, message: str, request: Request, more: dict[str, Any] | None = None) -> Refusal:
    body = {"code": code, "message": message, "request_id": "1", "resource": request.path}
    return Refusal(status, {**body, **(more or {})})
