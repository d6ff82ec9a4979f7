"""Every PV of phaseline, declared once: servers, screens, documents and tests read these declarations."""

from pvdb import detector, edge, health, workflow
from pvdb.model import LARGEST_INTEGER, AlarmLimits, Kind, Limits, Pv, PvError, Role, Severity, full_name, state_name

IOCS: dict[str, tuple[Pv, ...]] = {
    "detector": detector.PVS + health.pvs("Det"),
    "workflow": workflow.PVS + health.pvs("Workflow"),
    "edge": edge.PVS + health.pvs("Edge"),
}
"""The PVs of each IOC, by the IOC's name, read-backs included."""

__all__ = [
    "IOCS",
    "LARGEST_INTEGER",
    "AlarmLimits",
    "Kind",
    "Limits",
    "Pv",
    "PvError",
    "Role",
    "Severity",
    "detector",
    "edge",
    "full_name",
    "health",
    "state_name",
    "workflow",
]
