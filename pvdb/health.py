"""PVs that every IOC has about itself."""

from functools import cache

from pvdb.declare import Area, gather
from pvdb.model import Kind, Pv

HEARTBEAT = "Heartbeat"
UPTIME = "Uptime"
VERSION = "Version"
HOST = "Host"
PROCESS_ID = "ProcessId"


@cache
def pvs(area: str) -> tuple[Pv, ...]:
    """The health PVs of the IOC whose area is `area`: `Det`, `Workflow` or `Edge`."""
    ioc = Area(f"{area}:Ioc:")
    ioc.integer(HEARTBEAT, "Counts once a second while alive", unit="s")
    ioc.number(UPTIME, "Time since start", unit="s", precision=0)
    ioc.text(VERSION, "Version of phaseline", kind=Kind.STRING)
    ioc.text(HOST, "Host the IOC runs on", kind=Kind.STRING)
    ioc.integer(PROCESS_ID, "Process id on that host")
    return gather(ioc)


def named(area: str) -> dict[str, Pv]:
    """The health PVs of one IOC by their last name."""
    return {pv.name.rpartition(":")[2]: pv for pv in pvs(area)}
