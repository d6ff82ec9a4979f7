"""Globus Compute's body carried out by worker processes of this machine: named jobs, JSON in and out."""

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpc_bridge.actions import ActionStore, StoredProvider
from hpc_bridge.errors import BridgeError, Cancelled, TaskFailed, WorkerLost
from hpc_bridge.ports import ActionState, Json
from hpc_bridge.workers import Task, Workers, WorkerSetup

COMPUTE_URL = "https://compute.actions.globus.org/v3"


@dataclass
class _Call:
    """The tasks of one action and what has come of them so far."""

    tasks: list[Task] = field(default_factory=list)
    results: dict[int, Json] = field(default_factory=dict)
    errors: dict[int, BridgeError] = field(default_factory=dict)


class LocalCompute(StoredProvider):
    """Runs jobs of an allow-list in the worker processes of named endpoints.

    A task that was running when its worker or this process died is reported as interrupted: what it had done is
    unknown, so the runner begins a new attempt. The death of this process is not held against tasks that waited, nor a
    stop against any.
    """

    def __init__(
        self,
        jobs: Mapping[str, str],
        endpoints: Mapping[str, WorkerSetup],
        path: Path,
        *,
        limits_s: Mapping[str, float] | None = None,
    ) -> None:
        """Start the workers, warming them aside, and remember actions at ``path``.

        ``jobs`` maps the names that may be called to ``package.module:function``; ``limits_s`` bounds the running time
        of a job by name. Raises BackendUnavailable when another process holds the store.
        """
        super().__init__(ActionStore(path))
        self._store.lose_unfinished()
        self._jobs = dict(jobs)
        self._limits_s = dict(limits_s or {})
        self._calls: dict[str, _Call] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._workers = {name: Workers(name, setup) for name, setup in endpoints.items()}

    def check(self, body: Json) -> None:
        """Raise TaskFailed for an endpoint or a job that does not exist, and for arguments that are not an object."""
        if body.get("endpoint_id") not in self._workers:
            known = ", ".join(sorted(self._workers))
            raise TaskFailed(f"there is no endpoint {body.get('endpoint_id')!r} (known: {known})")
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or not tasks:
            raise TaskFailed("the action names no tasks")
        for task in tasks:
            if not isinstance(task, dict) or task.get("function_id") not in self._jobs:
                name = task.get("function_id") if isinstance(task, dict) else task
                raise TaskFailed(f"the job {name!r} is not on the allow-list ({', '.join(sorted(self._jobs))})")
            if not isinstance(task.get("kwargs", {}), dict) or task.get("args"):
                raise TaskFailed(f"the job {task['function_id']!r} takes its arguments as an object named kwargs")

    def begin(self, action_id: str, body: Json) -> None:
        """Queue the action's tasks."""
        call = _Call()
        self._calls[action_id] = call
        call.tasks = [self._task(action_id, index, task) for index, task in enumerate(body["tasks"])]
        for task in call.tasks:
            self._workers[body["endpoint_id"]].put(task)

    def progress(self, action_id: str) -> Json:
        """Return how many tasks there are and how many have ended."""
        call = self._calls.get(action_id)
        return {"tasks": len(call.tasks), "tasks_ended": len(call.results)} if call else {}

    def halt(self, action_id: str) -> None:
        """Stop the action's tasks; the workers that ran them are replaced."""
        self._store.fail(action_id, Cancelled("the job was cancelled"))
        if call := self._calls.pop(action_id, None):
            for task in call.tasks:
                task.stop()

    def stop(self) -> None:
        """Kill the workers and close; actions that were running are begun again by the runner at the next start."""
        self._stopping = True
        for workers in self._workers.values():
            workers.stop()
        for action_id in list(self._calls):
            self._store.set_running(action_id, False)
        self._store.close()

    def _task(self, action_id: str, index: int, task: Json) -> Task:
        name = task["function_id"]

        def begun() -> None:
            self._store.set_running(action_id, True)

        def ended(output: Json | None, error: BridgeError | None) -> None:
            self._ended(action_id, index, output, error)

        return Task(self._jobs[name], task.get("kwargs", {}), self._limits_s.get(name), begun, ended)

    def _ended(self, action_id: str, index: int, output: Json | None, error: BridgeError | None) -> None:
        call = self._calls.get(action_id)
        if call is None or self._stopping:
            return  # recorded by halt, or left open by stop
        with self._lock:
            call.results[index] = _result(output, error)
            if error is not None:
                call.errors[index] = error
            if len(call.results) < len(call.tasks):
                return
        self._close(action_id, call)

    def _close(self, action_id: str, call: _Call) -> None:
        results = [call.results[index] for index in sorted(call.results)]
        if call.errors:
            lost = all(isinstance(error, WorkerLost) for error in call.errors.values())
            self._store.fail(action_id, call.errors[min(call.errors)], results=results, interrupted=lost)
        else:
            self._store.end(action_id, ActionState.SUCCEEDED, {"results": results})
        self._calls.pop(action_id, None)


def _result(output: Json | None, error: BridgeError | None) -> Json:
    """One entry of details.results, with the keys that Globus Compute's action gives."""
    task_id = str(uuid.uuid4())
    if error is None:
        return {"task_id": task_id, "status": "success", "output": output}
    return {"task_id": task_id, "status": "failed", "code": type(error).__name__, "exception": str(error)}
