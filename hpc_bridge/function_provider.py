"""Plain functions of this process as Globus Compute's body calls them: short steps such as registering a model."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpc_bridge.actions import ActionStore, StoredProvider
from hpc_bridge.compute_body import only_task, result_of
from hpc_bridge.errors import BridgeError, Cancelled, TaskFailed
from hpc_bridge.ports import ActionState, Json
from phasing.errors import PhaselineError

logger = logging.getLogger(__name__)


class FunctionProvider(StoredProvider):
    """Runs one function of a few by name in a thread of its own, one action after the other.

    A function that was running when the process died is reported as interrupted and called again with the same
    arguments by the runner's next attempt, so it has to leave either everything or nothing, or know its work again.
    """

    def __init__(self, functions: Mapping[str, Callable[[Json], Json]], path: Path) -> None:
        """Open the store at ``path``; a function gets its task's ``kwargs``.

        Raises BackendUnavailable when another process holds the store.
        """
        super().__init__(ActionStore(path))
        self._functions = dict(functions)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="function-action")
        self._store.lose_unfinished()

    def check(self, body: Json) -> None:
        """Raise TaskFailed unless the body names one function that is known, with an object of arguments."""
        task = only_task(body)
        if task.get("function_id") not in self._functions:
            known = ", ".join(sorted(self._functions))
            raise TaskFailed(f"there is no function {task.get('function_id')!r} here (known: {known})")

    def begin(self, action_id: str, body: Json) -> None:
        """Queue the call."""
        self._thread.submit(self._call, action_id, body["tasks"][0])

    def progress(self, action_id: str) -> Json:
        """Nothing is known of a call that is running."""
        return {}

    def halt(self, action_id: str) -> None:
        """Record the action as Cancelled; a call that has begun runs on, its result is not used."""
        self._store.fail(action_id, Cancelled("cancelled"))

    def stop(self) -> None:
        """Wait for the running call, drop the queued ones and close the store."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    def _call(self, action_id: str, task: Json) -> None:
        if not self._store.is_live(action_id):
            return
        self._store.set_running(action_id, True)
        try:
            output = self._functions[task["function_id"]](task.get("kwargs", {}))
        except PhaselineError as error:
            wrapped = error if isinstance(error, BridgeError) else TaskFailed(str(error))
            self._store.fail(action_id, wrapped)
        except Exception as error:  # a foreign function may raise anything; its action must end all the same
            logger.exception("the function of action %s failed", action_id)
            self._store.fail(action_id, TaskFailed(f"{type(error).__name__}: {error}"))
        else:
            self._finish(action_id, output)

    def _finish(self, action_id: str, output: Json) -> None:
        try:
            self._store.end(action_id, ActionState.SUCCEEDED, {"results": [result_of(output)]})
        except (TypeError, ValueError) as error:
            self._store.fail(action_id, TaskFailed(f"the result is not JSON: {error}"))
