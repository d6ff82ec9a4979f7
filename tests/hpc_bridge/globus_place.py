"""An emulator of Globus with two collections and two endpoints, and a client app that may use it."""

import os
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

from globus_emulator import Emulator
from waiter import Waiter

from hpc_bridge.globus.apps import make_app
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.workers import WorkerSetup

BEAMLINE, CLUSTER, POLARIS, EDGE = (str(uuid.UUID(int=n)) for n in range(1, 5))


class Place:
    """The emulator, and the folders that stand for its collections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.beamline, self.cluster = folder / "beamline", folder / "cluster"
        for made in (self.beamline, self.cluster, folder / "own"):
            made.mkdir()
        secret = folder / "secret"
        secret.write_text("secret\n")
        secret.chmod(0o400)
        self.settings = GlobusSettings(str(uuid.uuid4()), folder / "own", secret, poll_s=0.05, retries=1)
        self.emulator: Emulator
        self.start()

    def start(self, port: int = 0) -> None:
        collections = {BEAMLINE: self.beamline, CLUSTER: self.cluster}
        endpoints = {name: WorkerSetup(1, 0, 1, ()) for name in (POLARIS, EDGE)}
        self.emulator = Emulator(self.folder / "emulator", collections, endpoints, port=port)
        os.environ.update(self.emulator.environment)

    def restart(self) -> None:
        """As after an outage of the service: the same address, the same knowledge."""
        port = int(self.emulator.web.url.rpartition(":")[2].strip("/"))
        self.emulator.stop()
        self.start(port)

    @property
    def web(self):
        return self.emulator.web

    def app(self):
        return make_app(self.settings)


@contextmanager
def serving(folder: Path):
    before = dict(os.environ)
    place = Place(folder)
    try:
        yield place
    finally:
        place.emulator.stop()
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def made_by(provider):
    """A function that makes providers by another, and waits for them; all are stopped in the end."""
    with ExitStack() as made:

        def make(*arguments, **options):
            found = provider(*arguments, **options)
            made.callback(found.stop)
            return Waiter(found)

        yield make
