"""The worked example of docs/own-steps.md: a facility's own job and state, with nothing of ours touched."""

import sys
from pathlib import Path

import numpy as np
import pytest

from hpc_bridge.definition import load
from hpc_bridge.documents import Submission, run_document
from hpc_bridge.job_list import JobListError, allowed_jobs
from hpc_bridge.journal import RunStatus
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.local_transfer import TRANSFER_URL, LocalTransfer
from hpc_bridge.runner import FlowRunner
from hpc_bridge.site import Folder, Site
from hpc_bridge.workers import WorkerSetup
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanwriter import ScanWriter
from phasing.simulate import SimulatedScan, spiral

EXAMPLE = Path(__file__).parents[1] / "own_steps_example"
DEADLINE_S = 900.0
GEOMETRY = Geometry(10_400.0, 1.9, 220e-6, (32, 32), 32)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The example's package as `pip install` leaves it: importable, with its entry point in a dist-info folder."""
    _dist_info(tmp_path / "site", "beamline_steps", "sum_frames = beamline_steps:sum_frames")
    for folder in (tmp_path / "site", EXAMPLE):
        monkeypatch.syspath_prepend(str(folder))


def _dist_info(folder, name, points):
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[phaseline.jobs]\n{points}\n")


@pytest.mark.usefixtures("installed")
def test_a_job_and_a_state_of_ones_own_run_beside_the_reconstruction(tmp_path):
    jobs = allowed_jobs(["sum_frames"])
    root = tmp_path / "data"
    names = ("scans", "results", "registry", "compute")
    site = Site(
        root,
        *(Folder(name, "/", root / name) for name in names),
        endpoints={"reconstruct": "local"},
        functions={name: name for name in jobs},
    )
    roots = {name: root / name for name in names}
    roots["scans"].mkdir(parents=True)
    scan = SimulatedScan(GEOMETRY, spiral(40, 80e-9), seed=1)
    with ScanWriter(roots["scans"] / "scan.h5", "scan-1", GEOMETRY, dtype=np.uint16) as writer:
        for index, counts in enumerate(scan.frames()):
            writer.append(Frame(100 + index, 1.8e9 + index, "scan-1", counts, tuple(scan.position_m[index])))
    providers = {
        TRANSFER_URL: LocalTransfer(roots, tmp_path / "transfer.sqlite"),
        COMPUTE_URL: LocalCompute(jobs, {"local": WorkerSetup(threads=1, warm=())}, tmp_path / "compute.sqlite"),
    }
    try:
        with FlowRunner(tmp_path / "runs.sqlite", providers) as runner:
            settings = {"num_epochs": 2, "batch_size": 20, "threads": 1}
            document = run_document(site, "run-1", Submission(roots["scans"] / "scan.h5", "scan-1", "line"), settings)
            runner.submit(load(EXAMPLE / "run_with_sum.json"), document, "scan 1", run_id="run-1")
            row = runner.wait("run-1", DEADLINE_S)
            assert row.status is RunStatus.SUCCEEDED, row.message
            (result,) = runner.document("run-1")["Sum"]["details"]["results"]
    finally:
        for provider in providers.values():
            provider.stop()
    assert result["output"]["num_frames"] == 40
    assert np.load(result["output"]["mean"]).shape == (32, 32)
    assert np.allclose(result["output"]["center_px"], 16, atol=2)
    assert Path(document["results"]["reconstruction"]).is_file()


@pytest.mark.usefixtures("installed")
def test_only_what_the_configuration_names_may_be_called(tmp_path, monkeypatch):
    assert "sum_frames" not in allowed_jobs([])
    with pytest.raises(JobListError, match=r"no installed package offers a job steal \(offered: sum_frames\)"):
        allowed_jobs(["steal"])
    with pytest.raises(JobListError, match="train is a job of phaseline's own"):
        allowed_jobs(["train"])
    _dist_info(tmp_path / "more", "others", "sum_frames = others:f")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "more"), *sys.path])
    with pytest.raises(JobListError, match="several packages offer a job sum_frames"):
        allowed_jobs(["sum_frames"])
