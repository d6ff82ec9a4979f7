"""What the real workflow IOC trains on: by lineage, by what proposals share, by what is excluded."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness import start_script
from workflow_place import PATIENCE_S, WorkflowPlace

from benchmarks.scans import write_scan
from iocs.client import ClientError
from phasing.geometry import Geometry
from phasing.store import Registry
from pvdb import workflow as pvs

PREFIX = f"L{os.getpid()}:"
GEOMETRY = Geometry(10_400.0, 1.55, 110e-6, (64, 64), 64)
SETTINGS = """
[reconstruct]
num_epochs = 1
[train]
num_epochs = 1
[workflow]
nice = 0
threads_per_worker = 1
"""
WATCHED = (
    *(pvs.LINEAGE, pvs.SUCCEEDED_RUNS, pvs.SCAN_MESSAGE, pvs.EXCLUDED, pvs.TRAIN_STATE, pvs.NUM_SCANS),
    *(pvs.STANDBY, pvs.STANDBY_REASON, pvs.GOOD_SCANS),
)


class Place(WorkflowPlace):
    """A workflow IOC that begins no round by itself, and scans to submit."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, PREFIX, SETTINGS, *WATCHED)
        self.client.put(pvs.STANDBY, "On")

    def run(self, name: str, *, energy_ev: float = 10_400.0, begin_s: float = 1e9) -> None:
        """Reconstruct a scan of 40 frames and make its pairs."""
        path = self.folder / "data" / "scans" / f"{name}.h5"
        write_scan(path, replace(GEOMETRY, energy_ev=energy_ev), 40, begin_s=begin_s)
        self.client.put(pvs.FILE, str(path))
        self.client.put(pvs.RUN, 1, timeout_s=PATIENCE_S)

    def train(self) -> tuple[str, ...]:
        """Train a round now; returns the scans of its model."""
        self.client.put(pvs.START, 1, timeout_s=PATIENCE_S)
        return Registry(self.folder / "data" / "registry").versions()[-1].card.scans

    def lineage(self) -> str:
        return str(self.client.get(pvs.LINEAGE))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.stop()


def test_a_change_of_geometry_starts_a_lineage_of_its_own(place: Place) -> None:
    first = place.lineage()
    place.run("usual")
    place.run("softer", energy_ev=9_000.0, begin_s=1.1e9)
    place.until(lambda: place.client.value(pvs.LINEAGE) != first, "another lineage")
    assert "for the geometry is another: energy_ev" in str(place.client.get(pvs.SCAN_MESSAGE))
    second = place.lineage()
    assert place.train() == ("softer",)
    place.stop()
    place.start()
    assert place.lineage() == second, "remembered"
    place.run("old")
    assert "it is older and its geometry another" in str(place.client.get(pvs.SCAN_MESSAGE))
    assert place.lineage() == second
    place.run("usual again", begin_s=1.2e9)
    place.until(lambda: place.client.value(pvs.LINEAGE) == first, "back in the first lineage")
    assert place.train() == ("usual", "old", "usual again")
    cards = [entry.card for entry in Registry(place.folder / "data" / "registry").versions()]
    assert [(card.lineage, card.parent) for card in cards] == [(second, None), (first, None)]


def test_no_proposal_learns_from_another_unless_both_share(place: Place) -> None:
    client = place.client
    place.run("kept")
    client.put(pvs.SHARE, "On")
    place.run("shared")
    client.put(pvs.SHARE, "Off")
    client.put(pvs.PROPOSAL, "another")
    with pytest.raises(ClientError, match="no training pairs yet"):
        client.put(pvs.START, 1)
    client.put(pvs.SHARE, "On")
    assert place.train() == ("shared",)
    place.run("own")
    assert place.train() == ("shared", "own")


