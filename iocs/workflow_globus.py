"""The bridge to other facilities: collections and endpoints at Globus, by the configuration."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpc_bridge.definition import FlowDefinition
from hpc_bridge.endpoints import Endpoints, Stoppable
from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.globus.apps import login, make_app, sdk
from hpc_bridge.globus.compute import GlobusCompute
from hpc_bridge.globus.flows import FLOWS_URL, Deployments, GlobusFlows
from hpc_bridge.globus.functions import Functions, compute_client
from hpc_bridge.globus.remote_files import TAIL, ComputeFiles, HttpsFiles
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.globus.transfer import GlobusTransfer
from hpc_bridge.job_list import allowed_jobs
from hpc_bridge.local_compute import COMPUTE_URL
from hpc_bridge.local_transfer import TRANSFER_URL
from hpc_bridge.ports import Json
from hpc_bridge.remote_files import FileReader
from hpc_bridge.site import Folder, Site
from iocs.bridge import RECONSTRUCT, REGISTER, TRAIN, Bridge, SiteError
from iocs.config import Config
from iocs.workflow_layout import Layout

REGISTER_JOB = "hpc_bridge.mailbox:register"
STATE = "Flow"
"""The one state of a run here whose flow Globus runs."""
OUTER = FlowDefinition.from_json(
    {
        "StartAt": STATE,
        "States": {
            STATE: {
                "Type": "Action",
                "ActionUrl": FLOWS_URL,
                "Parameters": {"flow_id.$": "$.flow_id", "body.$": "$.body", "label.$": "$.body.label"},
                "ResultPath": "$.Flow",
                "WaitTime": 7 * 86_400,
                "End": True,
            }
        },
    }
)


@dataclass(frozen=True)
class RemoteFlows:
    """Flows that Globus runs: the run here has one state, whose action is the run there."""

    deployments: Deployments
    functions: Functions

    def wrapped(self, name: str, document: Json) -> tuple[FlowDefinition, Json]:
        """What is submitted here for a flow that is deployed there. Raises TaskFailed when it is not.

        Nothing is asked of the service.
        """
        body = {**document, "functions": self.functions.registered()}
        return OUTER, {"flow_id": self.deployments.flow_id(name), "body": body}

    def deploy(self, flows: Mapping[str, FlowDefinition]) -> dict[str, str]:
        """Register the jobs and deploy the flows; return the flows' ids by name."""
        self.functions.ids()
        return {name: self.deployments.deploy(name, flow) for name, flow in flows.items()}


def settings_of(config: Config, folder: Path) -> GlobusSettings:
    """The configuration as the bridge takes it; `folder` keeps tokens and what is deployed."""
    globus = config.bridge.globus
    return GlobusSettings(
        str(globus.client_id),
        folder / "globus",
        globus.secret_file,
        globus.as_person,
        poll_s=globus.poll_s,
        deadline_s=globus.deadline_s,
        timeout_s=globus.timeout_s,
    )


def remote_flows(config: Config) -> RemoteFlows:
    """What deploys flows, without the IOC."""
    layout = Layout.below(config.root, config.scans)
    settings, jobs = settings_of(config, layout.journal), allowed_jobs(config.bridge.jobs)
    app = make_app(settings)
    return RemoteFlows(Deployments(app, settings), Functions(compute_client(app, settings), _known(jobs), settings))


def log_in(config: Config) -> None:
    """Let a person log in on the terminal for all services that the bridge asks. Raises ConsentRequired."""
    settings = settings_of(config, Layout.below(config.root, config.scans).journal)
    app = make_app(settings)
    for client in (sdk().TransferClient, sdk().FlowsClient, sdk().ComputeClientV3):
        client(app=app)  # tells the app which scopes it needs
    login(settings, app)


def _known(jobs: Mapping[str, str]) -> dict[str, str]:
    """The jobs as endpoints have to allow them: with reading progress, and the way back to the registry."""
    return {**jobs, TAIL: "hpc_bridge.claims:tail", REGISTER: REGISTER_JOB}


def globus_bridge(
    config: Config, layout: Layout, jobs: Mapping[str, str], here: Callable[[], FunctionProvider]
) -> Bridge:
    """Build the bridge; nothing is asked of the network before there is work."""
    globus, settings = config.bridge.globus, settings_of(config, layout.journal)
    app = make_app(settings)
    limits_s = dict.fromkeys(jobs, config.workflow.job_timeout_s)
    known = _known(jobs)
    compute = GlobusCompute(
        app,
        settings,
        known,
        layout.journal / "globus-compute.sqlite",
        claims=f"{globus.compute_root}/claims",
        limits_s=limits_s,
    )
    by_globus = config.bridge.flows == "globus"
    site = _site(config, layout, {name: name for name in known})
    places: dict[str, Stoppable] = {site.endpoints[name]: compute for name in (RECONSTRUCT, TRAIN)}
    if not by_globus:
        places[REGISTER] = here()
    providers: dict[str, Stoppable] = {
        TRANSFER_URL: GlobusTransfer(app, settings, layout.journal / "globus-transfer.sqlite"),
        COMPUTE_URL: Endpoints(places),
    }
    flows = None
    if by_globus:
        providers[FLOWS_URL] = GlobusFlows(app, settings, layout.journal / "globus-flows.sqlite")
        flows = RemoteFlows(Deployments(app, settings), compute.functions)
    return Bridge(providers, lambda root: _only(site, root), _files(config, app, settings, compute, site), True, flows)


def _site(config: Config, layout: Layout, functions: Mapping[str, str]) -> Site:
    globus, root = config.bridge.globus, config.root.resolve()
    beamline, compute = str(globus.beamline_collection), str(globus.compute_collection)
    assert globus.compute_root is not None, "checked with the configuration"
    whole = Folder(beamline, globus.root_path, root)
    register = str(globus.register_endpoint) if config.bridge.flows == "globus" else REGISTER
    return Site(
        root,
        Folder(beamline, globus.scans_path, layout.scans),
        whole.below("results"),
        whole.below("registry"),
        Folder(compute, globus.compute_path, globus.compute_root),
        endpoints={
            RECONSTRUCT: str(globus.reconstruct_endpoint),
            TRAIN: str(globus.train_endpoint),
            REGISTER: register,
        },
        functions=functions,
        shared=False,
    )


def _only(site: Site, root: Path) -> Site:
    if root.resolve() != site.root:
        raise SiteError(f"with Globus the root is the collection's: {site.root}")
    return site


class _NoFiles:
    """Reads nothing: progress is not followed."""

    def read(self, path: str, offset: int = 0) -> bytes:
        raise FileNotFoundError(path)


def _files(config: Config, app: object, settings: GlobusSettings, compute: GlobusCompute, site: Site) -> FileReader:
    globus = config.bridge.globus
    if globus.progress == "none":
        return _NoFiles()
    if globus.progress == "https":
        return HttpsFiles(app, settings, site.compute, re.sub(r"/*$", "/", globus.https_url or ""))
    return ComputeFiles(compute.client, compute.functions, settings, site.endpoints[RECONSTRUCT])
