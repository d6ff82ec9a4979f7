from pathlib import Path

from pvdb import IOCS
from pvdb.declare import Area
from pvdb.model import AlarmLimits, Role, Severity
from pvdb.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "pvs.md"


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_reference_is_what_the_declarations_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(IOCS), "old: run python -m pvdb docs/pvs.md"


def test_every_pv_is_on_the_page() -> None:
    text = page(IOCS)
    for pv in (pv for pvs in IOCS.values() for pv in pvs):
        if pv.role is not Role.READBACK:
            assert f"| `{pv.name}` `_RBV` |" in text
        else:
            assert f"| `{pv.name}` |" in text or f"| `{pv.name.removesuffix('_RBV')}` `_RBV` |" in text


def test_every_table_has_as_many_cells_in_every_row() -> None:
    for line in page(IOCS).splitlines():
        assert not line.startswith("|") or line.count("|") == 9, line


def test_a_row_tells_type_unit_limits_states_access_and_protocols() -> None:
    area = Area("Edge:")
    area.number("Wait", "Longest wait", unit="ms", limits=(0, 1000), setpoint=True, alarms=AlarmLimits(high=5, hihi=9))
    area.state("State", "What it does", {"Idle": Severity.NO_ALARM, "Fault": Severity.MAJOR})
    area.text("Message", "Last event", max_length=512)
    area.action("Reset", "Begin again")
    area.image("Phase", "Phase of a frame", unit="rad")
    text = page({"edge": area.pvs})
    wait = [
        "`Edge:Wait` `_RBV`",
        "float",
        "ms",
        "0 to 1000 [MINOR ≥ 5, MAJOR ≥ 9]",
        "",
        "Longest wait",
        "write",
        "CA, PVA",
    ]
    assert row(text, "Edge:Wait") == wait
    assert row(text, "Edge:State")[4] == "Idle, Fault [MAJOR]"
    assert row(text, "Edge:Message")[1] == "long string, up to 512"
    assert row(text, "Edge:Reset")[6] == "action"
    assert row(text, "Edge:Phase")[7] == "PVA"
