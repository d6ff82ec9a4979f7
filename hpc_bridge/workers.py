"""Worker processes for jobs: warmed before they are needed, really stopped, and gone when their owner is gone."""

import importlib
import inspect
import json
import os
import queue
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from hpc_bridge.errors import BridgeError, Cancelled, TaskFailed, TaskTimeout, WorkerLost
from hpc_bridge.parent import die_with_parent
from hpc_bridge.ports import Json
from phasing.errors import PhaselineError

WATCH_S = 0.25


@dataclass(frozen=True)
class WorkerSetup:
    """How the workers of one endpoint run.

    ``niceness`` is added to the priority so that streams keep their time, ``threads`` bounds the threads of the
    numerical libraries (None: their own choice), ``warm`` names the modules that every worker imports at its start.
    """

    workers: int = 1
    niceness: int = 10
    threads: int | None = None
    warm: tuple[str, ...] = ("torch", "ptychi.api")


@dataclass(eq=False)
class Task:
    """One call of a job, told of by the thread that watches it.

    The worker that takes it up makes the file ``mark``; ``ended`` gets either its output or its error, once.
    """

    target: str
    kwargs: Json
    limit_s: float | None
    mark: Path
    ended: Callable[[Json | None, BridgeError | None], None]
    _stopped: threading.Event = field(default_factory=threading.Event)
    _future: "Future[str] | None" = None

    def stop(self) -> None:
        """Cancel the call, whether it waits or runs."""
        self._stopped.set()
        if self._future is not None:
            self._future.cancel()

    @property
    def stopped(self) -> bool:
        """Whether the call was cancelled."""
        return self._stopped.is_set()

    def call(self, pool: ProcessPool) -> str:
        """Run the call in the pool and return its JSON. Raises what the future raises."""
        arguments = (str(self.mark), self.target, json.dumps(self.kwargs))
        self._future = pool.schedule(run_marked, args=arguments, timeout=self.limit_s)
        if self.stopped:
            self._future.cancel()
        return self._future.result()


