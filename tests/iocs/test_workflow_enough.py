"""When training goes to standby by itself, and what wakes it: the decisions alone, and in the real workflow IOC."""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from iocs.server import IocServer
from iocs.workflow_enough import Enough
from iocs.workflow_kept import KeptSetpoints
from pvdb import Pv
from pvdb import workflow as pvs


class Ioc:
    """The PVs that standby is decided by."""

    def __init__(self) -> None:
        self.values: dict[Pv, Any] = {pvs.STANDBY: 0, pvs.TARGET: 0.3, pvs.TARGET_SCANS: 2, pvs.TRUST_FACTOR: 1.5}
        self.listeners: dict[Pv, list[Callable[[Any], None]]] = defaultdict(list)
        self.told: list[str] = []

    def value(self, pv: Pv) -> Any:
        return self.values[pv]

    def post(self, pv: Pv, value: Any, **_: Any) -> None:
        self.values[pv] = value
        for listener in self.listeners[pv]:
            listener(value)

    def tell(self, pv: Pv, text: str, severity: Any = None) -> None:
        self.told.append(text)

    def listen(self, pv: Pv, listener: Callable[[Any], None]) -> None:
        self.listeners[pv].append(listener)

    def on_set(self, pv: Pv, accept: Any) -> None:
        """A put by hand only posts here."""


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder, self.resting = folder, [False]
        self.start()

    def start(self) -> None:
        standby = 0
        if (self.folder / "switches.json").exists():
            standby = ("Off", "On").index(json.loads((self.folder / "switches.json").read_text())["Train:Standby"])
        self.ioc = Ioc()
        self.ioc.values[pvs.STANDBY] = standby
        ioc = cast(IocServer, self.ioc)
        kept = KeptSetpoints(ioc, self.folder / "switches.json", pvs.STANDBY)
        self.enough = Enough(ioc, self.folder / "enough.json", kept, rest=self.resting.append)

    @property
    def asleep(self) -> bool:
        assert self.resting[-1] == bool(self.ioc.values[pvs.STANDBY])
        return bool(self.ioc.values[pvs.STANDBY])

    @property
    def reason(self) -> str:
        return str(self.ioc.values[pvs.STANDBY_REASON])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_enough_good_scans_in_a_row_are_enough(place: Place) -> None:
    for scan_id, loss in (("a", 0.2), ("b", 0.4), ("c", 0.3), ("c", 0.3)):
        place.enough.judged({scan_id: loss})
        assert not place.asleep, "the same scan counts once, and one that is not good begins the count anew"
    assert place.ioc.values[pvs.GOOD_SCANS] == 1
    place.enough.judged({"d": 0.1})
    assert place.asleep
    assert place.reason == "the loss on 2 new scans in a row is 0.3 rad or less"
    assert place.ioc.values[pvs.NEW_SCAN_LOSS] == 0.1


def test_without_a_target_nothing_is_enough(place: Place) -> None:
    place.ioc.values[pvs.TARGET] = 0.0
    for scan_id in "abc":
        place.enough.judged({scan_id: 1e-9})
    assert not place.asleep


def test_a_worse_scan_wakes_it(place: Place) -> None:
    place.enough.judged({"a": 0.1, "b": 0.1})
    place.enough.judged({"c": 0.29})
    assert place.asleep
    place.enough.judged({"d": 0.5})
    assert not place.asleep
    assert place.reason == ""
    assert "wakes: the loss on scan d is 0.5000 rad, 0.3 is enough" in place.ioc.told[-1]
    place.enough.judged({"e": 0.1})
    assert not place.asleep, "the count begins anew"


def test_a_risen_figure_of_trust_wakes_it(place: Place) -> None:
    place.enough.trusted(0.4)
    place.enough.judged({"a": 0.1, "b": 0.1})
    for ratio in (0.5, math.nan, 0.59):
        place.enough.trusted(ratio)
        assert place.asleep
    place.enough.trusted(0.61)
    assert not place.asleep
    assert "rose from 0.40 to 0.61" in place.ioc.told[-1]


def test_where_no_figure_was_known_the_first_is_what_it_may_rise_from(place: Place) -> None:
    place.enough.judged({"a": 0.1, "b": 0.1})
    place.enough.trusted(0.8)
    assert place.asleep
    place.enough.trusted(1.3)
    assert not place.asleep


def test_what_was_put_by_hand_does_not_wake_by_itself(place: Place) -> None:
    place.ioc.post(pvs.STANDBY, 1)
    assert place.reason == "put by hand"
    place.enough.trusted(0.1)
    place.enough.trusted(9.0)
    place.enough.judged({"a": 9.0})
    assert place.asleep
    place.ioc.post(pvs.STANDBY, 0)
    assert place.reason == ""
    assert not place.asleep


def test_a_put_wakes_it_and_a_restart_does_not(place: Place) -> None:
    place.enough.judged({"a": 0.1, "b": 0.1})
    place.start()
    assert place.asleep
    assert place.reason == "the loss on 2 new scans in a row is 0.3 rad or less"
    place.ioc.post(pvs.STANDBY, 0)
    assert not place.asleep
    place.enough.judged({"c": 0.1})
    assert place.ioc.values[pvs.GOOD_SCANS] == 1


@pytest.mark.parametrize("content", ["", "[]", '{"colour": "red"}'])
def test_a_damaged_note_is_begun_anew(place: Place, content: str) -> None:
    place.enough.judged({"a": 0.1, "b": 0.1})
    (place.folder / "enough.json").write_text(content)
    place.start()
    assert place.asleep
    assert place.reason == "put by hand", "what is not known to be its own does not wake by itself"
