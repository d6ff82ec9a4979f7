"""Every declared PV on both protocols, seen by clients that this project did not write."""

from types import SimpleNamespace

import clients
import pytest
from loopback import tool
from served_ioc import AREAS

from pvdb import IOCS, Kind, Role
from pvdb.model import NUMBERS

ABSENT = (Kind.IMAGE, Kind.RPC)
CA_STATUS = {"": 0, "HIHI": 3, "HIGH": 4, "LOLO": 5, "LOW": 6, "STATE": 7, "SOFT": 15, "UDF": 17}


def read_by_ca(names):
    import epics
    import numpy as np

    pvs = {name: epics.PV(name, form="time", auto_monitor=False) for name in names}
    fields = {name: [epics.PV(f"{name}.{field}") for field in ("DESC", "EGU")] for name in names}
    read = {}
    for name, pv in pvs.items():
        assert all(known.wait_for_connection(clients.DEADLINE_S) for known in (pv, *fields[name])), name
        value = pv.get(as_string=pv.type == "time_char", timeout=clients.DEADLINE_S)
        read[name] = {
            "value": value.tolist() if isinstance(value, np.ndarray) else value,
            "type": pv.type.removeprefix("time_"),
            "count": pv.nelm,
            "severity": pv.severity,
            "status": pv.status,
            "stamp": [pv.posixseconds, pv.nanoseconds],
            "writable": pv.write_access,
            **dict(
                zip(("desc", "egu"), [field.get(timeout=clients.DEADLINE_S) for field in fields[name]], strict=True)
            ),
        }
        read[name] |= pv.get_ctrlvars(timeout=clients.DEADLINE_S)
    return read


def read_by_pva(names):
    import numpy as np

    with clients.pva(nt=False) as context:
        values = context.get(names, timeout=clients.DEADLINE_S)
    return {name: _plain(value.todict(), np.ndarray) for name, value in zip(names, values, strict=True)}


def _plain(value, array):
    if isinstance(value, dict):
        return {key: _plain(item, array) for key, item in value.items()}
    return value.tolist() if isinstance(value, array) else value


@pytest.fixture(scope="module", params=AREAS)
def seen(request, iocs):
    """The declarations of one IOC by full name, and what clients of both protocols see."""
    ioc = request.param
    pvs = {f"{ioc[0].upper()}:{pv.name}": pv for pv in IOCS[ioc] if pv.kind not in ABSENT}
    on_ca = [name for name, pv in pvs.items() if pv.on_channel_access]
    return SimpleNamespace(pvs=pvs, ca=iocs.call(read_by_ca, on_ca), pva=iocs.call(read_by_pva, list(pvs)))


def test_every_pv_is_as_declared_on_channel_access(seen):
    assert [fault for name, shown in seen.ca.items() for fault in ca_faults(seen.pvs[name], shown)] == []


CA_TYPES = {
    Kind.FLOAT: "double",
    Kind.INTEGER: "long",
    Kind.STATE: "enum",
    Kind.STRING: "string",
    Kind.LONG_STRING: "string",
    Kind.CHARACTERS: "char",
    Kind.WAVEFORM: "double",
}


def ca_faults(pv, seen):
    limits = (pv.limits.low, pv.limits.high) if pv.limits else (0, 0)
    control = limits if pv.role is Role.SETPOINT else (0, 0)
    wanted = {
        "type": CA_TYPES[pv.kind],
        "count": pv.max_length if pv.kind in (Kind.CHARACTERS, Kind.WAVEFORM) else 1,
        "writable": pv.role is not Role.READBACK,
        "desc": pv.description,
        "egu": pv.unit,
    }
    if pv.kind in NUMBERS:
        wanted["units"] = pv.unit
    if pv.kind in (Kind.FLOAT, Kind.WAVEFORM):
        wanted["precision"] = pv.precision
    if pv.kind in (Kind.FLOAT, Kind.INTEGER):
        a = pv.alarms
        wanted |= {"lower_disp_limit": limits[0], "upper_disp_limit": limits[1]}
        wanted |= {"lower_ctrl_limit": control[0], "upper_ctrl_limit": control[1]}
        wanted |= {"lower_alarm_limit": a.lolo or 0, "lower_warning_limit": a.low or 0}
        wanted |= {"upper_warning_limit": a.high or 0, "upper_alarm_limit": a.hihi or 0}
    if pv.kind is Kind.STATE:
        wanted["enum_strs"] = list(pv.states)
    shown = {key: list(value) if isinstance(value, tuple) else value for key, value in seen.items()}
    return [f"{pv.name} {key}: {shown.get(key)}, not {value}" for key, value in wanted.items() if shown[key] != value]


