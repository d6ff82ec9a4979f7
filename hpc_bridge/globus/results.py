"""What a task of Globus Compute returned, or why it did not."""

from typing import Any

from hpc_bridge.errors import BackendUnavailable, TaskFailed, WorkerLost
from hpc_bridge.ports import Json

_LOST = ("WorkerLost", "ManagerLost", "worker was lost", "manager was lost", "Endpoint was restarted")


def task_output(client: Any, task_id: str) -> Json | None:
    """Return the JSON object that a task returned; None while it is at work.

    ``client`` is Globus Compute's. Raises TaskFailed, WorkerLost and BackendUnavailable.
    """
    from globus_compute_sdk.errors import ComputeError, SerdeError, TaskExecutionFailed

    try:
        found = client.get_task(task_id)
    except TaskExecutionFailed as error:
        raise _failure(str(error.remote_data)) from error
    except SerdeError as error:
        raise TaskFailed(f"the result of task {task_id} cannot be read: {error}") from error
    except ComputeError as error:
        raise BackendUnavailable(f"Globus Compute: {error}") from error
    if found["pending"]:
        return None
    if "result" not in found:
        raise WorkerLost(f"task {task_id} ended without a result: {found.get('reason', 'no reason is given')}")
    if not isinstance(found["result"], dict):
        raise TaskFailed(f"task {task_id} returned {type(found['result']).__name__} where a JSON object is needed")
    return dict(found["result"])


def _failure(text: str) -> TaskFailed | WorkerLost:
    """The line that matters of a traceback from afar."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason is given"
    if any(word in text for word in _LOST):
        return WorkerLost(f"the worker of the task was lost: {last}")
    return TaskFailed(last.removeprefix("hpc_bridge.errors.TaskFailed: ")[:500])
