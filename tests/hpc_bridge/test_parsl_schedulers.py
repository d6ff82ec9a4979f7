"""Jobs in blocks that PBS and Slurm give out; the schedulers' commands are stood in for, everything else is real."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import scheduler_stand_in
from job_pipes import Pipe, wait_for_death
from parsl_cluster import Cluster

from hpc_bridge.parsl_settings import Blocks, ParslSettings

HERE = Path(__file__).parent
JOBS = {name: f"bridge_jobs:{name}" for name in ("pid", "wait")}
WORKER_INIT = f"export PYTHONPATH={HERE.parents[1]}:{HERE}"


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """The folder of a scheduler whose commands are first on the PATH."""
    folder, binaries = tmp_path / "scheduler", tmp_path / "bin"
    folder.mkdir()
    binaries.mkdir()
    scheduler_stand_in.install(binaries)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SCHEDULER_FOLDER", str(folder))
    monkeypatch.setattr("hpc_bridge.parsl_kernel.ASK_SCHEDULER_S", 1)
    yield folder
    for job in scheduler_stand_in.jobs(folder):
        wait_for_death(job["pid"])


@contextmanager
def blocks_of(provider, folder, **blocks):
    settings = ParslSettings(folder / "parsl", provider, heartbeat_s=3.0)
    cluster = Cluster(folder, JOBS, settings, Blocks(worker_init=WORKER_INIT, **blocks))
    try:
        yield cluster
    finally:
        cluster.provider.stop()


OPTIONS = {"slurm": "#SBATCH --qos=live", "pbspro": "#PBS -l filesystems=home"}
ASKED = {
    "slurm": {
        "--partition=gpu",
        "--account=ptycho",
        "--time=30",
        "--cpus-per-task=4",
        "--gpus-per-node=4",
        "--qos=live",
    },
    "pbspro": {"-l walltime=00:30:00", "-l filesystems=home"},
}
NODES = {"slurm": "--nodes={}", "pbspro": "-l select={}:ncpus=4:ngpus=4"}


@pytest.mark.parametrize(("nodes", "workers", "gpus"), [(1, 2, {"0,1", "2,3"}), (2, 1, {"0,1,2,3"})])
@pytest.mark.parametrize("provider", ["slurm", "pbspro"])
def test_jobs_run_in_a_block_as_configured(scheduler, tmp_path, provider, nodes, workers, gpus):
    counts = {"nodes_per_block": nodes, "workers_per_node": workers, "cores_per_node": 4, "gpus_per_node": 4}
    words = {"queue": "gpu", "account": "ptycho", "walltime": "00:30:00", "scheduler_options": OPTIONS[provider]}
    with (
        blocks_of(provider, tmp_path, **counts, **words) as cluster,
        Pipe(tmp_path / "said") as said,
        Pipe(tmp_path / "1") as first,
        Pipe(tmp_path / "2") as second,
    ):
        pipes = (first, second)
        actions = [cluster.run("wait", log=said.path, tag=pipe.path, pipe=pipe.path) for pipe in pipes]
        begun = [said.line().split() for _ in pipes]  # both are at work at the same time
        assert len({pid for _, pid, _ in begun}) == 2
        assert {visible for _, _, visible in begun} == gpus
        for pipe in pipes:
            pipe.send("go")
        assert [cluster.output(action) for action in actions] == [{"heard": "go"}] * 2
        (job,) = scheduler_stand_in.jobs(scheduler)
        assert job["arguments"] == ([] if provider == "slurm" else ["-q", "gpu", "-A", "ptycho"])
        assert {*ASKED[provider], NODES[provider].format(nodes)} <= set(job["asked"])
        assert scheduler_stand_in.is_alive(job["pid"])


@pytest.mark.parametrize("provider", ["slurm", "pbspro"])
def test_a_scheduler_that_refuses_is_told_of_and_asked_again(scheduler, tmp_path, provider):
    refusal = scheduler / scheduler_stand_in.REFUSAL
    refusal.write_text("Invalid account or account/partition combination specified")
    with blocks_of(provider, tmp_path, account="nobody") as cluster:
        action = cluster.run("pid")
        said = cluster.until(action, lambda status: status.description).description
        assert "no workers: " in said
        assert "Invalid account or account/partition combination" in said
        refusal.unlink()
        assert cluster.output(action)["pid"]
        assert not cluster.provider.status(cluster.run("pid")).description


def test_a_block_whose_time_is_over_loses_its_job_and_is_asked_for_again(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr("parsl.providers.SlurmProvider.status_polling_interval", 1)
    with (
        blocks_of("slurm", tmp_path) as cluster,
        Pipe(tmp_path / "said") as said,
        Pipe(tmp_path / "heard") as heard,
    ):
        action = cluster.run("wait", log=said.path, tag="x", pipe=heard.path)
        worker = int(said.line().split()[1])
        (job,) = scheduler_stand_in.jobs(scheduler)
        scheduler_stand_in.end(scheduler, [job["number"]])
        assert cluster.end(action).interrupted, "another attempt may begin"
        wait_for_death(worker)
        assert cluster.output(cluster.run("pid"))["pid"] != worker
        assert len(scheduler_stand_in.jobs(scheduler)) == 2
