"""Runs a command of Parsl's so that no process of it is left behind, whatever kills it or its owner.

`python -m hpc_bridge.parsl_guard --lease FILE COMMAND...` for a manager: when it ends, or its owner touches the file no
more, all that it started ends. With `--attached` for the interchange: it ends with the process that started it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from hpc_bridge.lease import WATCH_S, Lease
from hpc_bridge.parent import die_with_parent

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> int:
    """Run the command; returns its status."""
    if arguments[:1] == ["--attached"]:
        die_with_parent(os.getppid())
        os.execvp(arguments[1], arguments[1:])
    return _guard(Lease(Path(arguments[1])), arguments[2:])


def _guard(lease: Lease, command: list[str]) -> int:
    """Adopt whatever the command leaves behind, and end it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    own_pid = os.getpid()
    child = subprocess.Popen(command, preexec_fn=lambda: die_with_parent(own_pid))
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda number, frame: child.send_signal(number))
    while (status := child.poll()) is None:
        if lease.is_over():
            child.kill()
        time.sleep(WATCH_S)
    while orphans := _children(own_pid):
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
    return status


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
