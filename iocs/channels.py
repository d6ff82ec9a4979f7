"""caproto channels whose state is a record: what they show, and puts to them."""

import logging
from typing import Any

import caproto as ca
from caproto import (
    AccessRights,
    AlarmSeverity,
    AlarmStatus,
    ChannelAlarm,
    ChannelChar,
    ChannelData,
    ChannelDouble,
    ChannelEnum,
    ChannelInteger,
    ChannelString,
    ChannelType,
    SubscriptionType,
    TimeStamp,
)
from caproto._constants import EPICS2UNIX_EPOCH  # these two have no public name in caproto 1.3
from caproto._dbr import DbrStringArray

from iocs import alarms
from iocs.coerce import Truncated, cut
from iocs.record import ActionFailed, Reading, Record, Refused
from pvdb.model import MAX_STRING_CHARACTERS, TEXT, Kind, Role

CHANGED = SubscriptionType.DBE_VALUE | SubscriptionType.DBE_LOG | SubscriptionType.DBE_ALARM
_ACKNOWLEDGEMENTS = (ChannelType.PUT_ACKS, ChannelType.PUT_ACKT)
_RECORD_TYPES = {
    Kind.FLOAT: ("ai", "ao"),
    Kind.INTEGER: ("longin", "longout"),
    Kind.STRING: ("stringin", "stringout"),
    Kind.LONG_STRING: ("lsi", "lso"),
    Kind.CHARACTERS: ("waveform", "waveform"),
    Kind.WAVEFORM: ("waveform", "waveform"),
}


class _QuietRefusals(logging.Filter):
    """Keep caproto from logging a refused put with a traceback: the record has logged it in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, Refused | ActionFailed | ca.CaprotoError)


for _name in ("caproto.circ", "caproto.circ.server"):
    logging.getLogger(_name).addFilter(_QuietRefusals())


class Served(ChannelData):  # type: ignore[misc]
    """Mixin for a caproto channel whose state is a Record: puts go to the record, posts come from it."""

    record: Record

    def check_access(self, hostname: str, username: str) -> AccessRights:
        """Read-only PVs announce that they are, so that clients refuse a put before sending it."""
        writable = self.record.pv.role is not Role.READBACK
        return AccessRights.READ | AccessRights.WRITE if writable else AccessRights.READ

    async def auth_write(
        self, hostname: str, username: str, data: Any, data_type: ChannelType, metadata: Any, **_: Any
    ) -> None:
        """A client's put. An action that fails completes normally: sscan never ends on an error, ophyd ignores it."""
        if data_type in _ACKNOWLEDGEMENTS:
            await self.write_from_dbr(data, data_type, metadata)
            return
        try:
            await self.record.put(_received(self.record, data), f"{username}@{hostname} (CA)")
        except ActionFailed:
            return

    async def show(self, reading: Reading) -> None:
        """Take over a reading and send it to the clients."""
        value = reading.value
        if self.record.pv.kind is Kind.STATE:
            value = self.record.pv.states[value]
        self._data["value"] = value
        self._data["timestamp"] = _stamp(reading)
        await self.alarm.write(
            status=status_of(self.record, reading),
            severity=AlarmSeverity(reading.severity),
            alarm_string=cut(reading.message, MAX_STRING_CHARACTERS),
            publish=False,
        )
        await self.publish(CHANGED)


def _received(record: Record, data: Any) -> Any:
    """What a client sent, in Python's types: text as bytes, else a list of numbers or of bytes.

    caproto's own conversion is not used: it fails before the record can say why, and takes an empty text for 0.
    """
    if isinstance(data, DbrStringArray):
        return [Truncated(text) if len(text) > MAX_STRING_CHARACTERS else bytes(text) for text in data]
    return data.tobytes() if record.pv.kind in TEXT and data.dtype.itemsize == 1 else data.tolist()


def _stamp(reading: Reading) -> TimeStamp:
    seconds, nanoseconds = reading.stamp
    return TimeStamp(seconds - int(EPICS2UNIX_EPOCH), nanoseconds)


def status_of(record: Record, reading: Reading) -> AlarmStatus:
    """Which EPICS alarm status explains the severity."""
    reason = alarms.reason(record.pv, reading.value, reading.severity)
    return AlarmStatus[reason] if reason else AlarmStatus.NO_ALARM


class _Double(Served, ChannelDouble): ...  # type: ignore[misc]


class _Integer(Served, ChannelInteger): ...  # type: ignore[misc]


class _Enum(Served, ChannelEnum): ...  # type: ignore[misc]


class _String(Served, ChannelString): ...  # type: ignore[misc]


class _Characters(Served, ChannelChar): ...  # type: ignore[misc]


def channel(record: Record) -> Served:
    """The caproto channel of a record."""
    pv, value = record.pv, record.reading.value
    reading = record.reading
    common = {
        "alarm": ChannelAlarm(status=status_of(record, reading), severity=AlarmSeverity(reading.severity)),
        "timestamp": _stamp(reading),
        "string_encoding": "utf-8",
        "reported_record_type": record_type(record),
    }
    if pv.kind is Kind.STATE:
        made: Served = _Enum(value=pv.states[value], enum_strings=pv.states, **common)
    elif pv.kind in (Kind.STRING, Kind.LONG_STRING):
        made = _String(value=value, max_length=1, long_string_max_length=pv.max_length, **common)
    elif pv.kind is Kind.CHARACTERS:
        made = _Characters(value=value, max_length=pv.max_length, **common)
    elif pv.kind is Kind.INTEGER:
        made = _Integer(value=value, units=pv.unit, **_limits(record), **common)
    else:
        limits = _limits(record) if pv.kind is Kind.FLOAT else {}
        made = _Double(value=value, units=pv.unit, precision=pv.precision, max_length=pv.max_length, **limits, **common)
    made.record = record
    return made


def _limits(record: Record) -> dict[str, float]:
    pv, a = record.pv, record.pv.alarms
    low, high = (pv.limits.low, pv.limits.high) if pv.limits else (0, 0)
    cast = int if pv.kind is Kind.INTEGER else float
    setpoint = pv.role is Role.SETPOINT
    numbers = {
        "lower_disp_limit": low,
        "upper_disp_limit": high,
        "lower_ctrl_limit": low if setpoint else 0,
        "upper_ctrl_limit": high if setpoint else 0,
        "lower_alarm_limit": a.lolo or 0,
        "lower_warning_limit": a.low or 0,
        "upper_warning_limit": a.high or 0,
        "upper_alarm_limit": a.hihi or 0,
    }
    return {name: cast(number) for name, number in numbers.items()}


def record_type(record: Record) -> str:
    """The EPICS record type that behaves like the PV (`.RTYP`)."""
    writable = record.pv.role is not Role.READBACK
    if record.pv.kind is Kind.STATE:
        names = ("bi", "bo") if len(record.pv.states) == 2 else ("mbbi", "mbbo")
    else:
        names = _RECORD_TYPES[record.pv.kind]
    return names[writable]
