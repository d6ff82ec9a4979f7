"""`phaseline up`: three processes of one terminal, none of which outlives it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from harness import Process, wait_gone, write_config

from benchmarks.processes import command_line, descendants
from iocs.client import Client
from pvdb import edge, health

PATIENCE_S = 600.0


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Process]:
    config = write_config(tmp_path, f"U{os.getpid()}:")
    made = Process([sys.executable, "-m", "iocs", "up", "--config", str(config)], tmp_path / "up.log")
    try:
        for name in ("detector", "workflow", "edge"):
            made.wait_line(lambda line, name=name: line.startswith(f"{name}: serving"))
        yield made
    finally:
        made.stop()


def test_ctrl_c_ends_all_iocs(suite: Process) -> None:
    with closing(Client(f"U{os.getpid()}:")) as client:
        client.watch(edge.STATE, *(health.named(area)[health.HEARTBEAT] for area in ("Det", "Workflow", "Edge")))
    children = descendants(suite.process.pid)
    assert len(children) >= 3
    suite.process.send_signal(signal.SIGINT)
    assert suite.process.wait(PATIENCE_S) == 0
    wait_gone(children)


def test_iocs_end_when_their_terminal_is_killed(suite: Process) -> None:
    children = descendants(suite.process.pid)
    suite.kill()
    wait_gone(children)


def test_an_ioc_that_dies_ends_the_others_with_its_name(suite: Process, tmp_path: Path) -> None:
    children = descendants(suite.process.pid)
    (victim,) = [pid for pid in children if b"\0detector\0" in command_line(pid)]
    os.kill(victim, signal.SIGKILL)
    assert suite.process.wait(PATIENCE_S) == 1
    assert "the detector IOC ended with status -9" in (tmp_path / "up.log").read_text()
    wait_gone(children)
