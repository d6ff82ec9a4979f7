"""Kill -9 of the process that runs flows, at many moments: every attempt begins once, every run succeeds."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from job_pipes import DEADLINE_S, Pipe, wait_for_death

from hpc_bridge.actions import ActionStore
from hpc_bridge.journal import Journal, RunStatus

HERE = Path(__file__).parent
RUNS = 4


def environment():
    return {**os.environ, "PYTHONPATH": f"{HERE.parent.parent}{os.pathsep}{HERE}"}


def said(process):
    """Status and output of a process once it has ended; one that does not is not waited for without an end."""
    with process:
        try:
            output, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    return process.returncode, output


class Host:
    """The folder that outlives the killed processes."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("a", "b"):
            (folder / name).mkdir()
        for number in range(RUNS):
            (folder / "a" / f"run{number}.h5").write_bytes(os.urandom(1000))

    def start(self, kill="-"):
        command = [sys.executable, str(HERE / "bridge_host.py"), str(self.folder), str(RUNS), kill]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())

    def kill(self, moment):
        """Start and let it kill itself at that moment."""
        assert said(self.start(moment))[0] == -9

    def finish(self):
        assert said(self.start())[1].splitlines()[-1] == "done"

    def check(self):
        lines = [line.split() for line in (self.folder / "log").read_text().splitlines()]
        begun = Counter(tag for tag, _ in lines)
        journal = Journal(self.folder / "runs.sqlite")
        try:
            for row in journal.rows(100):
                assert row.status is RunStatus.SUCCEEDED, row.message
                self.check_run(journal.actions(row.run_id), begun)
        finally:
            journal.close()
        for path in (self.folder / "a").iterdir():
            assert (self.folder / "b" / path.name).read_bytes() == path.read_bytes()
        for pid in {int(pid) for _, pid in lines}:
            wait_for_death(pid)

    @staticmethod
    def check_run(actions, begun):
        attempts = Counter(action.state for action in actions)
        succeeded = [action.state for action in actions if action.status == "SUCCEEDED"]
        assert succeeded == ["Transfer", "First", "Second", "Register"]
        assert attempts["Transfer"] == 1
        assert len({action.action_id for action in actions}) == len(actions)
        for state in ("First", "Second", "Register"):
            tag = f"{actions[0].run_id}.{state.lower()}"
            assert 1 <= begun[tag] <= attempts[state], f"{tag} began {begun[tag]} times in {attempts[state]} attempts"


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.mark.parametrize("moment", ["run:1", "begun:1", "run:3", "begun:4", "ended:3", "release:5"])
def test_a_kill_between_journal_and_provider_begins_nothing_twice(host, moment):
    host.kill(moment)
    host.finish()
    host.check()


def test_kills_one_after_another_lose_and_double_nothing(host):
    # no more than MAX_LOST of these moments can meet the same job at its work
    for moment in ("run:1", "begun:1", "ended:1", "release:1"):
        host.kill(moment)
    host.finish()
    host.check()


BLOCKED = """
import sys
from pathlib import Path
from hpc_bridge.local_compute import LocalCompute
from hpc_bridge.workers import WorkerSetup
folder = sys.argv[1]
compute = LocalCompute({"wait": "bridge_jobs:wait"}, {"one": WorkerSetup(warm=())}, Path(folder) / "c.sqlite")
kwargs = {"log": folder + "/said", "tag": "x", "pipe": folder + "/heard"}
compute.run("r1", {"endpoint_id": "one", "tasks": [{"function_id": "wait", "kwargs": kwargs}]})
sys.stdin.read()
"""


def test_a_running_job_dies_with_its_parent_and_is_known_to_be_lost(tmp_path):
    command = [sys.executable, "-c", BLOCKED, str(tmp_path)]
    with Pipe(tmp_path / "said") as tag, Pipe(tmp_path / "heard"):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment())
        with process:
            try:
                pid = int(tag.line().split()[1])
            finally:
                process.kill()
            wait_for_death(pid)
    store = ActionStore(tmp_path / "c.sqlite")
    assert len(store.unfinished()) == 1
    store.close()
