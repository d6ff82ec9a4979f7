"""Proposal, sample and root of the real workflow IOC, switched without a restart."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_place import WorkflowPlace

from benchmarks.scans import write_scan
from iocs.client import ClientError
from phasing.geometry import Geometry
from pvdb import workflow as pvs

PREFIX = f"X{os.getpid()}:"
GEOMETRY = Geometry(10_400.0, 1.55, 110e-6, (64, 64), 64)
SETTINGS = """
[reconstruct]
num_epochs = 1
[workflow]
nice = 0
threads_per_worker = 1
roots = ["{more}"]
[retention]
copies_gb = 1e-9
"""
WATCHED = (pvs.LINEAGE, pvs.EXP_MESSAGE, pvs.SUCCEEDED_RUNS, pvs.FLOW_STATE, pvs.TRANSFER_MESSAGE, pvs.QUEUED_RUNS)


class Place(WorkflowPlace):
    def __init__(self, folder: Path) -> None:
        self.more = folder / "more"
        super().__init__(folder, PREFIX, SETTINGS.format(more=self.more), *WATCHED)

    def write_scan(self, name: str) -> Path:
        return write_scan(self.folder / "data" / "scans" / name, GEOMETRY, 12, seed=1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.stop()


def test_an_experiment_is_switched_refused_while_runs_are_active_and_remembered(place: Place) -> None:
    client = place.client
    client.put(pvs.STANDBY, "On")
    before = client.value(pvs.LINEAGE)
    client.put(pvs.PROPOSAL, "GUP-12345 (2026-3)")
    place.until(lambda: client.value(pvs.LINEAGE) != before, "another lineage")
    for pv, value, reason in (
        (pvs.PROPOSAL, "//", "no letter or digit"),
        (pvs.ROOT, "/elsewhere", "workflow.roots"),
        (pvs.ROOT, str(place.folder / "data" / "scans" / ".." / ".." / ".." / "x"), "workflow.roots"),
    ):
        with pytest.raises(ClientError, match=reason):
            client.put(pv, value)
    client.put(pvs.ROOT, str(place.more / "week-1"))
    client.put(pvs.HOLD, "On")
    client.put(pvs.FILE, str(place.write_scan("a.h5")))
    client.put(pvs.SUBMIT, 1)
    with pytest.raises(ClientError, match="runs are active"):
        client.put(pvs.SAMPLE, "another")
    client.put(pvs.HOLD, "Off")
    place.until(lambda: client.value(pvs.SUCCEEDED_RUNS) == 1, "the run is done")
    (found,) = (place.more / "week-1" / "results" / "GUP-12345-2026-3" / "W-pattern" / "reconstructions").iterdir()
    assert found.name.startswith("a-")
    place.until(lambda: "1 of scans" in str(client.value(pvs.TRANSFER_MESSAGE)), "the copy is beyond its quota")
    lineage = client.value(pvs.LINEAGE)
    place.stop()
    place.start()
    assert place.client.get(pvs.PROPOSAL) == "GUP-12345 (2026-3)"
    assert place.client.get(pvs.ROOT) == str(place.more / "week-1")
    assert place.client.value(pvs.LINEAGE) == lineage
    place.client.put(pvs.SAMPLE, "another")
    place.until(lambda: place.client.value(pvs.LINEAGE) != lineage, "another lineage")
