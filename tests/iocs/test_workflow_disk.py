"""New work is held while the disk is nearly full."""

import asyncio
from collections import namedtuple
from pathlib import Path
from typing import Any, cast

import pytest

from hpc_bridge.runner import FlowRunner
from iocs import workflow_disk
from iocs.server import IocServer
from iocs.workflow_disk import Disk
from pvdb import workflow as pvs

Usage = namedtuple("Usage", "total used free")


class Runner:
    held = False

    def hold(self, on: bool) -> None:
        self.held = on


class Place:
    """A disk whose free space is what the test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ioc, self.runner, self.folder = IocServer("workflow", "Workflow", "D:"), Runner(), folder
        self.free_gb = 100.0
        monkeypatch.setattr(workflow_disk.shutil, "disk_usage", lambda path: Usage(0, 0, self.free_gb * 1e9))
        self.restart()

    def restart(self) -> None:
        self.disk = Disk(self.ioc, cast(FlowRunner, self.runner), self.folder / "held-by-disk")

    def look(self, free_gb: float) -> tuple[bool, Any]:
        self.free_gb = free_gb
        self.disk.look(self.folder)
        return self.runner.held, self.ioc.value(pvs.HOLD)


def _with_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Any) -> None:
    async def main() -> None:
        check(Place(tmp_path, monkeypatch))

    asyncio.run(main())


def test_work_is_held_below_the_lowest_limit_and_goes_on_above_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(place: Place) -> None:
        assert place.look(50.0) == (False, 0)
        assert place.look(0.9) == (True, 1)
        assert "too little" in place.ioc.value(pvs.FLOW_MESSAGE)
        assert place.look(3.0) == (True, 1)
        place.restart()
        assert place.look(4.0) == (True, 1)
        assert place.look(6.0) == (False, 0)
        assert "goes on" in place.ioc.value(pvs.FLOW_MESSAGE)

    _with_place(tmp_path, monkeypatch, check)


def test_a_hold_by_hand_is_not_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(place: Place) -> None:
        place.runner.hold(True)
        assert place.look(0.5)[0]
        assert place.look(50.0)[0]

    _with_place(tmp_path, monkeypatch, check)
