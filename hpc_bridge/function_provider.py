"""A plain function of this process as an action: for short steps such as registering a model."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpc_bridge.actions import ActionStore, StoredProvider
from hpc_bridge.errors import BridgeError, Cancelled, TaskFailed
from hpc_bridge.ports import ActionState, Json
from phasing.errors import PhaselineError

logger = logging.getLogger(__name__)


class FunctionProvider(StoredProvider):
    """Runs ``function(body) -> dict`` in one thread of its own, one action after the other.

    A function that was running when the process died is reported as interrupted and called again with the same body
    by the runner's next attempt, so it has to leave either everything or nothing, or know the body's run_id again.
    """

    def __init__(self, function: Callable[[Json], Json], path: Path) -> None:
        """Open the store at ``path``. Raises BackendUnavailable when another process holds it."""
        super().__init__(ActionStore(path))
        self._function = function
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="function-action")
        self._store.lose_unfinished()

    def begin(self, action_id: str, body: Json) -> None:
        """Queue the call."""
        self._thread.submit(self._call, action_id, body)

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

    def _call(self, action_id: str, body: Json) -> None:
        if not self._store.is_live(action_id):
            return
        self._store.set_running(action_id, True)
        try:
            result = self._function(body)
        except PhaselineError as error:
            wrapped = error if isinstance(error, BridgeError) else TaskFailed(str(error))
            self._store.fail(action_id, wrapped)
        except Exception as error:  # a foreign function may raise anything; its action must end all the same
            logger.exception("the function of action %s failed", action_id)
            self._store.fail(action_id, TaskFailed(f"{type(error).__name__}: {error}"))
        else:
            self._finish(action_id, result)

    def _finish(self, action_id: str, result: Json) -> None:
        try:
            self._store.end(action_id, ActionState.SUCCEEDED, {"output": result})
        except (TypeError, ValueError) as error:
            self._store.fail(action_id, TaskFailed(f"the result is not JSON: {error}"))
