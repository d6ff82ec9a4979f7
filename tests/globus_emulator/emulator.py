"""The whole emulator."""

from pathlib import Path

from globus_emulator.auth import Auth
from globus_emulator.compute import Compute
from globus_emulator.flows import Flows
from globus_emulator.transfer import Transfer
from globus_emulator.web import Web
from hpc_bridge.local_compute import COMPUTE_URL
from hpc_bridge.local_transfer import TRANSFER_URL
from hpc_bridge.workers import WorkerSetup

SERVICES = ("AUTH", "TRANSFER", "FLOWS", "COMPUTE")


class Emulator:
    """Auth, Transfer, Flows and Compute at one address."""

    def __init__(
        self,
        folder: Path,
        collections: dict[str, Path],
        endpoints: dict[str, WorkerSetup],
        *,
        port: int = 0,
        secret: str = "secret",
    ) -> None:
        """`collections` maps ids to folders, `endpoints` ids to workers; what is known lies in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.web = Web(port)
        self.auth = Auth(self.web, folder, secret=secret)
        self.transfer = Transfer(self.web, self.auth, folder, collections)
        self.compute = Compute(self.web, self.auth, folder, endpoints)
        self.flows = Flows(self.web, self.auth, folder, {TRANSFER_URL: self.transfer.local, COMPUTE_URL: self.compute})
        self.web.start()

    @property
    def environment(self) -> dict[str, str]:
        """What lets the SDKs find it."""
        return {f"GLOBUS_SDK_SERVICE_URL_{service}": self.web.url for service in SERVICES}

    def stop(self) -> None:
        self.web.stop()
        self.flows.stop()
        self.compute.stop()
        self.transfer.local.stop()
