"""The shipped flows with the real jobs, on a scan that is small enough for a test."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpc_bridge.definition import shipped
from hpc_bridge.documents import Submission, round_document, run_document
from hpc_bridge.endpoints import Endpoints
from hpc_bridge.errors import TaskFailed
from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.jobs import JOBS, reconstruct, train
from hpc_bridge.journal import RunStatus
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.local_transfer import TRANSFER_URL, LocalTransfer
from hpc_bridge.progress import ProgressReader
from hpc_bridge.runner import FlowRunner
from hpc_bridge.site import Folder, Site
from hpc_bridge.workers import WorkerSetup
from phasing.card import ModelCard
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.quality import Quality
from phasing.scanwriter import ScanWriter
from phasing.simulate import SimulatedScan, spiral

DEADLINE_S = 900.0
GEOMETRY = Geometry(10_400.0, 1.9, 220e-6, (32, 32), 32)


@pytest.fixture
def place(tmp_path):
    """A beamline folder with one scan, a compute folder, and a runner over the local providers."""
    (tmp_path / "beamline").mkdir()
    (tmp_path / "compute").mkdir()
    scan = SimulatedScan(GEOMETRY, spiral(60, 80e-9), seed=1)
    with ScanWriter(tmp_path / "beamline/scan.h5", "scan-1", GEOMETRY, dtype=np.uint16) as writer:
        for index, counts in enumerate(scan.frames()):
            writer.append(Frame(100 + index, 1.8e9 + index, "scan-1", counts, tuple(scan.position_m[index])))
    site = Site(
        tmp_path,
        *(Folder(name, "/", tmp_path / name) for name in ("beamline", "results", "results", "compute")),
        endpoints=dict.fromkeys(("reconstruct", "train"), "local") | {"register": "here"},
        functions={name: name for name in (*JOBS, "register")},
    )
    roots = {folder.collection: folder.root for folder in (site.scans, site.results, site.compute)}
    jobs = LocalCompute(JOBS, {"local": WorkerSetup(threads=1)}, tmp_path / "compute.sqlite")
    here = FunctionProvider({"register": registered}, tmp_path / "function.sqlite")
    providers = {
        TRANSFER_URL: LocalTransfer(roots, tmp_path / "transfer.sqlite"),
        COMPUTE_URL: Endpoints({"local": jobs, "here": here}),
    }
    with FlowRunner(tmp_path / "runs.sqlite", providers) as runner:
        yield site, runner
    for provider in providers.values():
        provider.stop()


def registered(made):
    card = ModelCard.from_json(json.loads(Path(made["card"]).read_text()))
    return {"digest": card.digest, "request": made["request"], "files": [made["onnx"], made["checkpoint"]]}


def outputs(document, state):
    return document[state]["details"]["results"][0]["output"]


def test_a_scan_becomes_pairs_and_pairs_become_a_model(place):
    site, runner = place
    settings = {"num_epochs": 5, "preview_every": 2, "batch_size": 20, "threads": 1, "half_scans": True}
    scan = Submission(site.scans.root / "scan.h5", "scan-1", "test")
    document = run_document(site, "run-1", scan, settings)
    row = runner.wait(runner.submit(shipped("run"), document, "scan 1", run_id="run-1"), DEADLINE_S)
    assert row.status is RunStatus.SUCCEEDED, row.message
    check_reconstruction(site, document, outputs(runner.document("run-1"), "Reconstruct"))
    assert outputs(runner.document("run-1"), "Pairs")["samples"] == 60
    settings = {"num_epochs": 2, "threads": 1}
    pairs = [document["pairs"]["output"]]
    document = round_document(site, "round-1", pairs, None, "test", settings, Path("inbox"))
    row = runner.wait(runner.submit(shipped("round"), document, "round 1", run_id="round-1", kind="round"), DEADLINE_S)
    assert row.status is RunStatus.SUCCEEDED, row.message
    check_round(site, runner.document("round-1"))


def check_reconstruction(site, document, output):
    lines = ProgressReader(Path(document["reconstruct"]["progress"])).read()
    assert [line["event"] for line in lines] == ["started", *["epoch"] * 5, "quality", "ended"]
    assert lines[0] | {"t": 0} == {
        "t": 0,
        "event": "started",
        "job": "reconstruct",
        "scan_id": "scan-1",
        "num_frames": 60,
    }
    epochs, figures = lines[1:6], lines[6]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5]
    assert [line["preview"] is not None for line in epochs] == [False, True, False, True, True]
    preview = np.load(epochs[-1]["preview"])
    assert preview.dtype == np.float32
    assert preview.ndim == 2
    assert len(list((site.compute.root / "reconstructions").glob("*.npy"))) == 2
    assert (output["epochs"], output["num_frames"]) == (5, 60)
    assert output["error"] == epochs[-1]["error"] < epochs[0]["error"]
    returned = Path(document["results"]["reconstruction"])
    found = Quality.load(returned)
    assert found is not None
    assert 0.0 < found.fourier_error == output["fourier_error"] == figures["fourier_error"] < 1.0
    assert found.ring_correlation == output["ring_correlation"] == figures["ring_correlation"]
    assert returned.is_relative_to(site.results.root)
    assert returned.read_bytes() == Path(output["reconstruction"]).read_bytes()


def check_round(site, document):
    lines = ProgressReader(Path(document["train"]["progress"])).read()
    assert [line["event"] for line in lines] == ["started", "begun", "epoch", "epoch", "ended"]
    assert lines[1]["scans"] == ["scan-1"]
    assert lines[1]["num_samples"] + lines[1]["num_held_out"] == 60
    assert np.load(lines[3]["preview"]).shape[0] == 2
    assert lines[3].keys() >= {"epoch", "loss", "val_loss", "best_val_loss", "learning_rate", "samples_per_s"}
    output = outputs(document, "Train")
    assert output["scans"] == ["scan-1"]
    assert math.isfinite(output["val_loss"])
    assert output["incumbent_val_loss"] is None
    assert output["skipped"] == []
    assert output["val_losses"] == [line["val_loss"] for line in lines[2:4]]
    assert [loss["scan_id"] for loss in output["scan_losses"]] == ["scan-1"]
    losses = (site.results.root / "rounds/round-1/losses.csv").read_text().splitlines()
    assert losses[0].startswith("epoch,loss_rad,val_loss_rad")
    registered = outputs(document, "Register")
    assert registered["digest"] == outputs(document, "Export")["digest"]
    assert registered["request"] == "round-1"
    for path in map(Path, registered["files"]):
        assert path.is_file()
        assert path.is_relative_to(site.results.root)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_epoch": 3}, "unknown setting num_epoch .known: engine, num_epochs"),
        ({"num_epochs": "3"}, "num_epochs cannot be '3'"),
        ({"num_epochs": True}, "num_epochs cannot be True"),
        ({"defocus_m": "far"}, "defocus_m cannot be 'far'"),
        ({"output": ""}, "output is not a path"),
    ],
)
def test_a_wrong_argument_is_named(settings, text):
    with pytest.raises(TaskFailed, match=text):
        reconstruct(**{"scan_file": "a", "output": "b", **settings})


def test_pairs_have_to_be_a_list(tmp_path):
    with pytest.raises(TaskFailed, match="pairs is not a list of paths"):
        train(pairs="folder", output=str(tmp_path))


def test_the_bridge_imports_no_heavy_library():
    code = "import sys, hpc_bridge.jobs, hpc_bridge.local_compute, hpc_bridge.runner; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ptychi", "onnx", "h5py", "numpy", "matplotlib"} & set(done.stdout.split())
