"""Small jobs for the tests of the bridge; they wait on named pipes, never on the clock."""

import os
import signal
import sys
from pathlib import Path


def note(*, log: str, tag: str, value: int = 0) -> dict[str, object]:
    """Append one line and return at once."""
    _append(log, f"{tag} {os.getpid()}")
    return {"value": value, "tag": tag}


def wait(*, log: str, tag: str, pipe: str) -> dict[str, object]:
    """Append one line and wait until somebody writes one into the pipe."""
    _append(log, f"{tag} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}")
    with Path(pipe).open() as reader:
        return {"heard": reader.readline().strip()}


def pid() -> dict[str, object]:
    environment = {"threads": os.environ.get("OMP_NUM_THREADS"), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    return {"pid": os.getpid(), "niceness": os.nice(0), **environment}


def kill_itself() -> dict[str, object]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def not_json() -> dict[str, object]:
    return {"value": object()}


def not_a_number() -> dict[str, object]:
    return {"value": float("nan")}


def not_an_object() -> list[int]:
    return [1]


def fail(*, message: str) -> dict[str, object]:
    raise ValueError(message)


def fail_unheard() -> dict[str, object]:
    """Fail where the traceback cannot be written, as on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), sys.stderr.fileno())
    raise ValueError("bad luck")


def leave() -> dict[str, object]:
    raise SystemExit(3)


def _append(log: str, line: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode() + b"\n")
    os.close(handle)
