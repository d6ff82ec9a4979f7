"""Globus Compute's body carried out on one cluster by Parsl, whose scheduler may be PBS or Slurm."""

from collections.abc import Mapping
from pathlib import Path

from hpc_bridge.actions import ActionStore
from hpc_bridge.job_provider import Ended, JobProvider
from hpc_bridge.parsl_kernel import Kernel, ParslTask
from hpc_bridge.parsl_settings import Blocks, ParslSettings
from hpc_bridge.ports import Json


class ParslCompute(JobProvider[ParslTask]):
    """Runs jobs of an allow-list in the workers of Parsl's executors, one executor for each endpoint.

    What LocalCompute promises holds here, too: a task whose worker, manager or interchange dies, or that ran when this
    process was killed, is reported as interrupted, and the job is ended before a new attempt can meet it (LEASE_S).
    """

    def __init__(
        self,
        jobs: Mapping[str, str],
        endpoints: Mapping[str, Blocks],
        settings: ParslSettings,
        path: Path,
        *,
        limits_s: Mapping[str, float] | None = None,
    ) -> None:
        """Start Parsl without waiting for it, and remember actions at ``path``.

        Raises BackendUnavailable when another process holds the store, and MissingExtra.
        """
        super().__init__(ActionStore(path), jobs, endpoints, limits_s)
        self._kernel = Kernel(settings, endpoints)
        self._store.lose_unfinished(lambda action: self._kernel.had_begun(action.action_id))
        self._kernel.forget_former()

    def make(self, name: str, endpoint: str, asked: Json, ended: Ended) -> ParslTask:
        """Make a task for one of Parsl's executors."""
        job = asked["function_id"]
        return ParslTask(name, endpoint, self._jobs[job], asked.get("kwargs", {}), self._limits_s.get(job), ended)

    def progress(self, action_id: str) -> Json:
        """Return how many tasks have ended, and why none can begin, where the scheduler refuses to give out nodes."""
        call = self._calls.get(action_id)
        refusal = self._kernel.refusal(call.tasks[0].endpoint) if call and call.tasks else ""
        return super().progress(action_id) | ({"description": f"no workers: {refusal}"} if refusal else {})

    def put(self, endpoint: str, task: ParslTask) -> None:
        """Queue a task."""
        self._kernel.put(task)

    def rest(self, endpoint: str, on: bool) -> None:
        """Give an endpoint's blocks back while it has nothing to do; the next task asks for one again."""
        self._kernel.rest(endpoint, on)

    def stop_task(self, task: ParslTask) -> None:
        """End a task: its worker ends within a second, and is replaced."""
        self._kernel.cancel(task)

    def stop(self) -> None:
        """End all blocks and close; actions that were running are begun again by the runner at the next start."""
        self._stopping = True
        self._kernel.stop()
        self._store.close()
