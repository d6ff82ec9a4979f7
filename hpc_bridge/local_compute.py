"""Globus Compute's body carried out by worker processes of this machine: named jobs, JSON in and out."""

from collections.abc import Mapping
from pathlib import Path

from hpc_bridge.actions import ActionStore
from hpc_bridge.job_provider import Ended, JobProvider
from hpc_bridge.marks import Marks
from hpc_bridge.ports import Json
from hpc_bridge.workers import Task, Workers, WorkerSetup

COMPUTE_URL = "https://compute.actions.globus.org/v3"


class LocalCompute(JobProvider[Task]):
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
        super().__init__(ActionStore(path), jobs, endpoints, limits_s)
        self._marks = Marks(path.with_name(f"{path.name}.begun"))
        self._store.lose_unfinished(lambda action: self._marks.has(action.action_id))
        self._marks.clear()
        self._workers = {name: Workers(name, setup) for name, setup in endpoints.items()}

    def make(self, name: str, endpoint: str, asked: Json, ended: Ended) -> Task:
        """Make a task that leaves its mark when a worker takes it up."""
        job = asked["function_id"]
        return Task(self._jobs[job], asked.get("kwargs", {}), self._limits_s.get(job), self._marks.path(name), ended)

    def put(self, endpoint: str, task: Task) -> None:
        """Queue a task for the endpoint's workers."""
        self._workers[endpoint].put(task)

    def rest(self, endpoint: str, on: bool) -> None:
        """End an endpoint's workers while they have nothing to do, or keep them warm again."""
        self._workers[endpoint].rest(on)

    def stop_task(self, task: Task) -> None:
        """End a task; the worker that ran it is replaced."""
        task.stop()

    def closed(self, action_id: str) -> None:
        """Remove the marks of an action whose end is recorded."""
        self._marks.clear(action_id)

    def stop(self) -> None:
        """Kill the workers and close; actions that were running are begun again by the runner at the next start."""
        self._stopping = True
        for workers in self._workers.values():
            workers.stop()
        self._marks.clear()  # a stop is held against no job
        self._store.close()
