"""The workflow IOC over each of its bridges, from a scan to a model: Parsl, Globus' services, Globus Flows."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from following import Following
from harness import start_ioc, write_config

from benchmarks.scans import write_scan
from phasing.geometry import Geometry
from pvdb import workflow as pvs

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
GEOMETRY = Geometry(10_400.0, 1.55, 110e-6, (64, 64), 64)
PATIENCE_S = 900.0
BEAMLINE, CLUSTER, POLARIS, HERE = (str(uuid.UUID(int=n)) for n in range(11, 15))
SETTINGS = """
[train]
num_epochs = 1
batch_size = 16
[reconstruct]
num_epochs = 3
preview_every = 1
batch_size = 20
[workflow]
nice = 0
threads_per_worker = 1
"""
WATCHED = (
    pvs.FLOW_STATE, pvs.FLOW_MESSAGE, pvs.SUCCEEDED_RUNS, pvs.FAILED_RUNS, pvs.ANNOUNCED, pvs.RECON_EPOCH,
    pvs.TRAIN_STATE, pvs.VERDICT, pvs.FLOW_STEP, pvs.CONSENT_URL, pvs.EPOCH,
)  # fmt: skip


class Workplace:
    """A workflow IOC and a client of it."""

    def __init__(self, folder: Path, bridge: str) -> None:
        self.folder, self.prefix = folder, f"B{os.getpid()}{folder.name[-4:]}:"
        self.scans = folder / "data" / "scans"
        self.scans.mkdir(parents=True)
        self.config = write_config(folder, self.prefix, SETTINGS + bridge)

    @contextmanager
    def serving(self) -> Iterator[Following]:
        with ExitStack() as parts:
            ioc = start_ioc("workflow", self.config)
            parts.callback(ioc.stop)
            client = parts.enter_context(closing(Following(self.prefix)))
            client.watch(*WATCHED)
            yield client

    def write_scan(self, name: str) -> Path:
        return write_scan(self.scans / name, GEOMETRY, 60, seed=1)

    def command(self, *arguments: str) -> str:
        """What a command of `phaseline` prints."""
        command = [sys.executable, "-m", "iocs.cli", *arguments, "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _scan_to_model(place: Workplace, client: Following) -> None:
    client.put(pvs.FILE, str(place.write_scan("first.h5")))
    with client.passing(pvs.RECON_EPOCH, 3, timeout_s=PATIENCE_S):
        client.put(pvs.RUN, 1, timeout_s=PATIENCE_S)
    client.wait(lambda: bool(client.value(pvs.ANNOUNCED)), "a model is announced", PATIENCE_S)
    client.wait(lambda: client.value(pvs.TRAIN_STATE) == "Idle", "training is over", PATIENCE_S)
    assert str(client.value(pvs.ANNOUNCED)).startswith("1 ")
    (returned,) = (place.folder / "data" / "results").rglob("first-*.h5")
    assert returned.stat().st_size > 0


def test_jobs_on_a_cluster_by_parsl(tmp_path: Path) -> None:
    place = Workplace(tmp_path, '[bridge]\nadapter = "parsl"\n')
    with place.serving() as client:
        _scan_to_model(place, client)


@pytest.fixture
def globus(tmp_path: Path) -> Iterator[str]:
    """An emulator whose collections are the beamline's root and a cluster's folder; the configuration for it."""
    from globus_emulator import Emulator

    from hpc_bridge.workers import WorkerSetup

    (tmp_path / "cluster").mkdir()
    (tmp_path / "data").mkdir(exist_ok=True)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o400)
    before = dict(os.environ)
    workers = {name: WorkerSetup(1, 0, 1, ()) for name in (POLARIS, HERE)}
    collections = {BEAMLINE: tmp_path / "data", CLUSTER: tmp_path / "cluster"}
    emulator = Emulator(tmp_path / "emulator", collections, workers)
    os.environ.update(emulator.environment)
    try:
        yield f"""
[bridge]
adapter = "globus"
[bridge.globus]
client_id = "{uuid.uuid4()}"
secret_file = "{secret}"
beamline_collection = "{BEAMLINE}"
compute_collection = "{CLUSTER}"
compute_root = "{tmp_path / "cluster"}"
reconstruct_endpoint = "{POLARIS}"
train_endpoint = "{POLARIS}"
register_endpoint = "{HERE}"
poll_s = 0.1
"""
    finally:
        emulator.stop()
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("progress", ["https", "compute"])
def test_files_and_jobs_by_globus_with_our_own_runner(tmp_path: Path, globus: str, progress: str) -> None:
    url = f"{os.environ['GLOBUS_SDK_SERVICE_URL_TRANSFER']}https/{CLUSTER}"
    place = Workplace(tmp_path, f'{globus}progress = "{progress}"\nhttps_url = "{url}"\n')
    with place.serving() as client:
        _scan_to_model(place, client)


def test_whole_flows_by_globus(tmp_path: Path, globus: str) -> None:
    flows = globus.replace('adapter = "globus"', 'adapter = "globus"\nflows = "globus"')
    place = Workplace(tmp_path, flows)
    with place.serving() as client:
        client.put(pvs.FILE, str(place.write_scan("early.h5")))
        with pytest.raises(Exception, match="phaseline flow deploy"):
            client.put(pvs.RUN, 1, timeout_s=PATIENCE_S)
        printed = place.command("flow", "deploy")
        assert "flow run: " in printed
        assert "# reconstruct" in printed
        _scan_to_model(place, client)
        assert client.get(pvs.FLOW_TABLE)["kind"] == ["round", "run"]
