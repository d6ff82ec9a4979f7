#!/usr/bin/env python3
"""PBS and Slurm on this machine, as far as Parsl asks them: one program under the names of their commands.

`install` links it as sbatch, squeue, sacct, scancel, srun, qsub, qstat, qdel and mpiexec into a folder for the PATH.
What is submitted runs at once, as a process group of its own; PBS's jobs begin without the environment of who
submitted them, as on a cluster. All is kept in the folder SCHEDULER_FOLDER: `N.json` says how job N was asked for.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

REFUSAL = "refusal"
"""A file in the folder: what the scheduler says to whoever submits, instead of taking the job."""
HOST = "stand-in"


def install(binaries: Path) -> None:
    """Make the commands in a folder."""
    for name in _DO:
        (binaries / name).write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {name} "$@"\n')
        (binaries / name).chmod(0o755)


def jobs(folder: Path) -> list[dict[str, Any]]:
    """All jobs that were submitted, in order."""
    paths = sorted(folder.glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text()) for path in paths]


def is_alive(pid: int) -> bool:
    """Whether a job's script is at work."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _submit(folder: Path, arguments: list[str], directive: str, environment: dict[str, str]) -> str:
    """Run the script; returns the job's number."""
    if (folder / REFUSAL).exists():
        sys.exit((folder / REFUSAL).read_text())
    script = arguments[-1]
    asked = re.findall(rf"^#{directive} (.*)$", Path(script).read_text(), re.MULTILINE)
    number = str(len(jobs(folder)) + 1)
    with (folder / f"{number}.out").open("w") as output:
        name = Path(script).name
        more = {"SLURM_JOB_NAME": name, "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "2"}
        process = subprocess.Popen(
            ["bash", script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment | more,
            cwd=folder,
        )
    record = {"number": number, "pid": process.pid, "arguments": arguments[:-1], "asked": asked}
    (folder / f"{number}.json").write_text(json.dumps(record))
    return number


def end(folder: Path, numbers: list[str]) -> None:
    """End jobs, as when they are cancelled or their time is over."""
    for job in jobs(folder):
        if job["number"] in numbers:
            with suppress(ProcessLookupError):
                os.killpg(job["pid"], signal.SIGTERM)


def _sbatch(folder: Path, arguments: list[str]) -> None:
    print("Submitted batch job", _submit(folder, arguments, "SBATCH", dict(os.environ)))


def _qsub(folder: Path, arguments: list[str]) -> None:
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    print(f"{_submit(folder, arguments, 'PBS', bare)}.{HOST}")


def _sacct(folder: Path, arguments: list[str]) -> None:
    sys.exit("Slurm accounting storage is disabled")


def _squeue(folder: Path, arguments: list[str]) -> None:
    for job in jobs(folder):
        if job["number"] in arguments[-1].split(",") and is_alive(job["pid"]):
            print(job["number"], "R")


def _qstat(folder: Path, arguments: list[str]) -> None:
    states = {f"{job['number']}.{HOST}": "R" if is_alive(job["pid"]) else "F" for job in jobs(folder)}
    print(json.dumps({"Jobs": {name: {"job_state": state} for name, state in states.items() if name in arguments}}))


def _scancel(folder: Path, arguments: list[str]) -> None:
    end(folder, [name.partition(".")[0] for name in arguments])


def _srun(folder: Path, arguments: list[str]) -> None:
    _on_all_nodes(int(arguments[arguments.index("--ntasks") + 1]), arguments[-2:])


def _mpiexec(folder: Path, arguments: list[str]) -> None:
    _on_all_nodes(int(arguments[arguments.index("-n") + 1]), arguments[-2:])


def _on_all_nodes(number: int, command: list[str]) -> None:
    started = [subprocess.Popen(command) for _ in range(number)]
    sys.exit(max(process.wait() for process in started))


_DO = {
    "sbatch": _sbatch,
    "squeue": _squeue,
    "sacct": _sacct,
    "scancel": _scancel,
    "srun": _srun,
    "qsub": _qsub,
    "qstat": _qstat,
    "qdel": _scancel,
    "mpiexec": _mpiexec,
}

if __name__ == "__main__":
    _DO[sys.argv[1]](Path(os.environ.get("SCHEDULER_FOLDER", ".")), sys.argv[2:])
