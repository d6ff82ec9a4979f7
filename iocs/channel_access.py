"""Records on Channel Access, served by caproto: names, record fields, the server."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from caproto import AccessRights, AlarmStatus, ChannelData, ChannelDouble, ChannelEnum, ChannelInteger, ChannelString
from caproto.asyncio.server import Context

from iocs.channels import CHANGED, Served, channel, record_type, status_of
from iocs.record import Reading, Record
from pvdb.model import NUMBERS, Kind

_BACKLOG = 100
_SEVERITIES = ("NO_ALARM", "MINOR", "MAJOR", "INVALID")


class Database(dict[str, ChannelData]):
    """Channels by name; a record's fields (`NAME.DESC` and so on) come into being when somebody asks for them."""

    def __init__(self, records: dict[str, Record]) -> None:
        super().__init__({name: channel(r) for name, r in records.items() if r.pv.on_channel_access})
        for served in list(self.values()):
            served.record.listeners.append(_Forward(served))

    def __missing__(self, name: str) -> ChannelData:
        base, _, field = name.partition(".")
        if not field or "." in field or not dict.__contains__(self, base):
            raise KeyError(name)
        served = self[base]
        self[name] = made = served if field == "VAL" else _field(served, field)
        return made


class _Forward:
    """Carries a record's readings to its channel, in order, as tasks of the loop."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, reading: Reading) -> None:
        task = asyncio.get_running_loop().create_task(self._served.show(reading))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Field(ChannelData):  # type: ignore[misc]
    """Mixin for a field: nobody writes it, its value follows the record."""

    def check_access(self, hostname: str, username: str) -> AccessRights:
        return AccessRights.READ


class _FieldDouble(_Field, ChannelDouble): ...  # type: ignore[misc]


class _FieldInteger(_Field, ChannelInteger): ...  # type: ignore[misc]


class _FieldString(_Field, ChannelString): ...  # type: ignore[misc]


class _FieldEnum(_Field, ChannelEnum): ...  # type: ignore[misc]


def _field(served: Served, field: str) -> ChannelData:
    """One field of a record; KeyError when records of its type have no such field."""
    record = served.record
    if field in ("SEVR", "STAT"):
        return _alarm_field(served, field)
    texts = {"DESC": record.pv.description, "EGU": record.pv.unit, "NAME": record.name, "RTYP": record_type(record)}
    if field in texts:
        return _FieldString(value=texts[field])
    if field == "PREC" and record.pv.kind in (Kind.FLOAT, Kind.WAVEFORM):
        return _FieldInteger(value=record.pv.precision)
    severity = {"HHSV": "MAJOR", "LLSV": "MAJOR", "HSV": "MINOR", "LSV": "MINOR"}.get(field)
    if severity and record.pv.kind in (Kind.FLOAT, Kind.INTEGER):
        limit = {"HHSV": "hihi", "LLSV": "lolo", "HSV": "high", "LSV": "low"}[field]
        on = getattr(record.pv.alarms, limit) is not None
        return _FieldEnum(value=severity if on else "NO_ALARM", enum_strings=_SEVERITIES)
    if record.pv.kind not in NUMBERS:
        raise KeyError(field)
    return _FieldDouble(value=float(getattr(served, _NUMBER_FIELDS[field])), precision=record.pv.precision)


_NUMBER_FIELDS = {
    "HOPR": "upper_disp_limit",
    "LOPR": "lower_disp_limit",
    "DRVH": "upper_ctrl_limit",
    "DRVL": "lower_ctrl_limit",
    "HIHI": "upper_alarm_limit",
    "HIGH": "upper_warning_limit",
    "LOW": "lower_warning_limit",
    "LOLO": "lower_alarm_limit",
}


def _alarm_field(served: Served, field: str) -> ChannelData:
    """`.SEVR` or `.STAT`, following the record (caproto's own never do)."""
    choices = _SEVERITIES if field == "SEVR" else tuple(s.name for s in AlarmStatus)[:16]

    def text(reading: Reading) -> str:
        if field == "SEVR":
            return _SEVERITIES[reading.severity]
        return str(status_of(served.record, reading).name)

    made = (
        _FieldEnum(value=text(served.record.reading), enum_strings=choices)
        if field == "SEVR"
        else _FieldString(value=text(served.record.reading))
    )

    async def follow(reading: Reading) -> None:
        if made.value != text(reading):
            await made.write(text(reading), flags=CHANGED, verify_value=False)

    def listener(reading: Reading) -> None:
        task = asyncio.get_running_loop().create_task(follow(reading))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    tasks: set[asyncio.Task[None]] = set()
    served.record.listeners.append(listener)
    return made


class Server(Context):  # type: ignore[misc]
    """caproto's server, with TCP_NODELAY: without it a put with completion waits 20 ms for a delayed ACK."""

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; `ready` is called once the ports are bound, OSError raised when they cannot be."""

        async def bound(_: Any) -> None:
            ready()

        await self.run(startup_hook=bound)

    async def _bind_tcp_sockets_with_consistent_port_number(self, make_socket: Any) -> Any:
        """Find a port as caproto does, but with sockets that listen at once (`make_socket`'s do so later).

        Two servers that start together may both bind a port, though only one can listen on it; the other would answer
        searches with a port where somebody else is.
        """

        async def listening(interface: str, port: int) -> socket.socket:
            made = socket.create_server((interface, port), backlog=_BACKLOG)
            made.setblocking(False)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it on Linux
            return made

        return await super()._bind_tcp_sockets_with_consistent_port_number(listening)
