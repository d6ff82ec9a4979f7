"""Parsl's kernel with what it lacks: tasks that end when the interchange dies, cancelling, and a clean end."""

import json
import logging
import queue
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hpc_bridge.errors import BridgeError, Cancelled, TaskFailed, TaskTimeout, WorkerLost
from hpc_bridge.parsl_settings import Blocks, ParslSettings, executor
from hpc_bridge.parsl_stalls import Stalls
from hpc_bridge.parsl_worker import ALIVE, perform
from hpc_bridge.ports import Json
from hpc_bridge.workers import answer_of
from phasing.errors import MissingExtra

logger = logging.getLogger(__name__)
WATCH_S = 0.5
RESTART_S = 5.0
CLEANUP_S = 15.0
ANSWER_S = 10
ASK_SCHEDULER_S = 10
"""How often a scheduler may be asked for a block: one that refuses is asked again."""
CONTROL = "control"


@dataclass(eq=False)
class ParslTask:
    """One call of a job; ``ended`` gets its output or its error, once."""

    name: str
    endpoint: str
    target: str
    kwargs: Json
    limit_s: float | None
    ended: Callable[[Json | None, BridgeError | None], None]
    cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: bool = False

    def end(self, output: Json | None, error: BridgeError | None) -> None:
        """Tell how the task ended; the first end stands."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self.ended(output, error)


class Kernel:
    """Owns Parsl in one thread, which also is the one that its interchanges die with."""

    def __init__(self, settings: ParslSettings, endpoints: Mapping[str, Blocks]) -> None:
        """Begin to start; tasks wait meanwhile. Raises MissingExtra."""
        try:
            import parsl  # noqa: F401
        except ImportError as error:
            raise MissingExtra("parsl", "parsl") from error
        self._settings, self._endpoints = settings, dict(endpoints)
        self._left = list(settings.folder.glob(f"{CONTROL}-*"))  # of owners that were killed
        self._control = settings.folder / f"{CONTROL}-{uuid.uuid4().hex[:8]}"
        self._control.mkdir(parents=True)
        self._tasks: queue.SimpleQueue[ParslTask] = queue.SimpleQueue()
        self._open: set[ParslTask] = set()
        self._stopping = threading.Event()
        self._flow: Any = None
        self._resting: set[str] = set()
        self._stalls = {name: Stalls(self._control, settings.stall_s) for name in self._endpoints}
        self._thread = threading.Thread(target=self._work, name="parsl", daemon=True)
        self._thread.start()

    def forget_former(self) -> None:
        """Remove what owners that were killed have left; whatever they started ends with it."""
        for left in self._left:
            shutil.rmtree(left, ignore_errors=True)

    def had_begun(self, action_id: str) -> bool:
        """Whether a worker of a former owner had taken up a task of an action."""
        return any(next(left.glob(f"{action_id}-*.begun"), None) for left in self._left)

    def put(self, task: ParslTask) -> None:
        """Queue a task."""
        self._tasks.put(task)

    def cancel(self, task: ParslTask) -> None:
        """End a task; its worker sees the marker and ends."""
        task.cancelled = True
        self._file(task, "stop").touch()
        task.end(None, Cancelled("the task was cancelled"))

    def rest(self, endpoint: str, on: bool) -> None:
        """Have an endpoint without tasks give its blocks back, or stop doing so."""
        self._resting = self._resting | {endpoint} if on else self._resting - {endpoint}

    def refusal(self, endpoint: str) -> str:
        """What the scheduler said when it gave out no block for an endpoint; empty while there is one, or none yet."""
        flow = self._flow
        return "" if flow is None else _refusal(flow.executors[endpoint])

    def stop(self) -> None:
        """End all tasks and blocks, and join the thread."""
        self._stopping.set()
        self._thread.join()
        shutil.rmtree(self._control, ignore_errors=True)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                (self._control / ALIVE).touch()
                self._flow = _started(self._settings, self._endpoints, self._control / ALIVE)
                self._serve()
            except Exception as error:  # Parsl raises anything; what waits goes on once it can be started
                logger.exception("Parsl could not be started")
                self._lose(f"Parsl could not be started: {error}")
                self._stopping.wait(RESTART_S)
            finally:
                self._end_flow()

    def _serve(self) -> None:
        """Hand on tasks and watch, until told to stop or Parsl is no use any more."""
        while not self._stopping.is_set():
            (self._control / ALIVE).touch()
            if dead := self._dead():
                logger.warning("the interchange of Parsl's executor %s is gone; starting anew", dead)
                self._lose(f"the interchange of {dead} died")
                return
            self._end_stalled()
            self._give_back()
            try:
                self._submit(self._tasks.get(timeout=WATCH_S))
            except queue.Empty:
                continue

    def _dead(self) -> str:
        """The executor that cannot run tasks any more; empty when all can."""
        for name in self._endpoints:
            found = self._flow.executors[name]
            if found.bad_state_is_set or found.interchange_proc.poll() is not None:
                return name
        return ""

    def _end_stalled(self) -> None:
        """End blocks whose manager was given tasks that it does not begin: half of it is dead, and nobody tells."""
        for name in self._endpoints:
            tasks = [task.name for task in tuple(self._open) if task.endpoint == name]
            found = self._flow.executors[name]
            for block in self._stalls[name].look(tasks, partial(_managers, found)) if tasks else ():
                logger.warning("a manager in block %s of %s begins none of its tasks; ending the block", block, name)
                if job := found.blocks_to_job_id.get(block):
                    found.provider.cancel([job])

    def _give_back(self) -> None:
        """End the blocks of resting endpoints that have no tasks; Parsl asks for one when there are."""
        for name in self._resting - {task.endpoint for task in self._open}:
            found = self._flow.executors[name]
            if self._tasks.empty() and found.blocks_to_job_id:
                found.scale_in_facade(len(found.blocks_to_job_id))

    def _submit(self, task: ParslTask) -> None:
        if task.cancelled:
            return
        settings = self._settings
        arguments = (task.target, json.dumps(task.kwargs), str(self._control / task.name), task.limit_s)
        self._open.add(task)
        future = self._flow.submit(
            perform,
            app_args=(*arguments, settings.niceness, settings.threads),
            executors=[task.endpoint],
            cache=False,
            ignore_for_cache=[],
            app_kwargs={},
        )
        future.add_done_callback(partial(self._done, task))

    def _done(self, task: ParslTask, future: "Future[str]") -> None:
        self._open.discard(task)
        if not self._stopping.is_set():
            task.end(*_outcome(task, future, self._file(task, "late").exists()))

    def _lose(self, text: str) -> None:
        for task in tuple(self._open):
            self._file(task, "stop").touch()  # its worker may live on
            task.end(None, WorkerLost(text))
        self._open.clear()

    def _file(self, task: ParslTask, ending: str) -> Path:
        """A file by which this process and a task's worker tell each other that the task is over."""
        return self._control / f"{task.name}.{ending}"

    def _end_flow(self) -> None:
        for task in tuple(self._open):
            self._file(task, "stop").touch()
        flow, self._flow = self._flow, None
        if flow is None:
            return
        for name in self._endpoints:
            _end_blocks(flow.executors[name])
        # Parsl asks a dead interchange for minutes whether it will not answer: nobody waits for that
        cleaning = threading.Thread(target=_clean, args=(flow,), name="parsl-cleanup", daemon=True)
        cleaning.start()
        cleaning.join(CLEANUP_S if self._stopping.is_set() else 0.0)
        for found in flow.executors.values():
            process = getattr(found, "interchange_proc", None)
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def _managers(found: Any) -> list[dict[str, Any]]:
    """What the interchange says of its managers; an answer that does not come counts as its death."""
    return list(found.command_client.run("MANAGERS", timeout_s=ANSWER_S))


