"""How Parsl gets its workers: on this machine, or in blocks of nodes from PBS or Slurm."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GUARD = [sys.executable, "-m", "hpc_bridge.parsl_guard"]
_SCRIPTS = Path(sys.executable).parent
"""Where Parsl's own programs lie; the workers see this environment under the same path."""


@dataclass(frozen=True)
class Blocks:
    """The workers of one endpoint; queue, account and options are the scheduler's own words.

    gpus_per_node: shared out among a node's workers, each of which sees its own only; None: nothing is asked for, and
    all see all.
    """

    workers_per_node: int = 1
    nodes_per_block: int = 1
    min_blocks: int = 1
    max_blocks: int = 1
    walltime: str = "01:00:00"
    queue: str | None = None
    account: str | None = None
    cores_per_node: int | None = None
    gpus_per_node: int | None = None
    scheduler_options: str = ""
    worker_init: str = ""

    @property
    def gpus(self) -> list[str]:
        """The GPUs of each worker of a node, as CUDA_VISIBLE_DEVICES names them; empty when none are shared out."""
        share = (self.gpus_per_node or 0) // self.workers_per_node
        begins = range(0, share * self.workers_per_node, share or 1)
        return [",".join(str(number) for number in range(begin, begin + share)) for begin in begins]


@dataclass(frozen=True)
class ParslSettings:
    """One cluster.

    ``provider``: local, pbspro or slurm. ``address``: by which workers reach this computer. ``heartbeat_s``: between
    two words of a manager; after three without a word it is lost. ``stall_s``: a manager that begins none of its tasks
    for so long is ended; longer than a first import from a slow file system takes. ``folder``: Parsl's own files, on a
    file system that the workers see. ``niceness`` and ``threads`` are those of LocalCompute's WorkerSetup.
    ``mpi_bind`` and ``mpi_options``: words of the mpiexec that begins a PBS block of several nodes.
    """

    folder: Path
    provider: str = "local"
    address: str = "127.0.0.1"
    heartbeat_s: float = 5.0
    stall_s: float = 30.0
    niceness: int = 0
    threads: int | None = None
    mpi_bind: str = "--bind-to"
    mpi_options: str = ""


def executor(name: str, blocks: Blocks, settings: ParslSettings, lease: Path) -> Any:
    """Return the executor of one endpoint; its managers end when the file ``lease`` is not touched any more."""
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD

    period_s = max(1, round(settings.heartbeat_s))
    return HighThroughputExecutor(
        label=name,
        provider=provider(blocks, settings),
        address=settings.address,
        loopback_address="127.0.0.1",
        max_workers_per_node=blocks.workers_per_node,
        available_accelerators=blocks.gpus,
        heartbeat_period=period_s,
        heartbeat_threshold=3 * period_s,
        block_error_handler=False,
        encrypted=settings.provider != "local",
        worker_logdir_root=str(settings.folder),
        launch_cmd=f"{' '.join(GUARD)} --lease {lease} {_SCRIPTS}/{DEFAULT_LAUNCH_CMD}",
        interchange_launch_cmd=[*GUARD, "--attached", str(_SCRIPTS / "interchange.py")],
    )


def provider(blocks: Blocks, settings: ParslSettings) -> Any:
    """Return what asks the scheduler for nodes."""
    from parsl.launchers import MpiExecLauncher, SingleNodeLauncher, SrunLauncher
    from parsl.providers import LocalProvider, PBSProProvider, SlurmProvider

    common = {
        "init_blocks": blocks.min_blocks,
        "min_blocks": blocks.min_blocks,
        "max_blocks": blocks.max_blocks,
        "worker_init": blocks.worker_init,
    }
    if settings.provider == "local":
        return LocalProvider(**common)
    several = blocks.nodes_per_block > 1  # the launcher of one node would leave the others idle
    common |= {"walltime": blocks.walltime, "nodes_per_block": blocks.nodes_per_block, "account": blocks.account}
    common |= {"scheduler_options": blocks.scheduler_options}
    if settings.provider == "pbspro":
        mpiexec = MpiExecLauncher(bind_cmd=settings.mpi_bind, overrides=settings.mpi_options)
        return PBSProProvider(
            queue=blocks.queue,
            cpus_per_node=blocks.cores_per_node or 1,
            select_options=f"ngpus={blocks.gpus_per_node}" if blocks.gpus_per_node else "",
            launcher=mpiexec if several else SingleNodeLauncher(),
            **common,
        )
    return SlurmProvider(
        partition=blocks.queue,
        cores_per_node=blocks.cores_per_node,
        gpus_per_node=blocks.gpus_per_node,
        launcher=SrunLauncher() if several else SingleNodeLauncher(),
        **common,
    )
