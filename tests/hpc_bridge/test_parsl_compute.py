"""Jobs through the real Parsl on this machine: cancelled, late, lost with a worker, a manager, the interchange."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_pipes import Pipe, wait_for_death
from parsl_cluster import Cluster

from benchmarks.processes import children, command_line, descendants
from hpc_bridge.errors import TaskFailed
from hpc_bridge.parsl_compute import ParslCompute
from hpc_bridge.parsl_settings import Blocks, ParslSettings, executor, provider

HERE = Path(__file__).parent
NAMES = ("note", "wait", "pid", "fail", "not_json", "kill_itself")
JOBS = {name: f"bridge_jobs:{name}" for name in NAMES}


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The workers are no children that inherit a path: the environment has it."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{HERE.parents[1]}{os.pathsep}{HERE}"
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def interchange(cluster):
    return cluster.provider._kernel._flow.executors["one"].interchange_proc.pid


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    settings = ParslSettings(folder / "parsl", heartbeat_s=3.0)
    made = Cluster(folder, JOBS, settings, Blocks(workers_per_node=2), wait=30.0)
    yield made
    pids = {interchange(made), *guards(made.folder)}
    pids |= {child for pid in pids for child in descendants(pid)}
    made.provider.stop()
    for pid in pids:
        wait_for_death(pid)


@pytest.fixture
def waiting(cluster, tmp_path):
    """A job at work, with the process id of its worker."""
    with Pipe(tmp_path / "said") as said, Pipe(tmp_path / "heard") as heard:
        action = cluster.run("wait", log=str(tmp_path / "said"), tag="x", pipe=str(tmp_path / "heard"))
        yield action, int(said.line().split()[1]), heard


def guards(folder):
    """The guards of managers whose files lie in a folder; Parsl starts them as nobody's children."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [
        pid
        for pid in numbers
        if b"hpc_bridge.parsl_guard" in command_line(pid) and str(folder).encode() in command_line(pid)
    ]


def test_jobs_are_done_and_fail_as_on_this_machine(cluster):
    actions = [cluster.run("pid") for _ in range(4)]
    assert all(cluster.output(action)["pid"] for action in actions)
    cluster.failed(cluster.run("fail", message="the probe diverged"), "the probe diverged")
    cluster.failed(cluster.run("not_json"), "not JSON")
    with pytest.raises(TaskFailed, match="not on the allow-list"):
        cluster.run("steal")
    with pytest.raises(TaskFailed, match="no endpoint 'two'"):
        cluster.provider.run("r0", {"endpoint_id": "two", "tasks": [{"function_id": "pid"}]})


def test_a_cancelled_job_ends_with_its_process(cluster, waiting):
    action, pid, _ = waiting
    cluster.provider.cancel(action)
    assert cluster.failed(action, "cancelled").details["code"] == "Cancelled"
    wait_for_death(pid)
    cluster.output(cluster.run("pid"))


def test_a_job_over_its_time_is_ended_and_others_are_not(cluster, waiting):
    cluster.provider._limits_s["wait"] = 0.5
    late = cluster.run("wait", log=os.devnull, tag="y", pipe=waiting[2].path)
    assert cluster.failed(late, "did not end within 0.5 s").details["code"] == "TaskTimeout"
    cluster.provider._limits_s["wait"] = 30.0


def test_a_killed_worker_loses_its_own_task_only(cluster, waiting):
    action, pid, _ = waiting
    os.kill(pid, signal.SIGKILL)
    assert cluster.failed(action, "died").interrupted
    cluster.output(cluster.run("pid"))


def test_a_killed_manager_loses_its_tasks_and_another_takes_its_place(cluster, waiting):
    action, pid, _ = waiting
    (guard,) = guards(cluster.folder)
    (manager,) = children(guard)
    os.kill(manager, signal.SIGKILL)
    assert cluster.failed(action, "died").interrupted
    wait_for_death(pid)
    cluster.output(cluster.run("pid"))


def test_a_manager_that_lives_by_half_is_ended_and_replaced(cluster, monkeypatch):
    """Its helper process is killed: it goes on saying that it lives, and begins nothing."""
    monkeypatch.setattr(cluster.provider._kernel._stalls["one"], "_stall_s", 8.0)
    cluster.output(cluster.run("pid"))
    (guard,) = guards(cluster.folder)
    (manager,) = children(guard)
    helper = min(pid for pid in children(manager) if b"spawn_main" in command_line(pid))
    os.kill(helper, signal.SIGKILL)
    action = cluster.run("pid")
    if not cluster.end(action).interrupted:  # the manager may have died of it at once
        cluster.output(action)
    cluster.output(cluster.run("pid"))


def test_a_killed_interchange_loses_its_tasks_and_parsl_starts_anew(cluster, waiting):
    action, pid, _ = waiting
    os.kill(interchange(cluster), signal.SIGKILL)
    assert cluster.failed(action, "interchange of one died").interrupted
    wait_for_death(pid)
    cluster.output(cluster.run("pid"))


OWNER = """
import sys, threading
from pathlib import Path
from hpc_bridge.parsl_compute import ParslCompute
from hpc_bridge.parsl_settings import Blocks, ParslSettings
folder = Path(sys.argv[1])
jobs = {"wait": "bridge_jobs:wait"}
compute = ParslCompute(jobs, {"one": Blocks()}, ParslSettings(folder / "parsl", heartbeat_s=3.0), folder / "c.sqlite")
kwargs = {"log": str(folder / "said"), "tag": "x", "pipe": str(folder / "heard")}
compute.run("r1", {"endpoint_id": "one", "tasks": [{"function_id": "wait", "kwargs": kwargs}]})
threading.Event().wait()
"""


def test_nothing_outlives_an_owner_that_is_killed(tmp_path):
    with Pipe(tmp_path / "said") as said, Pipe(tmp_path / "heard"):
        with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)]) as owner:
            try:
                pid = int(said.line().split()[1])
                found = [*descendants(owner.pid), *guards(tmp_path)]
                pids = {each for one in found for each in (one, *descendants(one))}
            finally:
                owner.kill()
        for each in {pid, *pids}:
            wait_for_death(each)
    provider = ParslCompute(JOBS, {"one": Blocks()}, ParslSettings(tmp_path / "parsl"), tmp_path / "c.sqlite")
    try:
        (row,) = provider._store._database.query("SELECT action_id FROM action")
        assert provider.status(row["action_id"]).interrupted
    finally:
        provider.stop()


@pytest.mark.parametrize("name", ["pbspro", "slurm"])
def test_a_scheduler_is_asked_for_what_is_configured(tmp_path, name):
    blocks = Blocks(queue="debug", account="ptycho", walltime="00:30:00", nodes_per_block=2, cores_per_node=32)
    settings = ParslSettings(tmp_path, name, address="127.0.0.1")
    made = provider(blocks, settings)
    assert (made.walltime, made.nodes_per_block, made.account) == ("00:30:00", 2, "ptycho")
    assert getattr(made, "queue" if name == "pbspro" else "partition") == "debug"
    found = executor("reconstruct", blocks, settings, tmp_path / "alive")
    assert "parsl_guard" in found.launch_cmd
    assert found.encrypted


def test_an_endpoint_that_rests_gives_its_block_back_until_there_is_a_task(cluster):
    def worker():
        action = cluster.run("pid")
        return cluster.end(action).details["results"][0]["output"]["pid"]

    first = worker()
    cluster.provider.rest("one", True)
    wait_for_death(first)
    second = worker()
    wait_for_death(second)
    cluster.provider.rest("one", False)
    assert worker() != second