class Workers:
    """The workers of one endpoint and the queue before them; the first task in is the first begun."""

    def __init__(self, name: str, setup: WorkerSetup) -> None:
        """Start the workers without waiting until they are warm."""
        self._setup = setup
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._resting = threading.Event()
        self._running: set[Task] = set()
        names = [f"{name}-{index}" for index in range(setup.workers)]
        self._threads = [threading.Thread(target=self._serve, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def put(self, task: Task) -> None:
        """Queue a task."""
        self._tasks.put(task)

    def rest(self, on: bool) -> None:
        """Give processes and memory back while nothing is to be done; the next task starts a worker again."""
        if on:
            self._resting.set()
        else:
            self._resting.clear()

    def stop(self) -> None:
        """Kill the workers and join their threads; running tasks end as Cancelled, waiting ones never end."""
        self._stopping.set()
        for task in tuple(self._running):
            task.stop()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        """Own one pool of one process, so that whatever kills that process reaches no other task.

        Its own thread owns the pool because a worker dies with the thread that made it (see die_with_parent).
        """
        pool: ProcessPool | None = self._pool()
        while not self._stopping.is_set():
            task = self._next()
            if task is not None:
                pool = pool or self._pool()
            sound = task is None or pool is None or self._perform(pool, task)
            if task is None and self._resting.is_set():
                _end(pool)
                pool = None
            elif not (sound and pool is not None and _is_usable(pool)) and not self._stopping.is_set():
                _end(pool)
                pool = self._pool()
        _end(pool)

    def _pool(self) -> ProcessPool:
        setup = self._setup
        pool = ProcessPool(
            max_workers=1,
            context=get_context("spawn"),
            initializer=prepare_worker,
            initargs=(os.getpid(), setup.niceness, setup.threads, setup.warm),
        )
        _is_usable(pool)
        return pool

    def _next(self) -> Task | None:
        try:
            return self._tasks.get(timeout=WATCH_S)
        except queue.Empty:
            return None

    def _perform(self, pool: ProcessPool, task: Task) -> bool:
        """Run a task to its end and tell whether its worker can be used again."""
        if task.stopped:
            task.ended(None, Cancelled("the task was cancelled"))
            return True
        self._running.add(task)
        if self._stopping.is_set():
            task.stop()
        output, error = _outcome(pool, task)
        self._running.discard(task)
        task.ended(output, error)
        return error is None or isinstance(error, TaskFailed)


def _is_usable(pool: ProcessPool) -> bool:
    """Whether the pool can take a task; asking is what makes pebble start its process."""
    try:
        return bool(pool.active)
    except (RuntimeError, OSError):  # no process, or not even its pipes, could be made
        return False


def _outcome(pool: ProcessPool, task: Task) -> tuple[Json | None, BridgeError | None]:
    try:
        return answer_of(task.call(pool)), None
    except TaskFailed as failure:
        return None, failure
    except CancelledError:
        return None, Cancelled("the task was cancelled")
    except TimeoutError:
        return None, TaskTimeout(f"{task.target} did not end within {task.limit_s:g} s")
    except (ProcessExpired, RuntimeError):  # pebble's own errors when a process or the pool is gone
        return None, WorkerLost(f"the worker process of {task.target} died")
    except Exception as error:  # noqa: BLE001 whatever else goes wrong ends this task, and not the thread of its queue
        return None, TaskFailed(f"{task.target} could not be run: {type(error).__name__}: {error}")


def _end(pool: ProcessPool | None) -> None:
    if pool is not None:
        pool.stop()
        pool.join()


def answer_of(text: str) -> Json:
    """Return the output in what run_job returned. Raises TaskFailed with the job's own error."""
    answer = json.loads(text)
    if "error" in answer:
        raise TaskFailed(answer["error"])
    return dict(answer["output"])


def prepare_worker(parent_pid: int, niceness: int, threads: int | None, warm: tuple[str, ...]) -> None:
    """Make this process a worker: it dies with its parent, yields to streams, and has its imports done."""
    die_with_parent(parent_pid)
    be_a_guest(niceness, threads)
    for name in warm:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the job that needs it says which extra to install


def be_a_guest(niceness: int, threads: int | None) -> None:
    """Yield to streams by ``niceness``, and bound the threads of numerical libraries that are imported from now on."""
    os.nice(niceness)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)


def run_marked(mark: str, target: str, kwargs: str) -> str:
    """Call a job as run_job does, having left a file that says so: if this process dies now, it may be of the job."""
    Path(mark).touch()
    return run_job(target, kwargs)


def run_job(target: str, kwargs: str) -> str:
    """Call ``package.module:function`` in a worker and return {"output": ...} or {"error": text} as JSON.

    Only text crosses between the processes: an exception or result that cannot be pickled would break the pool.
    """
    try:
        module, _, name = target.partition(":")
        function = getattr(importlib.import_module(module), name)
        arguments = json.loads(kwargs)
        _check_names(name, function, arguments)
        output = function(**arguments)
        return json.dumps({"output": _object(output)}, allow_nan=False)
    except PhaselineError as error:
        return json.dumps({"error": str(error)})
    except (Exception, SystemExit) as error:  # noqa: BLE001 a job may raise anything; the line says what it was
        with suppress(OSError):  # the log may lie on a full disk
            traceback.print_exc()
        return json.dumps({"error": f"{target} failed: {type(error).__name__}: {error}"})


def output_of(target: str, kwargs: Json) -> Json:
    """Call ``package.module:function`` in this process and return its JSON object. Raises TaskFailed."""
    return answer_of(run_job(target, json.dumps(kwargs)))


def _check_names(name: str, function: Callable[..., object], arguments: Json) -> None:
    """Name the arguments that a job lacks or does not know, before it begins."""
    known = inspect.signature(function).parameters
    needed = [key for key, one in known.items() if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if missing := [key for key in needed if key not in arguments]:
        raise TaskFailed(f"the job {name} lacks the argument {', '.join(missing)}")
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return
    if unknown := [key for key in arguments if key not in known]:
        raise TaskFailed(f"the job {name} does not know the argument {', '.join(unknown)}")


def _object(output: object) -> object:
    if not isinstance(output, dict):
        raise TaskFailed(f"the job returned {type(output).__name__} where a JSON object is needed")
    try:
        json.dumps(output, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TaskFailed(f"the job returned what is not JSON: {error}") from error
    return output
