"""Globus Flows: definitions, and runs that the local runner carries out."""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

from globus_emulator.auth import Auth
from globus_emulator.web import Refusal, Request, Web
from hpc_bridge.definition import FlowDefinition
from hpc_bridge.errors import BridgeError
from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.lint import problems
from hpc_bridge.ports import ActionProvider, ActionState
from hpc_bridge.runner import FlowRunner
from phasing.files import replaced_file

SERVER = "flows.globus.org"
_STATUS = {RunStatus.QUEUED: "ACTIVE", RunStatus.CANCELLED: "ENDED"}


class Flows:
    """Flows by id, and their runs; both outlive the process."""

    def __init__(self, web: Web, auth: Auth, folder: Path, providers: dict[str, ActionProvider]) -> None:
        self._auth, self._path = auth, folder / "flows.json"
        self._lock = threading.Lock()
        self._kept = json.loads(self._path.read_text()) if self._path.exists() else {"flows": {}, "runs": {}}
        self.runner = FlowRunner(folder / "flows.sqlite", providers)
        self.paused: dict[str, Any] | None = None
        self.runner.start()
        web.route("POST", "/flows", self._create)
        web.route("GET", "/flows/([^/]+)", self._get)
        web.route("PUT", "/flows/([^/]+)", self._update)
        web.route("POST", "/flows/([^/]+)/run", self._run)
        web.route("GET", "/runs", self._list)
        web.route("GET", "/runs/([^/]+)", self._get_run)
        web.route("POST", "/runs/([^/]+)/cancel", self._cancel)
        web.route("POST", "/runs/([^/]+)/resume", self._resume)

    def stop(self) -> None:
        self.runner.stop()

    @property
    def runs(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._kept["runs"])

    def _create(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        flow = {**request.json, "id": str(uuid.uuid4())}
        self._checked(flow)
        self._keep("flows", flow["id"], flow)
        return 201, flow

    def _get(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        return 200, self._flow(request.match[0])

    def _update(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        flow = {**self._flow(request.match[0]), **request.json}
        self._checked(flow)
        self._keep("flows", flow["id"], flow)
        return 200, flow

    def _run(self, request: Request) -> tuple[int, Any]:
        flow = self._flow(request.match[0])
        self._auth.check(request, flow["id"])
        run_id, asked = str(uuid.uuid4()), request.json
        kept = {"run_id": run_id, "flow_id": flow["id"], "label": asked.get("label"), "tags": asked.get("tags", [])}
        self._keep("runs", run_id, kept)
        self.runner.submit(FlowDefinition.from_json(flow["definition"]), asked["body"], "flow", run_id=run_id)
        return 201, self._shown(run_id)

    def _list(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        wanted = request.query.get("filter_flow_id", "").split(",")
        runs = [self._shown(run_id) for run_id, run in self.runs.items() if run["flow_id"] in wanted or wanted == [""]]
        return 200, {"runs": runs, "has_next_page": False, "marker": None, "limit": 100}

    def _get_run(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        return 200, self._shown(request.match[0])

    def _cancel(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, SERVER)
        self.runner.cancel(request.match[0])
        return 202, self._shown(request.match[0])

    def _resume(self, request: Request) -> tuple[int, Any]:
        self._auth.check(request, self.runs[request.match[0]]["flow_id"])
        return 200, self._shown(request.match[0])

    def _shown(self, run_id: str) -> dict[str, Any]:
        run = self.runs.get(run_id)
        if run is None:
            raise Refusal(404, {"error": {"code": "NOT_FOUND", "detail": f"no run {run_id}"}})
        row = next(row for row in self.runner.snapshot() if row.run_id == run_id)
        current = self.runner.current(run_id)
        if self.paused is not None:  # all runs wait for a person, as for a consent
            return {**run, "status": "INACTIVE", "details": self.paused}
        status = _STATUS.get(row.status, str(row.status))
        if current is not None and current.status is ActionState.INACTIVE:
            return {**run, "status": "INACTIVE", "details": {"code": "Inactive", "description": current.description}}
        return {**run, "status": status, "details": self._details(row)}

    def _details(self, row: RunRow) -> dict[str, Any]:
        if row.status is RunStatus.SUCCEEDED:
            return {"code": "FlowSucceeded", "output": self.runner.document(row.run_id)}
        if row.status is RunStatus.FAILED:
            cause = row.message.removeprefix(f"{row.state}: ")
            more = {"state_name": row.state, "cause": cause}
            return {"code": "FlowFailed", "description": "The flow failed", "details": more}
        return {"code": "ActionStarted", "description": row.message, "details": {"state_name": row.state}}

    def _flow(self, flow_id: str) -> dict[str, Any]:
        with self._lock:
            if flow_id in self._kept["flows"]:
                return dict(self._kept["flows"][flow_id])
        raise Refusal(404, {"error": {"code": "NOT_FOUND", "detail": f"no flow {flow_id}"}})

    def _checked(self, flow: dict[str, Any]) -> None:
        if found := problems(flow["definition"]):
            raise Refusal(422, {"error": {"code": "UNPROCESSABLE_ENTITY", "detail": "; ".join(found)}})
        try:
            FlowDefinition.from_json(flow["definition"])
        except BridgeError as error:
            raise Refusal(422, {"error": {"code": "UNPROCESSABLE_ENTITY", "detail": str(error)}}) from error

    def _keep(self, kind: str, name: str, value: dict[str, Any]) -> None:
        with self._lock:
            self._kept[kind][name] = value
            with replaced_file(self._path) as part:
                part.write_text(json.dumps(self._kept))
