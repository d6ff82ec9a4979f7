"""What a PV is: one frozen declaration, checked against what Channel Access would cut."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any

MAX_STATES = 16
MAX_STATE_CHARACTERS = 25
MAX_UNIT_CHARACTERS = 7
MAX_STRING_CHARACTERS = 39
MAX_DESCRIPTION_CHARACTERS = 40
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*:(?:[A-Za-z0-9]+:)?[A-Z][A-Za-z0-9]*(?:_RBV)?")


class PvError(ValueError):
    """A declaration that Channel Access could not carry; the text names the PV."""


class Severity(IntEnum):
    """EPICS alarm severities, numbered as both protocols number them."""

    NO_ALARM = 0
    MINOR = 1
    MAJOR = 2
    INVALID = 3


LARGEST_INTEGER = 2**31 - 1
"""What the PV of a whole number holds: Channel Access has 32 bits for it."""


class Kind(Enum):
    """What a PV holds."""

    FLOAT = "float"  # one double
    INTEGER = "integer"  # one 32-bit signed integer
    STATE = "state"  # one of a few named states
    STRING = "string"  # at most 39 characters
    LONG_STRING = "long string"  # .VAL$ on Channel Access, a plain string on pvAccess
    CHARACTERS = "characters"  # char waveform, only where areaDetector has one
    WAVEFORM = "waveform"  # doubles
    IMAGE = "image"  # NTNDArray, pvAccess only
    TABLE = "table"  # NTTable, pvAccess only
    RPC = "rpc"  # pvAccess only


PVA_ONLY = frozenset({Kind.IMAGE, Kind.TABLE, Kind.RPC})
TEXT = frozenset({Kind.STRING, Kind.LONG_STRING, Kind.CHARACTERS})
NUMBERS = frozenset({Kind.FLOAT, Kind.INTEGER, Kind.WAVEFORM})


class Role(Enum):
    """Who may write a PV, and what a write means."""

    READBACK = "read-back"  # the IOC alone
    SETPOINT = "setpoint"  # clients; refused on both protocols with the reason
    ACTION = "action"  # clients; 1 starts and completes when done, 0 stops at once


@dataclass(frozen=True)
class Limits:
    """Lowest and highest legal value of a setpoint, or the range a display shows for a read-back."""

    low: float
    high: float


@dataclass(frozen=True)
class AlarmLimits:
    """Values at and beyond which a number is in alarm; None where there is no such limit."""

    lolo: float | None = None
    low: float | None = None
    high: float | None = None
    hihi: float | None = None


@dataclass(frozen=True)
class Pv:
    """One process variable below the prefix.

    `name` is `Area:PascalName`; `unit` is at most 7 characters; `choices` maps the states of a STATE in order to their
    alarm severities; `columns` maps an NTTable's columns to pvAccess type codes; `message` names the area's Message PV,
    where refusals and failures are told.
    """

    name: str
    kind: Kind
    role: Role
    description: str
    unit: str = ""
    precision: int = 0
    initial: Any = None
    limits: Limits | None = None
    alarms: AlarmLimits = AlarmLimits()
    choices: Mapping[str, Severity] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    max_length: int = 1
    message: str | None = None

    def __post_init__(self) -> None:
        """Refuse what Channel Access would cut or what a client could not understand."""
        for reason in _faults(self):
            raise PvError(f"{self.name}: {reason}")

    def __hash__(self) -> int:
        """Declarations are told apart by their names, which are unique."""
        return hash(self.name)

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the states of a STATE, in order."""
        return tuple(self.choices)

    @property
    def on_channel_access(self) -> bool:
        """Whether Channel Access can carry this kind."""
        return self.kind not in PVA_ONLY

    @property
    def readback(self) -> "Pv":
        """The `_RBV` beside a setpoint or an action: for an action, 1 while it runs."""
        return replace(self, name=f"{self.name}_RBV", role=Role.READBACK, message=None)


def _faults(pv: Pv) -> list[str]:
    """What is wrong with a declaration, in words."""
    faults = []
    if not _NAME.fullmatch(pv.name):
        faults.append("a name is Area:PascalName")
    if not 0 < len(pv.description) <= MAX_DESCRIPTION_CHARACTERS:
        faults.append(f"a description has 1 to {MAX_DESCRIPTION_CHARACTERS} characters")
    if len(pv.unit) > MAX_UNIT_CHARACTERS:
        faults.append(f"unit {pv.unit!r} is over {MAX_UNIT_CHARACTERS} characters")
    return faults + _faults_of_kind(pv)


def _faults_of_kind(pv: Pv) -> list[str]:
    faults = []
    if (pv.kind is Kind.STATE) != bool(pv.choices):
        faults.append("states, and only states, have choices")
    if len(pv.choices) > MAX_STATES:
        faults.append(f"over {MAX_STATES} states")
    faults += [
        f"state {s!r} is over {MAX_STATE_CHARACTERS} characters" for s in pv.choices if len(s) > MAX_STATE_CHARACTERS
    ]
    if pv.kind is Kind.STRING and len(str(pv.initial or "")) > MAX_STRING_CHARACTERS:
        faults.append(f"a string has at most {MAX_STRING_CHARACTERS} characters")
    if pv.kind in NUMBERS and not pv.unit:
        faults.append("a number has a unit (1 for a plain count)")
    if pv.limits is not None and not pv.limits.low < pv.limits.high:
        faults.append("limits: low is not below high")
    return faults


def state_name(pv: Pv, index: int) -> str:
    """The name of state `index` of a STATE."""
    return pv.states[index]


def full_name(prefix: str, pv: Pv, renames: Mapping[str, str] | None = None) -> str:
    """The name clients use: prefix and name, with areaDetector's plugin suffixes replaced as configured."""
    for declared, wanted in (renames or {}).items():
        if pv.name.startswith(declared):
            return f"{prefix}{wanted}{pv.name.removeprefix(declared)}"
    return f"{prefix}{pv.name}"
