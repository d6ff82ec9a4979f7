"""Globus Compute: jobs at endpoints of other facilities, each done once."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpc_bridge.compute_body import ONE_TASK, check_job, only_task, result_of
from hpc_bridge.errors import TaskFailed, TaskTimeout
from hpc_bridge.globus.errors import named_errors
from hpc_bridge.globus.functions import Functions, compute_client
from hpc_bridge.globus.remote import Remote, RemoteProvider
from hpc_bridge.globus.results import task_output
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.globus.transfer import check_uuid
from hpc_bridge.ports import ActionState, ActionStatus, Json


class GlobusCompute(RemoteProvider):
    """Carries out Globus Compute's body: one task, a job by name, arguments as JSON.

    The service does not know a submission again, so a job is told its request and where claims lie: of two submissions
    of one request the second waits for the first and gives its result (see hpc_bridge.claims).
    """

    def __init__(
        self,
        app: Any,
        settings: GlobusSettings,
        jobs: Mapping[str, str],
        path: Path,
        *,
        claims: str,
        limits_s: Mapping[str, float] | None = None,
    ) -> None:
        """``jobs`` is the allow-list, ``claims`` a folder of the compute side, ``limits_s`` bounds jobs by name."""
        self._settings, self._claims, self._limits_s = settings, claims, dict(limits_s or {})
        self.client = compute_client(app, settings)
        self.functions = Functions(self.client, jobs, settings)
        self._jobs = dict(jobs)
        super().__init__(path, settings.poll_s)

    def check(self, body: Json) -> None:
        """Raise TaskFailed for what names no endpoint, not one job of the list, or arguments that are no object."""
        check_uuid("the endpoint", body.get("endpoint_id"))
        task = only_task(body)
        if task.get("args"):
            raise TaskFailed(ONE_TASK)
        check_job(task.get("function_id"), self._jobs)

    def submit(self, remote: Remote) -> str:
        """Submit the task; asked again after a lost reply, it is the second of two that do the work once."""
        task = remote.body["tasks"][0]
        kwargs = {"_request": remote.action_id, "_claims": self._claims, **task.get("kwargs", {})}
        return self.functions.submit(task["function_id"], remote.body["endpoint_id"], kwargs)

    def look(self, remote: Remote) -> ActionStatus:
        """Return the task's state; a job over its time is given up."""
        name = remote.body["tasks"][0]["function_id"]
        limit_s = self._limits_s.get(name)
        if limit_s is not None and time.time() > remote.noted["prepared_s"] + limit_s:
            raise TaskTimeout(f"{name} did not end within {limit_s:g} s")
        with named_errors(self._settings, "Globus Compute"):
            task = task_output(self.client, remote.remote_id)
        if task is None:
            return ActionStatus(ActionState.ACTIVE, {"task_id": remote.remote_id, "tasks": 1, "tasks_ended": 0})
        return ActionStatus(ActionState.SUCCEEDED, {"results": [result_of(task, remote.remote_id)]})

    def end(self, remote: Remote) -> None:
        """The service has no way to end a task: it runs on, and its result is not used."""
