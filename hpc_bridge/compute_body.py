"""Globus Compute's body as the providers of this machine take it: named jobs, and results as the service gives them."""

import threading
import uuid
from collections.abc import Callable, Collection, Mapping

from hpc_bridge.errors import BridgeError, TaskFailed, WorkerLost
from hpc_bridge.ports import Json


def check_body(body: Json, endpoints: Collection[str], jobs: Mapping[str, str]) -> None:
    """Raise TaskFailed for an endpoint or a job that does not exist, and for arguments that are not an object."""
    check_endpoint(body, endpoints)
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        raise TaskFailed("the action names no tasks")
    for task in tasks:
        if not isinstance(task, dict):
            raise _unlisted(task, jobs)
        check_job(task.get("function_id"), jobs)
        if not isinstance(task.get("kwargs", {}), dict) or task.get("args"):
            raise TaskFailed(f"the job {task['function_id']!r} takes its arguments as an object named kwargs")


def check_endpoint(body: Json, endpoints: Collection[str]) -> None:
    """Raise TaskFailed for an endpoint that does not exist."""
    if body.get("endpoint_id") not in endpoints:
        known = ", ".join(sorted(endpoints))
        raise TaskFailed(f"there is no endpoint {body.get('endpoint_id')!r} (known: {known})")


def check_job(name: object, jobs: Collection[str]) -> None:
    """Raise TaskFailed for a job that is not on the allow-list."""
    if name not in jobs:
        raise _unlisted(name, jobs)


def _unlisted(name: object, jobs: Collection[str]) -> TaskFailed:
    return TaskFailed(f"the job {name!r} is not on the allow-list ({', '.join(sorted(jobs))})")


ONE_TASK = "the action needs exactly one task, with its arguments as an object named kwargs"


def only_task(body: Json) -> Json:
    """Return the one task of a body. Raises TaskFailed unless it has exactly one, with an object of arguments."""
    tasks = body.get("tasks")
    task = tasks[0] if isinstance(tasks, list) and len(tasks) == 1 else None
    if not isinstance(task, dict) or not isinstance(task.get("kwargs", {}), dict):
        raise TaskFailed(ONE_TASK)
    return task


def result_of(output: Json, task_id: str | None = None) -> Json:
    """One entry of details.results for a task that succeeded, with the keys that Globus Compute's action gives."""
    return {"task_id": task_id or str(uuid.uuid4()), "status": "success", "output": output}


class Outcome:
    """What has come of an action's tasks so far."""

    def __init__(self, number: int, complete: Callable[[list[Json], BridgeError | None, bool], None]) -> None:
        """``complete`` is called once all ``number`` tasks have ended.

        It gets the results, the first error, and whether all errors are of workers that were lost.
        """
        self._number, self._complete = number, complete
        self._lock = threading.Lock()
        self._results: dict[int, Json] = {}
        self._errors: dict[int, BridgeError] = {}

    @property
    def progress(self) -> Json:
        """How many tasks there are and how many have ended."""
        return {"tasks": self._number, "tasks_ended": len(self._results)}

    def ended(self, index: int, output: Json | None, error: BridgeError | None) -> None:
        """Note how a task ended; from any thread."""
        with self._lock:
            self._results[index] = _result(output, error)
            if error is not None:
                self._errors[index] = error
            if len(self._results) < self._number:
                return
        first = self._errors[min(self._errors)] if self._errors else None
        lost = all(isinstance(error, WorkerLost) for error in self._errors.values())
        self._complete([self._results[index] for index in sorted(self._results)], first, lost)


def _result(output: Json | None, error: BridgeError | None) -> Json:
    if error is None:
        return result_of(output or {})
    code = type(error).__name__
    return {"task_id": str(uuid.uuid4()), "status": "failed", "code": code, "exception": str(error)}
