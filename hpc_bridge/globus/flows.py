"""Globus Flows: definitions deployed once, runs begun once and followed as actions."""

import json
import time
from pathlib import Path
from typing import Any

from hpc_bridge.definition import FlowDefinition
from hpc_bridge.errors import BackendUnavailable, TaskFailed
from hpc_bridge.globus.apps import client_options, consent_url, sdk
from hpc_bridge.globus.errors import named_errors
from hpc_bridge.globus.registrations import Registrations
from hpc_bridge.globus.remote import Remote, RemoteProvider
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.globus.transfer import check_uuid
from hpc_bridge.ports import ActionState, ActionStatus, Json

FLOWS_URL = "https://flows.globus.org"
"""The URL of the one action by which the local runner has a whole flow run by the service."""
RESUME_S = 60.0
SETTLE_S = 10.0
"""How long a run whose reply was lost is looked for before it is begun again."""


class Deployments:
    """Which flow at the service is which of our definitions; kept in a file by name and content."""

    def __init__(self, app: Any, settings: GlobusSettings) -> None:
        """Nothing is asked yet."""
        self._settings = settings
        self._known = Registrations(settings.folder / "globus-flows.json", "flow_id")
        self._client = sdk().FlowsClient(app=app, **client_options(settings))

    def deploy(self, name: str, flow: FlowDefinition) -> str:
        """Create the flow at the service, or update it if it is another than before; return its id."""
        definition = flow.to_json()
        content, flow_id = json.dumps(definition, sort_keys=True), self._known.id_of(name)
        if self._known.holds(name, content):
            return flow_id
        with named_errors(self._settings, "Globus Flows"):
            if flow_id:
                self._client.update_flow(flow_id, definition=definition)
            else:
                title, schema = f"phaseline {name}", {"type": "object"}
                flow_id = str(self._client.create_flow(title=title, definition=definition, input_schema=schema)["id"])
        self._known.keep(name, content, flow_id)
        return flow_id

    def flow_id(self, name: str) -> str:
        """Return the id of a flow that was deployed. Raises TaskFailed when it was not."""
        flow_id = self._known.id_of(name)
        if not flow_id:
            raise TaskFailed(f"the flow {name} is not deployed: run `phaseline flow deploy {name}`")
        return flow_id


class GlobusFlows(RemoteProvider):
    """Runs of deployed flows as actions with the body {flow_id, body, label}."""

    def __init__(self, app: Any, settings: GlobusSettings, path: Path) -> None:
        """``app`` logs in, ``path`` is the file that remembers actions."""
        self._app, self._settings = app, settings
        self._client = sdk().FlowsClient(app=app, **client_options(settings))
        self._specific: dict[str, Any] = {}
        super().__init__(path, settings.poll_s)

    def check(self, body: Json) -> None:
        """Raise TaskFailed naming what is missing."""
        check_uuid("the flow_id", body.get("flow_id"))
        if not isinstance(body.get("body"), dict):
            raise TaskFailed("the flow's body is not an object")

    def submit(self, remote: Remote) -> str:
        """Begin the run, once: after a reply that was lost, or a kill, the run is first looked for by its tag.

        Raises BackendUnavailable while it is not known whether the run has begun.
        """
        tag = remote.action_id
        asked_s = remote.noted.get("asked_s")
        if asked_s is not None:
            if found := self._find(remote.body["flow_id"], tag):
                return found
            if time.time() < asked_s + SETTLE_S:
                raise BackendUnavailable("the reply of Globus Flows was lost: looking whether the run has begun")
        self._note(remote, {"asked_s": time.time()})
        client = self._flow(remote.body["flow_id"])
        label = f"{str(remote.body.get('label', 'phaseline'))[:50]} {tag[:8]}"
        # the service does not know a request again: repeated blindly, it would begin a second run
        with named_errors(self._settings, "Globus Flows"), client.retry_config.tune(max_retries=0):
            return str(client.run_flow(remote.body["body"], label=label, tags=[tag])["run_id"])

    def look(self, remote: Remote) -> ActionStatus:
        """Return the run as it stands, with the state that it is in."""
        with named_errors(self._settings, "Globus Flows"):
            run = self._client.get_run(remote.remote_id)
        inner = run.get("details") or {}
        more = inner.get("details") or {}
        details: Json = {"run_id": remote.remote_id, "state_name": more.get("state_name", "")}
        match run["status"]:
            case "SUCCEEDED":
                return ActionStatus(ActionState.SUCCEEDED, {**details, "output": inner.get("output")})
            case "ACTIVE":
                return ActionStatus(ActionState.ACTIVE, details)
            case "INACTIVE":
                return self._inactive(remote, inner, details)
            case _:
                text = _failure(inner, str(run["status"]))
                return ActionStatus(ActionState.FAILED, {**details, "code": "TaskFailed", "description": text})

    def end(self, remote: Remote) -> None:
        """Cancel the run."""
        run_id = remote.remote_id or (self._find(remote.body["flow_id"], remote.action_id) if remote.noted else "")
        if run_id:
            with named_errors(self._settings, "Globus Flows"):
                self._client.cancel_run(run_id)

    def _inactive(self, remote: Remote, inner: Json, details: Json) -> ActionStatus:
        """The run waits for a person; from time to time it is asked to go on, in case the person has acted."""
        details |= {"description": f"run {remote.remote_id} waits: {inner.get('description', 'no reason is given')}"}
        if url := self._consent_url(inner):
            details["consent_url"] = url
        if time.time() >= remote.noted.get("resumed_s", 0.0) + RESUME_S:
            self._note(remote, {"resumed_s": time.time()})
            with named_errors(self._settings, "Globus Flows"):
                self._flow(remote.body["flow_id"]).resume_run(remote.remote_id)
        return ActionStatus(ActionState.INACTIVE, details)

    def _consent_url(self, inner: Json) -> str:
        scope = inner.get("required_scope") or (inner.get("details") or {}).get("required_scope")
        return consent_url(self._settings, [str(scope)]) if scope else ""

    def _find(self, flow_id: str, tag: str) -> str:
        """Return the id of the run that carries our tag; empty when there is none."""
        with named_errors(self._settings, "Globus Flows"):
            for run in self._client.paginated.list_runs(filter_flow_id=flow_id).items():
                if tag in (run.get("tags") or []):
                    return str(run["run_id"])
        return ""

    def _flow(self, flow_id: str) -> Any:
        if flow_id not in self._specific:
            options = client_options(self._settings)
            self._specific[flow_id] = sdk().SpecificFlowClient(flow_id, app=self._app, **options)
        return self._specific[flow_id]


def _failure(inner: Json, status: str) -> str:
    """The line that says in which state a run failed, and why."""
    more = inner.get("details") or {}
    cause = more.get("cause") or inner.get("description") or status
    if isinstance(cause, dict):
        cause = (cause.get("details") or {}).get("description") or cause.get("description") or json.dumps(cause)
    state = more.get("state_name")
    return " ".join(f"{state}: {cause}".split() if state else str(cause).split())[:500]
