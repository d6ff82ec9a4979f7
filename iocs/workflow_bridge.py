"""From the configuration to the bridge: where files and jobs of the workflow IOC go."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_bridge.endpoints import Endpoints
from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.job_list import allowed_jobs
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.local_transfer import TRANSFER_URL, LocalTransfer
from hpc_bridge.ports import Json
from hpc_bridge.remote_files import LocalFiles
from hpc_bridge.site import Folder, Site
from hpc_bridge.workers import WorkerSetup
from iocs.bridge import RECONSTRUCT, REGISTER, TRAIN, Bridge, SiteError
from iocs.config import Config
from iocs.workflow_layout import Layout

if TYPE_CHECKING:
    from hpc_bridge.parsl_compute import ParslCompute

SCANS, REGISTRY = "scans", "registry"
"""Names of collections of this machine; each root of what is computed is one more, by its own name."""
Register = Callable[[Json], Json]
"""Takes in a round's model, in this process."""


def make_bridge(config: Config, layout: Layout, register: Register) -> Bridge:
    """Build what the configuration asks for. Raises PhaselineError when it cannot be had."""
    jobs = allowed_jobs(config.bridge.jobs)
    if config.bridge.adapter == "globus":
        from iocs.workflow_globus import globus_bridge

        return globus_bridge(config, layout, jobs, lambda: registering(layout, register))
    roots = Roots(config, layout, {name: name for name in (*jobs, REGISTER)})
    transfer = LocalTransfer(roots.folders, layout.journal / "transfer.sqlite")
    workers = _parsl_compute(config, layout, jobs) if config.bridge.adapter == "parsl" else _local(config, layout, jobs)
    compute = Endpoints({RECONSTRUCT: workers, TRAIN: workers, REGISTER: registering(layout, register)})
    return Bridge(
        {TRANSFER_URL: transfer, COMPUTE_URL: compute}, roots.site, LocalFiles(), rest=partial(workers.rest, TRAIN)
    )


def registering(layout: Layout, register: Register) -> FunctionProvider:
    """The endpoint in this process that takes in models."""
    return FunctionProvider({REGISTER: register}, layout.journal / "register.sqlite")


class Roots:
    """The folders of this machine that files may be copied between."""

    def __init__(self, config: Config, layout: Layout, functions: Mapping[str, str]) -> None:
        """`functions`: what jobs are called."""
        self._allowed = tuple(path.resolve() for path in (config.root, *config.workflow.roots))
        self._layout, self._functions = layout, functions
        self.folders = {SCANS: layout.scans, REGISTRY: layout.registry, **{str(root): root for root in self._allowed}}

    def site(self, root: Path) -> Site:
        """The site below one of the roots. Raises SiteError."""
        root = root.resolve()
        holder = next((allowed for allowed in self._allowed if root.is_relative_to(allowed)), None)
        if holder is None:
            known = ", ".join(map(str, self._allowed))
            raise SiteError(f"{root} is not below {known}: name it in workflow.roots")
        whole = Folder(str(holder), "/", holder)
        computed = whole.below(root.relative_to(holder).as_posix())
        return Site(
            root,
            Folder(SCANS, "/", self._layout.scans),
            computed.below("results"),
            Folder(REGISTRY, "/", self._layout.registry),
            computed.below("compute"),
            endpoints={name: name for name in (RECONSTRUCT, TRAIN, REGISTER)},
            functions=self._functions,
        )


def _local(config: Config, layout: Layout, jobs: Mapping[str, str]) -> LocalCompute:
    settings = config.workflow
    endpoints = {
        RECONSTRUCT: WorkerSetup(settings.reconstruct_workers, settings.nice, settings.threads_per_worker),
        TRAIN: WorkerSetup(1, settings.nice, settings.threads_per_worker, warm=("torch", "torch.onnx")),
    }
    limits_s = dict.fromkeys(jobs, settings.job_timeout_s)
    return LocalCompute(jobs, endpoints, layout.journal / "compute.sqlite", limits_s=limits_s)


def _parsl_compute(config: Config, layout: Layout, jobs: Mapping[str, str]) -> "ParslCompute":
    from hpc_bridge.parsl_compute import ParslCompute
    from hpc_bridge.parsl_settings import Blocks, ParslSettings

    settings, parsl = config.workflow, config.bridge.parsl
    endpoints = {name: Blocks(**getattr(parsl, name).model_dump()) for name in (RECONSTRUCT, TRAIN)}
    made = ParslSettings(
        provider=parsl.provider,
        address=parsl.address,
        heartbeat_s=parsl.heartbeat_s,
        stall_s=parsl.stall_s,
        mpi_bind=parsl.mpi_bind,
        mpi_options=parsl.mpi_options,
        folder=layout.journal / "parsl",
        niceness=settings.nice,
        threads=settings.threads_per_worker,
    )
    limits_s = dict.fromkeys(jobs, settings.job_timeout_s)
    return ParslCompute(jobs, endpoints, made, layout.journal / "compute.sqlite", limits_s=limits_s)
