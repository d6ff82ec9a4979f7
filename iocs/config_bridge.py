"""Where files and jobs go: this machine, a cluster by Parsl, or other facilities by Globus."""

from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of the configuration: keys that do not exist are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ParslEndpoint(Section):
    """Workers of one endpoint in the blocks of a scheduler; queue, account and cores_per_node as the cluster has them.

    gpus_per_node: shared out evenly among the workers of a node. worker_init: shell lines that make phaseline
    importable in a job, such as `source .../activate`.
    """

    workers_per_node: Count = 1
    nodes_per_block: Count = 1
    min_blocks: Annotated[int, Field(ge=0)] = 1
    max_blocks: Count = 1
    walltime: str = "01:00:00"
    queue: str | None = None
    account: str | None = None
    cores_per_node: Count | None = None
    gpus_per_node: Count | None = None
    scheduler_options: str = ""
    worker_init: str = ""

    @model_validator(mode="after")
    def _gpus_go_round(self) -> Self:
        if self.gpus_per_node is not None and self.gpus_per_node % self.workers_per_node:
            raise ValueError(f"workers_per_node = {self.workers_per_node} cannot share gpus_per_node evenly")
        return self


class ParslSection(Section):
    """Jobs by Parsl's HighThroughputExecutor on one cluster that sees this computer's files.

    address: by which workers reach this computer. heartbeat_s: after three times this without a word a manager is lost.
    stall_s: a manager that begins none of its tasks for so long is ended; workers take less for their first import.
    mpi_bind, mpi_options: options of the mpiexec by which PBS blocks of several nodes begin; the first is the one that
    takes `none`, such as --bind-to or --cpu-bind.
    """

    provider: Literal["local", "pbspro", "slurm"] = "local"
    address: str = "127.0.0.1"
    heartbeat_s: Positive = 5.0
    stall_s: Positive = 30.0
    mpi_bind: str = "--bind-to"
    mpi_options: str = ""
    reconstruct: ParslEndpoint = ParslEndpoint()
    train: ParslEndpoint = ParslEndpoint()


class GlobusSection(Section):
    """The identity, collections and endpoints at Globus.

    A path of a collection is what transfers call the folder; `compute_root` is what jobs at the endpoints call it.
    register_endpoint: a Compute endpoint at the beamline, needed only where Globus runs the flows. progress: how the
    progress of a job is read, over the compute collection's HTTPS server (`https_url`) or by a small job.
    """

    client_id: UUID | None = None
    secret_file: Path | None = None
    as_person: bool = False
    beamline_collection: UUID | None = None
    scans_path: str = "/scans"
    root_path: str = "/"
    compute_collection: UUID | None = None
    compute_path: str = "/"
    compute_root: Path | None = None
    reconstruct_endpoint: UUID | None = None
    train_endpoint: UUID | None = None
    register_endpoint: UUID | None = None
    progress: Literal["https", "compute", "none"] = "compute"
    https_url: str | None = None
    poll_s: Positive = 5.0
    deadline_s: Positive = 86_400.0
    timeout_s: Positive = 30.0

    @property
    def missing(self) -> list[str]:
        """Keys without which no job can be sent."""
        needed = ["client_id", "beamline_collection", "compute_collection", "compute_root"]
        needed += ["reconstruct_endpoint", "train_endpoint"]
        return [name for name in needed if getattr(self, name) is None]


class BridgeSection(Section):
    """adapter: where jobs run. flows: who runs the flows, this IOC's own runner or Globus.

    jobs: jobs of other installed packages (entry points of the group `phaseline.jobs`) that flows may call. run_flow:
    a definition in place of the one that is shipped for scans.
    """

    adapter: Literal["local", "parsl", "globus"] = "local"
    flows: Literal["local", "globus"] = "local"
    jobs: tuple[str, ...] = ()
    run_flow: Path | None = None
    parsl: ParslSection = ParslSection()
    globus: GlobusSection = GlobusSection()

    @model_validator(mode="after")
    def _globus_is_complete(self) -> Self:
        if "globus" not in (self.adapter, self.flows):
            return self
        if missing := self.globus.missing:
            raise ValueError(f"Globus needs bridge.globus.{', bridge.globus.'.join(missing)}")
        if self.flows == "globus" and self.adapter != "globus":
            raise ValueError('flows = "globus" needs adapter = "globus"')
        if self.flows == "globus" and self.globus.register_endpoint is None:
            raise ValueError('flows = "globus" needs bridge.globus.register_endpoint')
        if self.globus.progress == "https" and self.globus.https_url is None:
            raise ValueError('progress = "https" needs bridge.globus.https_url')
        return self
