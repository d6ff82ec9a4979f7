"""What becomes of a run whose job is lost with a process: it goes on, unless the job itself is to blame."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from job_pipes import DEADLINE_S, Pipe
from scripted import action

from hpc_bridge.journal import RunStatus
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.runner import MAX_LOST, FlowRunner
from hpc_bridge.workers import WorkerSetup

JOBS = {name: f"bridge_jobs:{name}" for name in ("wait", "kill_itself")}


class Place:
    """A runner over one worker, which may be stopped and opened again, and pipes to its jobs."""

    def __init__(self, folder):
        self.folder = folder
        self.said, self.heard = Pipe(folder / "said"), Pipe(folder / "heard")
        self.open()

    def open(self):
        self.compute = LocalCompute(JOBS, {"one": WorkerSetup(warm=())}, self.folder / "compute.sqlite")
        self.runner = FlowRunner(self.folder / "runs.sqlite", {COMPUTE_URL: self.compute})
        self.runner.start()

    def stop(self):
        self.runner.stop()
        self.compute.stop()

    def submit(self, name, run_id, **kwargs):
        tasks = [{"function_id": name, "kwargs": kwargs}]
        state = action(ActionUrl=COMPUTE_URL, Parameters={"endpoint_id": "one", "tasks": tasks})
        return self.runner.submit({"StartAt": "A", "States": {"A": state}}, {}, run_id, run_id=run_id)

    def submit_wait(self, run_id):
        return self.submit("wait", run_id, log=self.said.path, tag=run_id, pipe=self.heard.path)

    def close(self):
        self.stop()
        self.said.close()
        self.heard.close()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


def test_a_run_goes_on_when_its_worker_is_killed(place):
    run = place.submit_wait("first")
    os.kill(int(place.said.line().split()[1]), 9)
    assert place.said.line().startswith("first ")
    place.heard.send("go on")
    assert place.runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert [row.status for row in place.runner.actions(run)] == ["FAILED", "SUCCEEDED"]


def test_a_job_that_kills_its_worker_again_and_again_fails_its_run(place):
    row = place.runner.wait(place.submit("kill_itself", "first"), DEADLINE_S)
    assert (row.status, row.message) == (RunStatus.FAILED, "A: the worker process of bridge_jobs:kill_itself died")
    assert len(place.runner.actions("first")) == MAX_LOST + 1


def test_restarts_fail_neither_the_run_whose_job_runs_nor_the_one_that_waits(place):
    place.submit_wait("first")
    assert place.said.line().startswith("first ")
    place.submit_wait("second")
    for _ in range(MAX_LOST + 1):
        place.stop()
        place.open()
        began = place.said.line()
    assert began.startswith("first ")
    for run in ("first", "second"):
        place.heard.send("go on")
        assert place.runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert place.said.line().startswith("second ")
    assert place.said.silent()


KILLED = """
import sys
from pathlib import Path
from hpc_bridge.local_compute import LocalCompute
from hpc_bridge.workers import WorkerSetup
folder, said, heard = sys.argv[1:]
compute = LocalCompute({"wait": "bridge_jobs:wait"}, {"one": WorkerSetup(warm=())}, Path(folder) / "compute.sqlite")
for tag in ("first", "second"):
    kwargs = {"log": said, "tag": tag, "pipe": heard}
    compute.run(tag, {"endpoint_id": "one", "tasks": [{"function_id": "wait", "kwargs": kwargs}]})
sys.stdin.read()
"""


def test_a_kill_is_held_against_the_job_that_ran_and_not_against_the_one_that_waited(place, tmp_path):
    place.stop()
    here = Path(__file__).parent
    path = f"{here.parent.parent}{os.pathsep}{here}"
    command = [sys.executable, "-c", KILLED, str(tmp_path), place.said.path, place.heard.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:
        assert place.said.line().startswith("first ")
        process.kill()
    place.open()
    actions = [
        place.compute.run(tag, {"endpoint_id": "one", "tasks": [{"function_id": "wait"}]})
        for tag in ("first", "second")
    ]
    statuses = [place.compute.status(action) for action in actions]
    assert [(status.interrupted, status.blameless) for status in statuses] == [(True, False), (True, True)]
