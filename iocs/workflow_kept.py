"""Setpoints of the workflow IOC that outlive it: what an operator has switched stays switched."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from iocs.record import Refused
from iocs.server import IocServer
from phasing.errors import PhaselineError
from phasing.files import replaced_file
from pvdb import Kind, Pv, state_name


class KeptError(PhaselineError):
    """A file of kept setpoints that cannot be read."""


class KeptSetpoints:
    """Setpoints whose values lie in a file, by the names of the PVs; those of states by the names of the states.

    States, whole numbers and texts can be kept.
    """

    def __init__(self, ioc: IocServer, path: Path, *pvs: Pv) -> None:
        """Show the values kept, before anybody listens to them, and keep each value that is put.

        Raises KeptError for a file that is not what was written: which model goes live is not left to a guess.
        """
        self._ioc, self._path, self._pvs = ioc, path, pvs
        for pv, value in self._read().items():
            ioc.post(pv, value)
        for pv in pvs:
            ioc.on_set(pv, self._keeping(pv))

    def _read(self) -> dict[Pv, Any]:
        try:
            kept = json.loads(self._path.read_text())
            return {pv: _value(pv, kept[pv.name]) for pv in self._pvs if pv.name in kept}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise KeptError(f"{self._path} cannot be read; delete it to start with the defaults: {error}") from error

    def _keeping(self, pv: Pv) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """The handler of a setpoint that needs no other: it keeps what is put."""

        async def keep(value: Any) -> None:
            self.keep(pv, value)

        return keep

    def keep(self, pv: Pv, value: Any) -> None:
        """Keep a value that a setpoint is about to take. Raises Refused when the disk does not take it."""
        kept = {each.name: _written(each, self._ioc.value(each)) for each in self._pvs}
        try:
            with replaced_file(self._path) as part:
                part.write_text(json.dumps(kept | {pv.name: _written(pv, value)}))
        except OSError as error:
            raise Refused(f"it cannot be kept over a restart: {error}") from error


def _value(pv: Pv, kept: Any) -> Any:
    """What a setpoint shows for what the file has. Raises ValueError or TypeError when it cannot be that PV's."""
    if pv.kind is Kind.STATE:
        return pv.states.index(kept)
    if type(kept) is not (int if pv.kind is Kind.INTEGER else str):
        raise TypeError(f"{pv.name} cannot be {kept!r}")
    return kept


def _written(pv: Pv, value: Any) -> Any:
    return state_name(pv, value) if pv.kind is Kind.STATE else value