def test_an_excluded_scan_is_trained_on_no_more(place: Place) -> None:
    client = place.client
    place.run("good")
    place.run("bad")
    for pv, scan, reason in (
        (pvs.EXCLUDE, "unknown", "no scan unknown was ever accepted"),
        (pvs.INCLUDE, "bad", "bad is not excluded"),
    ):
        with pytest.raises(ClientError, match=reason):
            client.put(pv, scan)
    client.put(pvs.EXCLUDE, "bad")
    place.until(lambda: client.value(pvs.EXCLUDED) == "bad", "it is shown")
    assert place.train() == ("good",)
    place.stop()
    place.start()
    client = place.client
    assert client.get(pvs.EXCLUDED) == "bad"
    client.put(pvs.EXCLUDE, "good")
    with pytest.raises(ClientError, match="no training pairs yet"):
        client.put(pvs.START, 1)
    client.put(pvs.INCLUDE, "good")
    client.put(pvs.INCLUDE, "bad")
    assert client.get(pvs.EXCLUDED) == ""
    assert set(place.train()) == {"good", "bad"}


def test_a_reconstruction_below_a_limit_is_kept_out_of_training_with_the_reason(place: Place) -> None:
    client = place.client
    place.run("good")
    for pv in (pvs.FOURIER_ERROR, pvs.RING_CORRELATION, pvs.RESOLUTION):
        assert client.get(pv) > 0.0
    client.put(pvs.MIN_RING_CORRELATION, 0.999)
    with pytest.raises(ClientError, match="no training pairs yet"):
        client.put(pvs.START, 1)
    assert "scan good: its halves correlate by 0." in str(client.get(pvs.KEPT_OUT))
    assert "0.999 is asked for" in str(client.get(pvs.KEPT_OUT))
    client.put(pvs.MIN_RING_CORRELATION, 0.0)
    client.put(pvs.MAX_FOURIER_ERROR, 1e-3)
    with pytest.raises(ClientError, match="no training pairs yet"):
        client.put(pvs.START, 1)
    assert "its Fourier error is 0." in str(client.get(pvs.KEPT_OUT))
    client.put(pvs.MAX_FOURIER_ERROR, 0.0)
    assert place.train() == ("good",)
    assert client.get(pvs.KEPT_OUT) == ""


def test_enough_is_enough_until_a_scan_is_worse(place: Place) -> None:
    client = place.client
    place.run("good")
    assert place.train() == ("good",)
    client.put(pvs.STANDBY, "Off")
    client.put(pvs.TARGET_SCANS, 2)
    client.put(pvs.TARGET, 9.0)
    for scan in ("own", "shared"):
        place.run(scan)
    place.until(lambda: client.value(pvs.STANDBY) == "On", "it is enough")
    assert client.get(pvs.STANDBY_REASON) == "the loss on 2 new scans in a row is 9 rad or less"
    assert 0.0 < client.get(pvs.NEW_SCAN_LOSS) < 9.0
    client.put(pvs.TARGET, 1e-6)
    place.run("lent")
    place.until(lambda: client.value(pvs.STANDBY) == "Off", "a worse scan wakes it")
    registry = Registry(place.folder / "data" / "registry")
    place.until(lambda: "lent" in registry.versions()[-1].card.scans, "a round learns from it")


def test_a_risen_figure_of_trust_wakes_training(place: Place) -> None:
    client, noted = place.client, place.folder / "data" / "journal" / "enough.json"
    stub = start_script(Path(__file__).parent / "edge_stub.py", place.folder / "stub.log", PREFIX)
    place.parts.callback(stub.stop)

    def scanned(ratio: float) -> None:
        for said in ({"ratio": 9.0, "scan_state": "Running"}, {"ratio": ratio}, {"scan_state": "Complete"}):
            stub.tell(json.dumps(said))

    def trust() -> float | None:
        return json.loads(noted.read_text())["trust"]  # type: ignore[no-any-return]

    place.run("good")
    place.train()
    for pv, value in ((pvs.STANDBY, "Off"), (pvs.TARGET_SCANS, 1), (pvs.TARGET, 9.0)):
        client.put(pv, value)
    place.run("own")
    place.until(lambda: client.value(pvs.STANDBY) == "On", "it is enough")
    scanned(0.4)
    place.until(lambda: trust() == 0.4, "what it may rise from is known")
    scanned(0.5)
    scanned(0.7)
    place.until(lambda: client.value(pvs.STANDBY) == "Off", "it wakes")
    assert client.get(pvs.STANDBY_REASON) == ""
