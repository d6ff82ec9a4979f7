import re
from collections import Counter

import pytest

from pvdb import IOCS
from pvdb.declare import Area, gather
from pvdb.model import NUMBERS, PVA_ONLY, TEXT, Kind, Limits, Pv, PvError, Role, Severity, full_name, state_name

ALL = [pv for pvs in IOCS.values() for pv in pvs]
WRITABLE = [pv for pv in ALL if pv.role is not Role.READBACK]
ALARMING = re.compile(r"fail|error|fault|refused|disconnected|invalid", re.IGNORECASE)
OK = Severity.NO_ALARM


def named(pv: Pv) -> str:
    return pv.name


def declared(**changes: object) -> Pv:
    values: dict[str, object] = {
        "name": "Area:Name", "kind": Kind.FLOAT, "role": Role.SETPOINT, "description": "A number", "unit": "s",
    }  # fmt: skip
    return Pv(**{**values, **changes})  # type: ignore[arg-type]


def state(*names: str) -> Pv:
    return declared(kind=Kind.STATE, unit="", choices=dict.fromkeys(names, OK))


def test_no_name_is_declared_twice_in_all_iocs_together() -> None:
    assert not [name for name, times in Counter(map(named, ALL)).items() if times > 1]


def test_gathering_refuses_a_name_that_two_areas_declare() -> None:
    one, other = Area("Edge:"), Area("Edge:")
    for area in (one, other):
        area.number("Rate", "Predictions a second", unit="fps")
    with pytest.raises(ValueError, match="Edge:Rate is declared twice"):
        gather(one, other)


@pytest.mark.parametrize("ioc", IOCS)
def test_every_setpoint_and_action_has_a_read_back_of_its_kind_in_the_same_ioc(ioc: str) -> None:
    pvs = {pv.name: pv for pv in IOCS[ioc]}
    for pv in pvs.values():
        if pv.role is not Role.READBACK:
            twin = pvs[f"{pv.name}_RBV"]
            assert twin.role is Role.READBACK
            assert (twin.kind, twin.unit, twin.choices) == (pv.kind, pv.unit, pv.choices)


@pytest.mark.parametrize("ioc", IOCS)
def test_messages_go_to_a_text_of_the_same_ioc_that_clients_cannot_write(ioc: str) -> None:
    pvs = {pv.name: pv for pv in IOCS[ioc]}
    for pv in pvs.values():
        if pv.message is not None:
            assert pvs[pv.message].kind in TEXT
            assert pvs[pv.message].role is Role.READBACK
        assert pv.message is not None or pv.role is not Role.ACTION, f"{pv.name} could not say why it failed"


@pytest.mark.parametrize("pv", [pv for pv in ALL if pv.kind in NUMBERS], ids=named)
def test_every_number_has_a_unit_and_a_precision(pv: Pv) -> None:
    assert pv.unit
    assert 0 <= pv.precision <= 15
    assert pv.precision == 0 or pv.kind is not Kind.INTEGER


@pytest.mark.parametrize("pv", [pv for pv in ALL if pv.kind is Kind.STATE], ids=named)
def test_a_state_that_tells_of_a_failure_is_a_major_alarm(pv: Pv) -> None:
    for name, severity in pv.choices.items():
        if ALARMING.search(name):
            assert severity >= Severity.MAJOR, name


@pytest.mark.parametrize("area", ["Flow", "Transfer", "Recon", "Train", "Edge"])
def test_every_stage_can_show_that_it_failed(area: str) -> None:
    (pv,) = [pv for pv in ALL if pv.name == f"{area}:State"]
    assert max(pv.choices.values()) >= Severity.MAJOR


@pytest.mark.parametrize("pv", ALL, ids=named)
def test_what_a_pv_holds_at_first_is_legal(pv: Pv) -> None:
    if pv.kind is Kind.STATE:
        assert state_name(pv, pv.initial) in pv.choices
    if pv.kind in (Kind.FLOAT, Kind.INTEGER) and pv.limits is not None:
        assert pv.limits.low <= pv.initial <= pv.limits.high
    if pv.kind in (Kind.LONG_STRING, Kind.CHARACTERS):
        assert len(pv.initial) < pv.max_length


@pytest.mark.parametrize("pv", [pv for pv in WRITABLE if pv.kind in NUMBERS], ids=named)
def test_every_number_that_clients_write_has_limits(pv: Pv) -> None:
    assert pv.limits is not None


@pytest.mark.parametrize("pv", ALL, ids=named)
def test_alarm_limits_rise(pv: Pv) -> None:
    a = pv.alarms
    limits = [limit for limit in (a.lolo, a.low, a.high, a.hihi) if limit is not None]
    assert limits == sorted(set(limits))


