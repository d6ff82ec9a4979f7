"""Short constructors for declarations, one for each thing an area holds."""

from collections.abc import Iterable, Mapping

from pvdb.model import AlarmLimits, Kind, Limits, Pv, Role, Severity

_OK = Severity.NO_ALARM


def _role(setpoint: bool) -> Role:
    return Role.SETPOINT if setpoint else Role.READBACK


class Area:
    """Declares the PVs of one area, such as `Edge:`, in order; `pvs` holds them with their read-backs."""

    def __init__(self, name: str, *, message: str | None = None) -> None:
        """`name` ends in a colon; `message` is the name of the area's Message PV below it, where it has one."""
        self._area = name
        self._message = f"{name}{message}" if message else None
        self.pvs: list[Pv] = []

    def _add(self, pv: Pv) -> Pv:
        self.pvs.append(pv)
        if pv.role is not Role.READBACK:
            self.pvs.append(pv.readback)
        return pv

    def number(self, name: str, description: str, *, unit: str, precision: int = 3, initial: float = 0.0,
               limits: tuple[float, float] | None = None, alarms: AlarmLimits = AlarmLimits(),
               setpoint: bool = False) -> Pv:  # fmt: skip
        """A double."""
        return self._add(Pv(f"{self._area}{name}", Kind.FLOAT, _role(setpoint), description,
                            unit=unit, precision=precision, initial=initial, limits=Limits(*limits) if limits else None,
                            alarms=alarms, message=self._message))  # fmt: skip

    def integer(self, name: str, description: str, *, unit: str = "1", initial: int = 0,
                limits: tuple[int, int] | None = None, alarms: AlarmLimits = AlarmLimits(),
                setpoint: bool = False) -> Pv:  # fmt: skip
        """A 32-bit integer."""
        return self._add(Pv(f"{self._area}{name}", Kind.INTEGER, _role(setpoint), description,
                            unit=unit, initial=initial, limits=Limits(*limits) if limits else None, alarms=alarms,
                            message=self._message))  # fmt: skip

    def state(self, name: str, description: str, choices: Iterable[str] | Mapping[str, Severity], *, initial: int = 0,
              setpoint: bool = False) -> Pv:  # fmt: skip
        """One of a few named states, each with its alarm severity."""
        severities = dict(choices) if isinstance(choices, Mapping) else dict.fromkeys(choices, _OK)
        return self._add(Pv(f"{self._area}{name}", Kind.STATE, _role(setpoint), description,
                            choices=severities, initial=initial, message=self._message))  # fmt: skip

    def action(self, name: str, description: str, *, busy: str = "Busy") -> Pv:
        """An action: 1 starts it and the put completes when it is done, 0 stops it at once."""
        return self._add(Pv(f"{self._area}{name}", Kind.STATE, Role.ACTION, description, initial=0,
                            choices={"Done": _OK, busy: _OK}, message=self._message))  # fmt: skip

    def text(self, name: str, description: str, *, kind: Kind = Kind.LONG_STRING, max_length: int = 256,
             initial: str = "", setpoint: bool = False) -> Pv:  # fmt: skip
        """A string: long by default, areaDetector's char waveform or a short one where asked for."""
        return self._add(Pv(f"{self._area}{name}", kind, _role(setpoint), description,
                            initial=initial, max_length=max_length, message=self._message))  # fmt: skip

    def waveform(self, name: str, description: str, *, unit: str, max_length: int, precision: int = 3) -> Pv:
        """A curve of doubles."""
        return self._add(Pv(f"{self._area}{name}", Kind.WAVEFORM, Role.READBACK, description, unit=unit,
                            precision=precision, max_length=max_length, initial=()))  # fmt: skip

    def image(self, name: str, description: str, *, unit: str) -> Pv:
        """An NTNDArray stream."""
        return self._add(Pv(f"{self._area}{name}", Kind.IMAGE, Role.READBACK, description, unit=unit))

    def table(self, name: str, description: str, columns: Mapping[str, str]) -> Pv:
        """An NTTable; `columns` maps names to pvAccess type codes."""
        return self._add(Pv(f"{self._area}{name}", Kind.TABLE, Role.READBACK, description, columns=columns, initial=()))

    def rpc(self, name: str, description: str) -> Pv:
        """A pvAccess remote procedure."""
        return self._add(Pv(f"{self._area}{name}", Kind.RPC, Role.READBACK, description))


def gather(*areas: Area) -> tuple[Pv, ...]:
    """All PVs of the areas, refused when a name is declared twice."""
    pvs: dict[str, Pv] = {}
    for pv in (pv for area in areas for pv in area.pvs):
        if pv.name in pvs:
            raise ValueError(f"{pv.name} is declared twice")
        pvs[pv.name] = pv
    return tuple(pvs.values())