def _refusal(found: Any) -> str:
    """Why the last block of an executor did not come into being; empty while there is another."""
    from parsl.jobs.states import JobState

    blocks = list(found.status_facade.values())
    if not blocks or any(block.state in (JobState.PENDING, JobState.RUNNING) for block in blocks):
        return ""
    return " ".join((blocks[-1].message or "").split())[:500]


def _end_blocks(found: Any) -> None:
    """End the blocks of an executor by its scheduler, without its interchange."""
    try:
        found.provider.cancel(list(found.blocks_to_job_id.values()))
    except Exception:  # the scheduler's programs fail in their own ways; managers end when nobody answers them
        logger.exception("blocks of %s could not be cancelled", found.label)


def _clean(flow: Any) -> None:
    try:
        flow.cleanup()
    except Exception:  # half-dead executors do not end well
        logger.exception("Parsl did not end well")


def _started(settings: ParslSettings, endpoints: Mapping[str, Blocks], lease: Path) -> Any:
    from parsl.config import Config
    from parsl.dataflow.dflow import DataFlowKernel

    return DataFlowKernel(
        Config(
            executors=[executor(name, blocks, settings, lease) for name, blocks in endpoints.items()],
            run_dir=str(settings.folder),
            strategy="simple",
            strategy_period=1 if settings.provider == "local" else ASK_SCHEDULER_S,
            max_idletime=86_400.0,
            retries=0,
            usage_tracking=0,
            initialize_logging=False,
        )
    )


def _outcome(task: ParslTask, future: "Future[str]", late: bool) -> tuple[Json | None, BridgeError | None]:
    from parsl.executors.errors import ExecutorError

    error = future.exception()
    if error is None:
        try:
            return answer_of(future.result()), None
        except TaskFailed as failure:
            return None, failure
    if late:
        return None, TaskTimeout(f"{task.target} did not end within {task.limit_s:g} s")
    if type(error).__name__ in ("WorkerLost", "ManagerLost") or isinstance(error, ExecutorError):
        return None, WorkerLost(f"the worker process of {task.target} died: {error}")
    return None, TaskFailed(f"{task.target} could not be run: {type(error).__name__}: {error}")
