"""A training round shared by several processes on one node, one for each GPU, started by PyTorch's torchrun.

``python -m hpc_bridge.torchrun PARENT ...`` is torchrun itself, which ends with the job that started it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from hpc_bridge.errors import TaskFailed
from hpc_bridge.parent import die_with_parent
from hpc_bridge.ports import Json
from phasing.files import replaced_file

_ARGUMENTS, _OUTCOME, _LOG = ".ranks.json", ".ranks-outcome.json", ".ranks.log"
_LOOPBACK = "lo"
_HOW = "exitcode"
"""The word by which torchrun's report says how a process ended."""


def run_shared(num_processes: int, arguments: Json, folder: Path) -> Json:
    """Call hpc_bridge.train_rank in so many processes with these arguments; returns what the first one returns.

    folder: receives files between the processes. Raises TaskFailed with the reason when one of them fails.
    """
    outcome = folder / _OUTCOME
    outcome.unlink(missing_ok=True)
    asked = folder / _ARGUMENTS
    asked.write_text(json.dumps(arguments))
    command = [sys.executable, "-m", "hpc_bridge.torchrun", str(os.getpid())]
    command += ["--standalone", "--nproc-per-node", str(num_processes), "-m", "hpc_bridge.train_rank"]
    with (folder / _LOG).open("w") as log:
        # all processes are on this node: nothing of theirs listens elsewhere
        environment = os.environ | {"GLOO_SOCKET_IFNAME": _LOOPBACK}
        command += [str(asked), str(outcome)]
        status = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if status == 0:
        return dict(json.loads(outcome.read_text()))
    if outcome.exists():
        raise TaskFailed(json.loads(outcome.read_text())["failed"])
    told = (folder / _LOG).read_text().splitlines()
    how = next((line.strip() for line in reversed(told) if _HOW in line), f"status {status}")
    raise TaskFailed(f"the training processes ended: {how}; see {folder / _LOG}")


def write_outcome(path: Path, outcome: Json) -> None:
    """Leave what a process returns, or why it failed, for the job that waits."""
    with replaced_file(path) as part:
        part.write_text(json.dumps(outcome))


def main() -> None:
    """Be torchrun."""
    from torch.distributed.run import main as torchrun

    die_with_parent(int(sys.argv[1]))
    torchrun(sys.argv[2:])


if __name__ == "__main__":
    main()
