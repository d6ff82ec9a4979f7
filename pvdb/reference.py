"""The reference of all PVs as a Markdown page: `python -m pvdb docs/pvs.md`."""

from collections.abc import Iterable, Mapping
from itertools import groupby

from pvdb.model import NUMBERS, TEXT, Kind, Pv, Role

_HEADER = """# PVs

Made from the declarations in `pvdb` by `python -m pvdb docs/pvs.md`; do not edit.

Names stand below the installation's prefix, `PTY:` by default; areaDetector's plugin prefixes `Det:cam1:`, `Det:HDF1:`
and `Det:Pva1:` are configuration. A name followed by `_RBV` is two PVs: the one to write, and its read-back.

- **Access.** *read*: writes are refused on both protocols. *write*: the put completes when the value is accepted.
  *action*: 1 starts it and the put completes when it is done; 0 stops it at once; `_RBV` is 1 while it runs.
- **Protocols.** CA is Channel Access, PVA is pvAccess. A long string is read and written as `NAME.VAL$` on Channel
  Access and as a plain string on pvAccess; *characters* is areaDetector's waveform of characters.
- **Alarms.** In brackets: a state's severity where it has one, a number's limits from which it is in MINOR and MAJOR.
"""
_COLUMNS = ("Name", "Type", "Unit", "Limits", "States, columns", "Description", "Access", "Protocols")
_ACCESS = {Role.READBACK: "read", Role.SETPOINT: "write", Role.ACTION: "action"}


def page(iocs: Mapping[str, Iterable[Pv]]) -> str:
    """The whole page: a section for each IOC, a table for each of its areas."""
    parts = [_HEADER]
    for ioc, pvs in iocs.items():
        parts.append(f"\n## {ioc}\n")
        for area, members in groupby(pvs, key=lambda pv: pv.name.rpartition(":")[0]):
            parts.append(f"\n### {area}:\n\n{_table(tuple(members))}")
    return "".join(parts)


def _table(pvs: tuple[Pv, ...]) -> str:
    twins = {pv.readback.name for pv in pvs if pv.role is not Role.READBACK}
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *(_row(pv) for pv in pvs if pv.name not in twins)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(pv: Pv) -> tuple[str, ...]:
    name = f"`{pv.name}`" if pv.role is Role.READBACK else f"`{pv.name}` `_RBV`"
    protocols = "CA, PVA" if pv.on_channel_access else "PVA"
    return (name, _type(pv), pv.unit, _limits(pv), _states(pv), pv.description, _ACCESS[pv.role], protocols)


def _type(pv: Pv) -> str:
    if pv.kind in TEXT - {Kind.STRING} or pv.kind is Kind.WAVEFORM:
        return f"{pv.kind.value}, up to {pv.max_length}"
    return str(pv.kind.value)


def _limits(pv: Pv) -> str:
    if pv.kind not in NUMBERS:
        return ""
    allowed = f"{pv.limits.low:.10g} to {pv.limits.high:.10g}" if pv.limits else ""
    alarms = {"MAJOR ≤": pv.alarms.lolo, "MINOR ≤": pv.alarms.low, "MINOR ≥": pv.alarms.high, "MAJOR ≥": pv.alarms.hihi}
    told = ", ".join(f"{text} {value:g}" for text, value in alarms.items() if value is not None)
    return f"{allowed} [{told}]".strip() if told else allowed


def _states(pv: Pv) -> str:
    if pv.columns:
        return ", ".join(pv.columns)
    return ", ".join(f"{state} [{severity.name}]" if severity else state for state, severity in pv.choices.items())
