"""What every provider shares that runs jobs in processes of its own: tasks of an action, and what comes of them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from hpc_bridge.actions import ActionStore, StoredProvider
from hpc_bridge.compute_body import Outcome, check_body
from hpc_bridge.errors import BridgeError, Cancelled
from hpc_bridge.ports import ActionState, Json

Task = TypeVar("Task")
Ended = Callable[[Json | None, BridgeError | None], None]
"""Takes a task's output or its error, once."""


@dataclass
class _Call(Generic[Task]):
    """The tasks of one action and what has come of them so far."""

    outcome: Outcome
    tasks: list[Task] = field(default_factory=list)


class JobProvider(StoredProvider, Generic[Task]):
    """Runs jobs of an allow-list at named endpoints; subclasses make tasks, queue them and end them."""

    def __init__(
        self,
        store: ActionStore,
        jobs: Mapping[str, str],
        endpoints: Collection[str],
        limits_s: Mapping[str, float] | None,
    ) -> None:
        """``jobs`` maps the names that may be called to ``package.module:function``.

        ``limits_s`` bounds the running time of a job by name.
        """
        super().__init__(store)
        self._jobs, self._endpoints, self._limits_s = dict(jobs), set(endpoints), dict(limits_s or {})
        self._calls: dict[str, _Call[Task]] = {}
        self._stopping = False

    def make(self, name: str, endpoint: str, asked: Json, ended: Ended) -> Task:
        """Make a task from an entry of the body; ``name`` is its own, ``ended`` has to be called in its end."""
        raise NotImplementedError

    def put(self, endpoint: str, task: Task) -> None:
        """Queue a task."""
        raise NotImplementedError

    def stop_task(self, task: Task) -> None:
        """End a task, whether it waits or runs."""
        raise NotImplementedError

    def closed(self, action_id: str) -> None:
        """Note that the end of an action is recorded."""

    def check(self, body: Json) -> None:
        """Raise TaskFailed for an endpoint or a job that does not exist, and for arguments that are not an object."""
        check_body(body, self._endpoints, self._jobs)

    def begin(self, action_id: str, body: Json) -> None:
        """Queue the action's tasks."""
        endpoint = body["endpoint_id"]
        call: _Call[Task] = _Call(Outcome(len(body["tasks"]), partial(self._close, action_id)))
        self._calls[action_id] = call
        for index, asked in enumerate(body["tasks"]):
            ended = partial(call.outcome.ended, index)
            call.tasks.append(self.make(f"{action_id}-{index}", endpoint, asked, ended))
        for task in call.tasks:
            self.put(endpoint, task)

    def progress(self, action_id: str) -> Json:
        """Return how many tasks there are and how many have ended."""
        call = self._calls.get(action_id)
        return call.outcome.progress if call else {}

    def halt(self, action_id: str) -> None:
        """Stop the action's tasks; the workers that ran them are replaced."""
        self._store.fail(action_id, Cancelled("the job was cancelled"))
        if call := self._calls.pop(action_id, None):
            for task in call.tasks:
                self.stop_task(task)

    def _close(self, action_id: str, results: list[Json], error: BridgeError | None, lost: bool) -> None:
        if self._stopping or action_id not in self._calls:
            return  # left open by stop, or recorded by halt
        if error is not None:
            self._store.fail(action_id, error, results=results, interrupted=lost)
        else:
            self._store.end(action_id, ActionState.SUCCEEDED, {"results": results})
        self.closed(action_id)
        self._calls.pop(action_id, None)
