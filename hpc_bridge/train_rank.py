"""One of the processes that share a training round; torchrun starts it as ``python -m hpc_bridge.train_rank``."""

import json
import os
import sys
from pathlib import Path

from hpc_bridge.jobs import train_alone
from hpc_bridge.parent import die_with_parent
from hpc_bridge.torchrun import write_outcome
from phasing.compute import device_name
from phasing.errors import PhaselineError
from phasing.ranks import torch_ranks


def main() -> int:
    """Take this process's share of the round whose arguments lie in a file; returns the exit status."""
    arguments, outcome = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    try:
        with torch_ranks(device_name(arguments.get("device", "auto"))) as ranks:
            result = train_alone(ranks=ranks, **arguments)
            if ranks.is_first:
                write_outcome(outcome, result)
    except PhaselineError as error:
        write_outcome(outcome, {"failed": str(error)})
        return 1
    except Exception as error:  # the job that waits has no other way to hear of it
        write_outcome(outcome, {"failed": f"{type(error).__name__}: {error}"})
        raise
    return 0


if __name__ == "__main__":
    die_with_parent(os.getppid())
    sys.exit(main())