def test_every_pv_is_as_declared_on_pv_access(seen):
    assert [fault for name, shown in seen.pva.items() for fault in pva_faults(seen.pvs[name], shown)] == []


def pva_faults(pv, seen):
    if pv.kind is Kind.TABLE:
        wanted = {"labels": list(pv.columns), "descriptor": pv.description, "value": {name: [] for name in pv.columns}}
        return [f"{pv.name} {key}: {seen[key]}, not {value}" for key, value in wanted.items() if seen[key] != value]
    wanted = {"display.description": pv.description}
    if pv.kind is Kind.STATE:
        wanted["value.choices"] = list(pv.states)
    if pv.kind in NUMBERS:
        wanted |= {"display.units": pv.unit, "display.precision": pv.precision}
    if pv.limits is not None:
        wanted |= {"display.limitLow": pv.limits.low, "display.limitHigh": pv.limits.high}
    if pv.limits is not None and pv.role is Role.SETPOINT:
        wanted |= {"control.limitLow": pv.limits.low, "control.limitHigh": pv.limits.high}
    names = {"lolo": "lowAlarm", "low": "lowWarning", "high": "highWarning", "hihi": "highAlarm"}
    for limit, name in names.items():
        if getattr(pv.alarms, limit) is not None:
            wanted[f"valueAlarm.{name}Limit"] = getattr(pv.alarms, limit)
            wanted[f"valueAlarm.{name}Severity"] = 1 if limit in ("low", "high") else 2
    shown = {path: _at(seen, path) for path in wanted}
    return [f"{pv.name} {path}: {shown[path]}, not {value}" for path, value in wanted.items() if shown[path] != value]


def _at(value, path):
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


HEALTH = "Ioc:"


def test_value_alarm_and_time_agree_on_both(seen):
    names = [name for name in seen.ca if HEALTH not in name]  # those change every second
    assert {name: (seen.ca[name], seen.pva[name]) for name in names if not same(seen.ca[name], seen.pva[name])} == {}
    assert any(shown["severity"] for shown in seen.ca.values())


def same(ca, pva):
    value = pva["value"]["index"] if isinstance(pva["value"], dict) else pva["value"]
    if ca["type"] == "string":
        value = value[:39]
    stamp = [pva["timeStamp"]["secondsPastEpoch"], pva["timeStamp"]["nanoseconds"]]
    alarm = pva["alarm"]["severity"], CA_STATUS[pva["alarm"]["message"]]
    return (ca["value"], ca["severity"], ca["status"], ca["stamp"]) == (value, *alarm, stamp)


def test_command_lines_read_the_same(iocs):
    form = "{response.data} {response.metadata.upper_ctrl_limit}"
    by_ca, _ = iocs.run([tool("caproto-get"), "--no-repeater", "-d", "control", "--format", form, "W:Train:Epochs"])
    assert by_ca.strip() == "[50] 10000"
    patient = "-w", str(clients.DEADLINE_S)
    by_pva, _ = iocs.python("-m", "p4p.client.cli", *patient, "--raw", "get", "W:Train:Epochs")
    assert 'description = "Epochs of a round"' in by_pva and "value = 50" in by_pva


def read_fields(prefix):
    missing = ["Scan:File.HOPR", "Train:State.HIHI", "Train:Epochs.NOPE", "Train:Nope"]
    import epics

    absent = [epics.PV(prefix + name, connection_timeout=0.2) for name in missing]
    fields = "Train:Epochs.HOPR Train:Epochs.DRVL Train:Loss.PREC Transfer:DiskFree.LOLO Transfer:DiskFree.LLSV"
    names = [*fields.split(), "Transfer:DiskFree.HHSV", "Flow:Run.RTYP", "Train:State.RTYP", "Train:Epochs.VAL"]
    pvs = [clients.ca(prefix + name) for name in names]
    return [pv.get(as_string=pv.type == "time_enum", timeout=clients.DEADLINE_S) for pv in pvs], [
        pv.connected for pv in absent
    ]


def test_record_fields(iocs):
    values, absent = iocs.call(read_fields, "W:")
    assert values == [10_000, 1, 4, 1, "MAJOR", "NO_ALARM", "bo", "mbbi", 50]
    assert not any(absent)
