"""What a client puts, turned into the value of a declaration or refused with the reason."""

import math
from typing import Any

from phasing.errors import PhaselineError
from pvdb.model import LARGEST_INTEGER, MAX_STRING_CHARACTERS, Kind, Pv

_LONG = range(-LARGEST_INTEGER - 1, LARGEST_INTEGER + 1)
"""What Channel Access and the pvAccess type of an INTEGER can carry."""


class Refused(PhaselineError):
    """A put that is not done; the text is the reason that the person who put reads."""


class Truncated(bytes):
    """Text that its protocol has cut on the way."""


def max_bytes(pv: Pv) -> int:
    """How much text a PV holds, in bytes of UTF-8: Channel Access counts bytes, and needs one for the end."""
    return MAX_STRING_CHARACTERS if pv.kind is Kind.STRING else pv.max_length - 1


def cut(text: str, limit: int) -> str:
    """The beginning of a text that fits into `limit` bytes of UTF-8."""
    return text if len(text) * 4 <= limit else text.encode()[:limit].decode(errors="ignore")


def coerce(pv: Pv, raw: Any) -> Any:
    """The Python value of a put for a declaration; Refused with the reason when it does not fit."""
    if isinstance(raw, list):
        if len(raw) != 1:
            raise Refused(f"takes one value, not {len(raw)}")
        raw = raw[0]
    if pv.kind is Kind.STATE:
        return _state(pv, raw)
    if pv.kind in (Kind.FLOAT, Kind.INTEGER):
        return _number(pv, raw)
    return _text(pv, raw)


def _state(pv: Pv, raw: Any) -> int:
    if isinstance(raw, bytes):
        raw = raw.decode(errors="replace")
    if isinstance(raw, str) and raw in pv.states:
        return pv.states.index(raw)
    try:
        index = float(raw)
    except (TypeError, ValueError):
        index = -1.0
    if not (index.is_integer() and 0 <= index < len(pv.states)):
        raise Refused(f"{raw!r} is none of {', '.join(pv.states)}")
    return int(index)


def _number(pv: Pv, raw: Any) -> float | int:
    if isinstance(raw, bytes):
        raw = raw.decode(errors="replace")
    try:
        value = float(raw)
    except (TypeError, ValueError):
        raise Refused(f"{raw!r} is not a number") from None
    if not math.isfinite(value):
        raise Refused(f"{value} is not a finite number")
    if pv.limits is not None and not pv.limits.low <= value <= pv.limits.high:
        unit = "" if pv.unit == "1" else f" {pv.unit}"
        raise Refused(f"{value:g} is outside {pv.limits.low:g} to {pv.limits.high:g}{unit}")
    if pv.kind is Kind.FLOAT:
        return value
    if not value.is_integer():
        raise Refused(f"{value:g} is not a whole number")
    if int(value) not in _LONG:
        raise Refused(f"{value:g} does not fit into 32 bits")
    return int(value)


def _text(pv: Pv, raw: Any) -> str:
    if isinstance(raw, str):
        raw = raw.encode()
    if not isinstance(raw, bytes):
        raise Refused(f"{raw!r} is not text")
    if isinstance(raw, Truncated):  # half a path is a wrong path
        longer = "" if pv.kind is Kind.STRING else "; on Channel Access put longer text to .VAL$"
        raise Refused(f"over {MAX_STRING_CHARACTERS} characters{longer}")
    octets = raw.split(b"\0", 1)[0]
    if len(octets) > max_bytes(pv):
        raise Refused(f"{len(octets)} characters, {max_bytes(pv)} at most")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise Refused(f"{octets!r} is not UTF-8") from None
