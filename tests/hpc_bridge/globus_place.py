"""An emulator of Globus with two collections and two endpoints, and a client app that may use it."""

import os
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from globus_emulator import Emulator

from hpc_bridge.globus.apps import make_app
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.ports import ActionState
from hpc_bridge.workers import WorkerSetup

BEAMLINE, CLUSTER, POLARIS, EDGE = (str(uuid.UUID(int=n)) for n in range(1, 5))
PATIENCE_S = 300.0


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


class Waiter:
    """Waits for what a provider says of its actions."""

    def __init__(self, provider) -> None:
        self.provider = provider
        self._changed = threading.Event()
        provider.notify(self._changed.set)

    def end(self, action_id):
        """The action's status once it has ended."""
        return self.until(action_id, lambda status: status.status.ended)

    def until(self, action_id, condition):
        """The first status that fulfils the condition; the provider tells of ends, other changes are looked for."""
        for _ in range(int(PATIENCE_S / 0.02)):
            status = self.provider.status(action_id)
            if condition(status):
                return status
            self._changed.wait(0.02)
            self._changed.clear()
        pytest.fail(f"still {status}")

    def succeeded(self, action_id):
        status = self.end(action_id)
        assert status.status is ActionState.SUCCEEDED, status.description
        return status

    def failed(self, action_id, text):
        status = self.end(action_id)
        assert status.status is ActionState.FAILED
        assert text in status.description
        return status
