"""Globus Compute: registered functions, and tasks that run in the local adapter's worker processes."""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

from globus_emulator.auth import Auth
from globus_emulator.web import Refusal, Request, Web
from hpc_bridge.errors import TaskFailed
from hpc_bridge.local_compute import LocalCompute
from hpc_bridge.ports import ActionState, ActionStatus, Json
from hpc_bridge.workers import WorkerSetup
from phasing.files import replaced_file

SERVER = "funcx_service"
RESULT = "11\n"  # the SDK's mark of JSON


class Compute:
    """Functions by id, endpoints of worker processes, tasks; also the action provider that Flows calls."""

    def __init__(
        self, web: Web, auth: Auth, folder: Path, endpoints: dict[str, WorkerSetup], allowed: set[str] | None = None
    ) -> None:
        self._auth, self._path = auth, folder / "functions.json"
        self._lock = threading.Lock()
        self._functions: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._endpoints, self.allowed = set(endpoints), allowed
        self.offline: set[str] = set()
        self.local = LocalCompute({"call": "globus_emulator.worker:call"}, endpoints, folder / "compute.sqlite")
        web.route("POST", "/v3/functions", self._register)
        web.route("POST", "/v3/endpoints/([^/]+)/submit", self._submit)
        web.route("GET", "/v2/tasks/([^/]+)", self._task)
        web.route("POST", "/v2/batch_status", self._batch)
        web.route("GET", "/v2/endpoints/([^/]+)/status", self._endpoint_status)
        web.route("GET", "/v3/endpoints/([^/]+)/allowed_functions", self._allowed)

    def stop(self) -> None:
        self.local.stop()

    @property
    def registered(self) -> int:
        with self._lock:
            return len(self._functions)

    # what the SDK calls

    def _register(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        function_id, asked = str(uuid.uuid4()), request.json
        kept = {"name": asked["function_name"], "code": asked["function_code"], "serialized": asked["serialized"]}
        with self._lock:
            self._functions[function_id] = kept
            with replaced_file(self._path) as part:
                part.write_text(json.dumps(self._functions))
        return 201, {"function_uuid": function_id}

    def _submit(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        endpoint = request.match[0]
        tasks: dict[str, list[str]] = {}
        for function_id, payloads in request.json["tasks"].items():
            for payload in payloads:
                task_id = self._begin(str(uuid.uuid4()), endpoint, function_id, {"payload": payload})
                tasks.setdefault(function_id, []).append(task_id)
        made = {"request_id": str(uuid.uuid4()), "task_group_id": str(uuid.uuid4()), "endpoint_id": endpoint}
        return 200, {**made, "tasks": tasks}

    def _task(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        return 200, self._shown(request.match[0])

    def _batch(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        return 200, {"results": {task_id: self._shown(task_id) for task_id in request.json["task_ids"]}}

    def _endpoint_status(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        return 200, {"status": "offline" if request.match[0] in self.offline else "online", "details": {}}

    def _allowed(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        allowed = sorted(self.allowed or ())
        return 200, {"restricted": self.allowed is not None, "functions": allowed}

    # what Flows calls: one task, arguments as they stand in the flow

    def run(self, request_id: str, body: Json) -> str:
        (task,) = body["tasks"]
        try:
            return self._begin(request_id, body["endpoint_id"], task["function_id"], {"kwargs": task["kwargs"]})
        except Refusal as refusal:
            raise TaskFailed(refusal.body["reason"]) from refusal

    def status(self, action_id: str) -> ActionStatus:
        found = self.local.status(action_id)
        if found.status is not ActionState.SUCCEEDED:
            return found
        answer = found.details["results"][0]["output"]
        if "exception" in answer:
            line = answer["exception"].strip().splitlines()[-1]
            return ActionStatus(ActionState.FAILED, {"code": "TaskFailed", "description": line})
        result = {"task_id": action_id, "status": "success", "output": answer["value"]}
        return ActionStatus(ActionState.SUCCEEDED, {"results": [result]})

    def cancel(self, action_id: str) -> None:
        self.local.cancel(action_id)

    def release(self, action_id: str) -> None:
        self.local.release(action_id)

    def notify(self, callback: Any) -> None:
        self.local.notify(callback)

    def _begin(self, request_id: str, endpoint: str, function_id: str, arguments: Json) -> str:
        if endpoint not in self._endpoints:
            raise _refusal(404, "ENDPOINT_NOT_FOUND", f"Endpoint {endpoint} could not be resolved")
        with self._lock:
            function = self._functions.get(function_id)
        if function is None:
            raise _refusal(404, "FUNCTION_NOT_FOUND", f"Function {function_id} could not be resolved")
        if self.allowed is not None and function_id not in self.allowed:
            raise _refusal(
                403, "FUNCTION_NOT_PERMITTED", f"Function {function_id} not permitted on endpoint {endpoint}"
            )
        body = {
            "endpoint_id": endpoint,
            "tasks": [{"function_id": "call", "kwargs": {"function": function, **arguments}}],
        }
        return self.local.run(request_id, body)

    def _shown(self, task_id: str) -> Json:
        found = self.local.status(task_id)
        shown: Json = {"task_id": task_id, "status": "running", "completion_t": "0"}
        if not found.status.ended:
            return shown
        if found.status is ActionState.FAILED:
            lost = "WorkerLost: " if found.interrupted else ""
            return {**shown, "status": "failed", "exception": f"{lost}{found.description}"}
        answer = found.details["results"][0]["output"]
        if "exception" in answer:
            return {**shown, "status": "failed", "exception": answer["exception"]}
        return {**shown, "status": "success", "result": RESULT + json.dumps(answer["value"])}


def _refusal(status: int, code: str, reason: str) -> Refusal:
    return Refusal(status, {"status": "Failed", "code": code, "reason": reason, "http_status_code": status})
