"""How a screen names a PV: protocol, macros, and the form in which Channel Access carries long strings."""

from pvdb import detector
from pvdb.model import Kind, Pv

MACROS = {
    detector.CAM_PREFIX: "CAM",
    detector.FILE_PREFIX: "HDF",
}
"""Macros that put areaDetector's own prefix in the place of ours; each has ours below `$(P)` as its default."""


def name(pv: Pv) -> str:
    """The PV's name below the macro `P`, or below the macro of its areaDetector plugin."""
    for prefix, macro in MACROS.items():
        if pv.name.startswith(prefix):
            return f"$({macro}=$(P){prefix}){pv.name.removeprefix(prefix)}"
    return f"$(P){pv.name}"


def address(pv: Pv) -> str:
    """What a widget connects to.

    Channel Access wherever it carries the PV, for every IOC has it; streams and tables are on pvAccess only.
    """
    if not pv.on_channel_access:
        return f"pva://{name(pv)}"
    return f"ca://{name(pv)}.VAL$" if pv.kind is Kind.LONG_STRING else f"ca://{name(pv)}"


def percent(part: Pv, whole: Pv) -> str:
    """A formula of the Display Builder: `part` in percent of `whole`."""
    return f"=100*'{address(part)}'/'{address(whole)}'"
