"""Scans that submit themselves: the real workflow IOC beside the PVs of a beamline that is not ours."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from following import Following
from harness import Process, start_ioc, start_script, write_config

from benchmarks.scans import write_scan
from phasing.geometry import Geometry
from pvdb import workflow as pvs

HERE = Path(__file__).parent
GEOMETRY = Geometry(10_400.0, 1.55, 110e-6, (64, 64), 64)
PATIENCE_S = 600.0
DONE, CAPTURE = ([index, ["Done", "Capture"]] for index in (0, 1))
SETTINGS = """
[reconstruct]
num_epochs = 1
[train]
num_epochs = 1
[workflow]
nice = 0
threads_per_worker = 1
[auto]
on = true
wait_s = 3.0
"""
WATCHED = (pvs.LAST_ACCEPTED, pvs.SCAN_MESSAGE, pvs.WAITING_SCANS, pvs.AUTO_STATE, pvs.FLOW_STATE, pvs.QUEUED_RUNS)


class Beamline:
    """PVs of a file plugin or scan engine, the files that it writes, and a workflow IOC that watches."""

    def __init__(self, folder: Path, protocol: str, auto: str, names: dict[str, object]) -> None:
        self.folder, self.prefix = folder, f"A{os.getpid()}{folder.name[-8:]}:"
        self.scans = folder / "data" / "scans"
        self.scans.mkdir(parents=True)
        self.names = {name: f"{self.prefix}{name}" for name in names}
        self.config = write_config(folder, self.prefix, SETTINGS + auto.format(scans=self.scans, **self.names))
        with ExitStack() as parts:
            first = json.dumps({self.names[name]: value for name, value in names.items()})
            self._pvs = start_script(HERE / "scan_pvs.py", folder / "pvs.log", protocol, first)
            parts.callback(self._pvs.stop)
            self.ioc: Process = start_ioc("workflow", self.config)
            parts.callback(lambda: self.ioc.stop())
            self.client = parts.enter_context(closing(Following(self.prefix)))
            self.client.watch(*WATCHED)
            self.until(lambda: self.client.value(pvs.AUTO_STATE) == "Watching", "the beamline's PVs are there")
            self.client.put(pvs.HOLD, "On")  # what is accepted is what is tested, not what becomes of it
            self._parts = parts.pop_all()

    def close(self) -> None:
        self._parts.close()

    def put(self, **values: object) -> None:
        """Put the beamline's PVs, and wait until they have their values."""
        self._pvs.tell(json.dumps({self.names[name]: value for name, value in values.items()}))
        self._pvs.wait_count("done", self._pvs.told)

    def write(self, name: str, *, frames: int = 12) -> Path:
        return write_scan(self.scans / name, GEOMETRY, frames, seed=1)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.client.wait(condition, what, PATIENCE_S)

    def accepted(self, path: Path) -> None:
        self.until(lambda: self.client.value(pvs.LAST_ACCEPTED) == str(path), f"{path.name} is accepted")

    def message(self, text: str) -> None:
        self.until(lambda: text in str(self.client.value(pvs.SCAN_MESSAGE)), text)

    @property
    def runs(self) -> list[str]:
        return sorted(self.client.get(pvs.FLOW_TABLE)["scan"])


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Beamline]]:
    with ExitStack() as made:
        yield lambda *arguments: made.enter_context(closing(Beamline(tmp_path, *arguments)))


PLUGIN = '\ntrigger_pv = "{capture}"\nfile_pv = "{name}"\nquiet_pvs = ["{capture}", "{status}"]\n'


def test_each_scan_of_a_file_plugin_is_submitted_once_when_its_file_is_complete(make: Callable[..., Beamline]) -> None:
    with_plugin = {"capture": DONE, "name": "", "status": [0, ["Write OK", "Write error"]]}
    line = make("pva", PLUGIN, with_plugin)
    first = line.write("one.h5")
    line.put(name=str(first), capture=CAPTURE)
    line.put(capture=DONE)
    line.accepted(first)
    second = line.scans / "two.h5"
    line.put(name=str(second), capture=CAPTURE)
    line.put(capture=DONE)
    line.until(lambda: line.client.value(pvs.WAITING_SCANS) == 1, "the second waits for its file")
    line.write("two.h5")
    line.accepted(second)
    line.put(capture=CAPTURE)
    line.put(capture=DONE)  # the same file again: nothing new
    third = line.scans / "never.h5"
    line.put(name=str(third), capture=CAPTURE)
    line.put(capture=DONE)
    line.message("never.h5 is not submitted: after 3 s it still waits for the file to be there")
    line.put(name=str(line.write("few.h5", frames=4)), capture=CAPTURE)
    line.put(capture=DONE)
    line.message("4 frames are too few")
    assert line.runs == ["one", "two"]


def test_a_scan_that_ended_while_the_ioc_was_down_is_submitted_at_its_start(make: Callable[..., Beamline]) -> None:
    line = make("pva", PLUGIN, {"capture": DONE, "name": "", "status": [0, ["Write OK", "Write error"]]})
    first = line.write("one.h5")
    line.put(name=str(first), capture=CAPTURE)
    line.put(capture=DONE)
    line.accepted(first)
    line.ioc.kill()
    line.until(lambda: line.client.value(pvs.FLOW_STATE) is None, "the IOC is gone")
    for name in ("two.h5", "three.h5"):
        line.write(name)
    old = line.scans / "old.h5"
    shutil.copy2(first, old)
    os.utime(old, (1e9, 1e9))
    line.ioc = start_ioc("workflow", line.config)
    line.until(lambda: line.client.value(pvs.QUEUED_RUNS) == 3, "three runs wait")
    line.until(lambda: line.client.value(pvs.WAITING_SCANS) == 0, "nothing is left to look at")
    assert line.runs == ["one", "three", "two"]


def test_an_sscan_over_channel_access_with_names_of_another_computer(make: Callable[..., Beamline]) -> None:
    auto = '\ntrigger_pv = "ca://{awaits}"\nfile_pv = "ca://{name}"\nquiet_pvs = []\n'
    auto += 'replace_prefix = ["/det", "{scans}"]\n'
    line = make("ca", auto, {"awaits": 0, "name": "/det/the-scan-before.h5"})
    path = line.write("mda.h5")
    line.put(name="/det/mda.h5", awaits=1)
    assert line.client.get(pvs.QUEUED_RUNS) == 0
    line.put(awaits=0)
    line.accepted(path)


def test_a_name_that_a_plan_writes_submits_the_scan_unless_auto_is_off(make: Callable[..., Beamline]) -> None:
    line = make("pva", '\ntrigger_pv = "{name}"\nfile_pv = "{name}"\nwhen = "changes"\nquiet_pvs = []\n', {"name": ""})
    first, second, third = (line.write(f"{name}.h5") for name in ("one", "two", "three"))
    line.put(name=str(first))
    line.accepted(first)
    line.client.put(pvs.AUTO, "Off")
    line.put(name=str(second))
    line.client.put(pvs.AUTO, "On")
    line.put(name=str(third))
    line.accepted(third)
    assert "two" not in line.runs