def test_an_action_is_at_rest_or_busy_and_alarms_in_neither() -> None:
    for pv in ALL:
        if pv.role is Role.ACTION:
            assert pv.states[0] == "Done" and len(pv.states) == 2 and pv.initial == 0
            assert set(pv.choices.values()) == {OK}


def test_streams_tables_and_calls_are_on_pvaccess_alone_and_take_no_puts() -> None:
    for pv in ALL:
        assert pv.on_channel_access == (pv.kind not in PVA_ONLY)
        assert pv.on_channel_access or pv.role is Role.READBACK
        assert bool(pv.columns) == (pv.kind is Kind.TABLE)


def test_what_channel_access_can_just_carry_is_accepted() -> None:
    assert state("s" * 25, *map(str, range(15))).states[0] == "s" * 25
    assert declared(unit="counts1", description="d" * 40).unit == "counts1"
    assert declared(kind=Kind.STRING, unit="", initial="x" * 39).initial == "x" * 39
    assert declared(name="Det:cam1:ArrayRate_RBV").name


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unit": "counts/s"}, "unit 'counts/s' is over 7 characters"),
        ({"unit": ""}, "a number has a unit"),
        ({"kind": Kind.INTEGER, "unit": ""}, "a number has a unit"),
        ({"kind": Kind.WAVEFORM, "unit": ""}, "a number has a unit"),
        ({"description": ""}, "1 to 40 characters"),
        ({"description": "d" * 41}, "1 to 40 characters"),
        ({"kind": Kind.STRING, "unit": "", "initial": "x" * 40}, "at most 39 characters"),
        ({"kind": Kind.STATE, "unit": "", "choices": {"s" * 26: OK}}, "over 25 characters"),
        ({"kind": Kind.STATE, "unit": "", "choices": {str(n): OK for n in range(17)}}, "over 16 states"),
        ({"kind": Kind.STATE, "unit": ""}, "states, and only states"),
        ({"choices": {"Off": OK}}, "states, and only states"),
        ({"limits": Limits(1, 1)}, "low is not below high"),
        ({"limits": Limits(2, 1)}, "low is not below high"),
        ({"name": "Rate"}, "a name is Area:PascalName"),
        ({"name": "Edge:rate"}, "a name is Area:PascalName"),
        ({"name": "Edge:Frames-In"}, "a name is Area:PascalName"),
        ({"name": "A:B:C:Rate"}, "a name is Area:PascalName"),
        ({"name": "Edge:Rate_rbv"}, "a name is Area:PascalName"),
    ],
)
def test_what_channel_access_would_cut_is_refused_by_name_and_reason(changes: dict[str, object], reason: str) -> None:
    name = str(changes.get("name", "Area:Name"))
    with pytest.raises(PvError, match=f"^{re.escape(name)}: .*{re.escape(reason)}"):
        declared(**changes)


def test_a_read_back_that_is_longer_than_its_setpoint_is_checked_too() -> None:
    assert declared(name="Area:Name").readback.name == "Area:Name_RBV"
    with pytest.raises(PvError, match="a name is Area:PascalName"):
        _ = declared(name="Area:Name_RBV").readback


RENAMES = {"Det:cam1:": "26IDEIG:cam1:", "Det:Pva1:": "26IDEIG:Pva2:"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Edge:Rate", "PTY:Edge:Rate"),
        ("Det:cam1:Acquire", "PTY:26IDEIG:cam1:Acquire"),
        ("Det:Pva1:Image", "PTY:26IDEIG:Pva2:Image"),
        ("Det:HDF1:Capture_RBV", "PTY:Det:HDF1:Capture_RBV"),
    ],
)
def test_full_names_take_the_prefix_and_the_configured_suffixes(name: str, wanted: str) -> None:
    assert full_name("PTY:", declared(name=name), RENAMES) == wanted


def test_without_renames_a_full_name_is_the_prefix_and_the_name() -> None:
    assert {full_name("A:", pv) for pv in ALL} == {f"A:{pv.name}" for pv in ALL}


def test_renamed_plugins_collide_with_nothing() -> None:
    assert len({full_name("A:", pv, RENAMES) for pv in ALL}) == len(ALL)


def test_no_name_is_too_long_for_channel_access() -> None:
    assert max(len(full_name("X" * 30, pv)) for pv in ALL) <= 60


def test_declarations_are_told_apart_by_name_and_cannot_be_changed() -> None:
    assert len(set(ALL)) == len(ALL)
    with pytest.raises(AttributeError):
        ALL[0].unit = "m"  # type: ignore[misc]
