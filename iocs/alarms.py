"""Alarm of a value: its severity by the declaration, and which of EPICS' alarm states explains it."""

import math
from typing import Any

from pvdb.model import Kind, Pv, Severity

_SEVERITY_BEYOND = {
    "": Severity.NO_ALARM,
    "LOW": Severity.MINOR,
    "HIGH": Severity.MINOR,
    "LOLO": Severity.MAJOR,
    "HIHI": Severity.MAJOR,
}


def severity(pv: Pv, value: Any) -> Severity:
    """The severity that the declaration gives to a value."""
    if pv.kind is Kind.STATE:
        return pv.choices[pv.states[int(value)]]
    if pv.kind not in (Kind.FLOAT, Kind.INTEGER):
        return Severity.NO_ALARM
    if math.isnan(value):
        return Severity.INVALID
    return _SEVERITY_BEYOND[_limit_passed(pv, value)]


def reason(pv: Pv, value: Any, shown: Severity) -> str:
    """Why a value is shown with a severity: STATE, HIHI, LOLO, HIGH, LOW, UDF, SOFT (the IOC says so), or nothing."""
    if not shown:
        return ""
    if shown != severity(pv, value):
        return "SOFT"
    if pv.kind is Kind.STATE:
        return "STATE"
    return _limit_passed(pv, value) or "UDF"


def _limit_passed(pv: Pv, value: float) -> str:
    a = pv.alarms
    if a.hihi is not None and value >= a.hihi:
        return "HIHI"
    if a.lolo is not None and value <= a.lolo:
        return "LOLO"
    if a.high is not None and value >= a.high:
        return "HIGH"
    if a.low is not None and value <= a.low:
        return "LOW"
    return ""
