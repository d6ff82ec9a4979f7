"""Records on pvAccess, served by p4p: normative types, puts, remote procedures."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from iocs import alarms
from iocs.record import ActionFailed, Reading, Record, Refused, settled
from phasing.errors import MissingExtra
from pvdb.model import Kind, Role

Procedure = Callable[[dict[str, str]], Awaitable[dict[str, Any]]]
"""A remote procedure: arguments by name in, a dict of `card` (JSON text) and `data` (bytes) out."""
_RECORD_STATUS = 3
"""pvData's alarm status for an alarm that the record raised."""


def available() -> bool:
    """Whether p4p is installed; it has no wheels for the edge device's processor."""
    try:
        import p4p  # noqa: F401
    except ImportError:
        return False
    return True


class PvAccess:
    """A pvAccess server that mirrors records."""

    def __init__(self, records: dict[str, Record], procedures: dict[str, Procedure]) -> None:
        """Prepare a channel for every record and procedure; nothing is served before `start`."""
        try:
            from p4p.server import StaticProvider
            from p4p.server.asyncio import SharedPV
        except ImportError as error:
            raise MissingExtra("p4p", "pva") from error
        self._provider = StaticProvider("phaseline")
        self._shared: list[Any] = []
        self._server: Any = None
        for name, record in records.items():
            if record.pv.kind is not Kind.RPC and record.pv.kind is not Kind.IMAGE:
                mirror = _Mirror(record)
                self._add(name, SharedPV(handler=mirror, initial=mirror.value(record.reading, whole=True)))
                mirror.follow(self._shared[-1])
        for name, procedure in procedures.items():
            self._add(name, SharedPV(handler=_Remote(procedure), initial=_empty_reply()))

    def _add(self, name: str, shared: Any) -> None:
        self._shared.append(shared)
        self._provider.add(name, shared)

    def start(self) -> None:
        """Begin to serve, as the EPICS environment says."""
        from p4p.server import Server

        self._server = Server(providers=[self._provider])

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()


def _reply_type() -> Any:
    from p4p import Type

    return Type([("card", "s"), ("data", "aB")])


def _empty_reply() -> Any:
    from p4p import Value

    return Value(_reply_type(), {"card": ""})


class _Remote:
    """Handler of a remote procedure's channel."""

    def __init__(self, procedure: Procedure) -> None:
        self._procedure = procedure

    async def rpc(self, pv: Any, op: Any) -> None:
        """Answer one call; the caller always gets an answer, if only an error."""
        from p4p import Value

        request = op.value()
        query = request.query if "query" in request else request
        if not isinstance(query, Value):
            op.done(error="arguments are fields of a structure, by their names")
            return
        try:
            arguments = {key: str(value) for key, value in query.items()}
            reply = await settled(self._procedure(arguments), otherwise=ActionFailed)
        except (Refused, ActionFailed) as error:
            op.done(error=str(error))
            return
        import numpy as np

        op.done(Value(_reply_type(), {"card": reply["card"], "data": np.frombuffer(reply["data"], dtype=np.uint8)}))


class _Mirror:
    """Handler of one record's channel: renders readings as normative types, takes puts to the record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._nt = _normative_type(record)

    def follow(self, shared: Any) -> None:
        """Post every reading of the record from now on."""
        self._record.listeners.append(lambda reading: shared.post(self.value(reading)))

    async def put(self, pv: Any, op: Any) -> None:
        """A client's put; it always gets an answer, for a client without one waits until it times out."""
        try:
            raw = op.value()
            field = "value.index" if self._record.pv.kind is Kind.STATE else "value"
            if not raw.changed(field):
                raise Refused("only the value can be written")
            await self._record.put(raw[field], f"{op.account() or 'anonymous'}@{op.peer()} (PVA)")
        except (Refused, ActionFailed) as error:
            op.done(error=str(error))
        except asyncio.CancelledError:
            op.done(error="the IOC is stopping")
            raise
        else:
            op.done()

    def value(self, reading: Reading, *, whole: bool = False) -> Any:
        """A p4p Value of a reading; `whole` includes what never changes: units, limits, choices."""
        from p4p import Value

        pv = self._record.pv
        value: Any = reading.value
        if pv.kind is Kind.STATE:
            value = {"index": value}
        elif pv.kind is Kind.TABLE:
            value = {name: [row[i] for row in reading.value] for i, name in enumerate(pv.columns)}
        seconds, nanoseconds = reading.stamp
        reason = alarms.reason(pv, reading.value, reading.severity)
        fields = {
            "value": value,
            "alarm": {
                "severity": int(reading.severity),
                "status": _RECORD_STATUS if reason else 0,
                "message": reading.message or reason,
            },
            "timeStamp": {"secondsPastEpoch": seconds, "nanoseconds": nanoseconds},
        }
        made = Value(self._nt.type, fields)
        if whole:
            _describe(made, self._record)
        return made


def _normative_type(record: Record) -> Any:
    from p4p.nt import NTEnum, NTScalar, NTTable

    pv = record.pv
    if pv.kind is Kind.STATE:
        return NTEnum(display=True)
    if pv.kind is Kind.TABLE:
        return NTTable([(name, code.removeprefix("a")) for name, code in pv.columns.items()])
    if pv.kind in (Kind.FLOAT, Kind.INTEGER):
        return NTScalar("d" if pv.kind is Kind.FLOAT else "i", display=True, control=True, valueAlarm=True, form=True)
    if pv.kind is Kind.WAVEFORM:
        return NTScalar("ad", display=True, form=True)
    return NTScalar("s", display=True)


def _describe(made: Any, record: Record) -> None:
    """Fill in description, units, limits and choices."""
    pv = record.pv
    if pv.kind is Kind.TABLE:
        made["labels"] = list(pv.columns)
        made["descriptor"] = pv.description
        return
    made["display.description"] = pv.description
    if pv.kind is Kind.STATE:
        made["value.choices"] = list(pv.states)
    elif pv.kind in (Kind.FLOAT, Kind.INTEGER, Kind.WAVEFORM):
        made["display.units"], made["display.precision"] = pv.unit, pv.precision
        if pv.limits is not None:
            made["display.limitLow"], made["display.limitHigh"] = pv.limits.low, pv.limits.high
            if pv.role is Role.SETPOINT:
                made["control.limitLow"], made["control.limitHigh"] = pv.limits.low, pv.limits.high
        if pv.kind is not Kind.WAVEFORM:
            _describe_alarms(made, record)


def _describe_alarms(made: Any, record: Record) -> None:
    a = record.pv.alarms
    made["valueAlarm.active"] = any(limit is not None for limit in (a.lolo, a.low, a.high, a.hihi))
    for field, limit, severity in (
        ("lowAlarm", a.lolo, 2),
        ("lowWarning", a.low, 1),
        ("highWarning", a.high, 1),
        ("highAlarm", a.hihi, 2),
    ):
        if limit is not None:
            made[f"valueAlarm.{field}Limit"] = limit
            made[f"valueAlarm.{field}Severity"] = severity
