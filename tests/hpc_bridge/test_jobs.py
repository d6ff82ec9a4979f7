"""The shipped flows with the real jobs, on a scan that is small enough for a test."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpc_bridge.definition import shipped
from hpc_bridge.errors import TaskFailed
from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.jobs import JOBS, reconstruct, train
from hpc_bridge.journal import RunStatus
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.local_transfer import TRANSFER_URL, LocalTransfer
from hpc_bridge.progress import ProgressReader
from hpc_bridge.runner import FlowRunner
from hpc_bridge.workers import WorkerSetup
from phasing.card import ModelCard
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanwriter import ScanWriter
from phasing.simulate import SimulatedScan, spiral

DEADLINE_S = 300.0
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
    roots = {"beamline": tmp_path / "beamline", "compute": tmp_path / "compute"}
    providers = {
        TRANSFER_URL: LocalTransfer(roots, tmp_path / "transfer.sqlite"),
        COMPUTE_URL: LocalCompute(JOBS, {"local": WorkerSetup(threads=1)}, tmp_path / "compute.sqlite"),
        "phaseline:register": FunctionProvider(registered, tmp_path / "function.sqlite"),
    }
    with FlowRunner(tmp_path / "runs.sqlite", providers) as runner:
        yield tmp_path / "compute", runner
    for provider in providers.values():
        provider.stop()


def registered(body):
    card = ModelCard.from_json(json.loads(Path(body["export"]["card"]).read_text()))
    return {"digest": card.digest, "run_id": body["run_id"], "note": body["register"]["note"]}


def outputs(document, state):
    return document[state]["details"]["results"][0]["output"]


def run_document(folder):
    return {
        "source": {"endpoint": "beamline", "path": "/scan.h5"},
        "compute": {"collection": "compute", "path": "/scans/scan.h5", "endpoint": "local"},
        "reconstruct": {
            "scan_file": str(folder / "scans/scan.h5"),
            "output": str(folder / "recon/scan.h5"),
            "progress": str(folder / "recon.jsonl"),
            "num_epochs": 5,
            "preview_every": 2,
            "batch_size": 20,
            "threads": 1,
        },
        "pairs": {"output": str(folder / "pairs/scan"), "pixel_size_m": None, "progress": None},
    }


def round_document(folder, parent):
    return {
        "compute": {"endpoint": "local"},
        "train": {
            "pairs": [str(folder / "pairs/scan")],
            "parent_checkpoint": parent,
            "output": str(folder / "round"),
            "progress": str(folder / "train.jsonl"),
            "num_epochs": 2,
            "threads": 1,
        },
        "export": {"output": str(folder / "round/model.onnx"), "lineage": "test", "parent": None, "progress": None},
        "register": {"note": "kept"},
    }


def test_a_scan_becomes_pairs_and_pairs_become_a_model(place):
    folder, runner = place
    run = runner.submit(shipped("run"), run_document(folder), "scan 1")
    row = runner.wait(run, DEADLINE_S)
    assert row.status is RunStatus.SUCCEEDED, row.message
    check_reconstruction(folder, outputs(runner.document(run), "Reconstruct"))
    assert outputs(runner.document(run), "Pairs")["samples"] == 60
    round_id = runner.submit(shipped("round"), round_document(folder, None), "round 1", kind="round")
    row = runner.wait(round_id, DEADLINE_S)
    assert row.status is RunStatus.SUCCEEDED, row.message
    check_round(folder, runner.document(round_id), round_id)


def check_reconstruction(folder, output):
    lines = ProgressReader(folder / "recon.jsonl").read()
    assert [line["event"] for line in lines] == ["started", *["epoch"] * 5, "ended"]
    assert lines[0] | {"t": 0} == {
        "t": 0,
        "event": "started",
        "job": "reconstruct",
        "scan_id": "scan-1",
        "num_frames": 60,
    }
    epochs = lines[1:-1]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5]
    assert [line["preview"] is not None for line in epochs] == [False, True, False, True, True]
    preview = np.load(epochs[-1]["preview"])
    assert preview.dtype == np.float32
    assert preview.ndim == 2
    assert len(list((folder / "recon").glob("*.npy"))) == 2
    assert (output["epochs"], output["num_frames"]) == (5, 60)
    assert output["error"] == epochs[-1]["error"] < epochs[0]["error"]


def check_round(folder, document, round_id):
    lines = ProgressReader(folder / "train.jsonl").read()
    assert [line["event"] for line in lines] == ["started", "epoch", "epoch", "ended"]
    assert lines[0]["scans"] == ["scan-1"]
    assert lines[2].keys() >= {"epoch", "loss", "val_loss", "best_val_loss", "learning_rate", "samples_per_s"}
    output = outputs(document, "Train")
    assert output["scans"] == ["scan-1"]
    assert math.isfinite(output["val_loss"])
    assert output["incumbent_val_loss"] is None
    assert output["skipped"] == []
    assert output["val_losses"] == [line["val_loss"] for line in lines[1:3]]
    assert document["Register"]["details"]["output"] == {
        "digest": outputs(document, "Export")["digest"],
        "run_id": round_id,
        "note": "kept",
    }


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
