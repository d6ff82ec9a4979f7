"""A job in one of Parsl's workers: Parsl can neither cancel it nor bound its time, so its worker watches it."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hpc_bridge.lease import WATCH_S, Lease
from hpc_bridge.workers import be_a_guest, run_job

ALIVE = "alive"
"""The owner's lease, in the folder by which it and the workers tell each other of tasks."""


@dataclass
class _Watched:
    """What the watcher looks at: the job at work, if there is one."""

    stop: Path | None = None
    late: Path | None = None
    ends_s: float = float("inf")
    lease: Lease | None = None


_watched = _Watched()
_watcher: threading.Thread | None = None


def perform(target: str, kwargs: str, control: str, limit_s: float | None, niceness: int, threads: int | None) -> str:
    """Call ``package.module:function`` and return run_job's JSON; this process ends if the job has to.

    That it has begun, and in which block, is written to ``control`` with .begun added.
    It has to end when its time is over (then ``control`` with .late added says so), when ``control`` with .stop added
    appears (a cancelled job), when the file ``alive`` beside it is not touched any more (its owner was killed), and
    when this worker's manager is gone.
    """
    if _watcher is None:
        be_a_guest(niceness, threads)
    _watch(Path(control), limit_s)
    Path(f"{control}.begun").write_text(os.environ.get("PARSL_WORKER_BLOCK_ID", ""), encoding="ascii")
    try:
        return run_job(target, kwargs)
    finally:
        _watched.stop, _watched.lease, _watched.ends_s = None, None, float("inf")


def _watch(control: Path, limit_s: float | None) -> None:
    global _watcher
    _watched.lease = Lease(control.parent / ALIVE)
    _watched.ends_s = float("inf") if limit_s is None else time.monotonic() + limit_s
    _watched.stop, _watched.late = (control.with_name(f"{control.name}.{ending}") for ending in ("stop", "late"))
    if _watcher is None:
        _watcher = threading.Thread(target=_look, args=(os.getppid(),), name="watch", daemon=True)
        _watcher.start()


def _look(parent_pid: int) -> None:
    while os.getppid() == parent_pid and not _is_over():
        time.sleep(WATCH_S)
    os._exit(1)


def _is_over() -> bool:
    stop, lease = _watched.stop, _watched.lease
    if time.monotonic() > _watched.ends_s and _watched.late is not None:
        _watched.late.touch()  # tells the owner why this worker was lost
        return True
    return (stop is not None and stop.exists()) or (lease is not None and lease.is_over())
