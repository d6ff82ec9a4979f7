"""Setpoints of the workflow IOC that outlive it: what an operator has switched stays switched."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from iocs.record import Refused
from iocs.server import IocServer
from phasing.errors import PhaselineError
from phasing.files import replaced_file
from pvdb import Pv, state_name


class KeptError(PhaselineError):
    """A file of kept setpoints that cannot be read."""


class KeptSwitches:
    """State setpoints whose values lie in a file, by the names of PV and state."""

    def __init__(self, ioc: IocServer, path: Path, *pvs: Pv) -> None:
        """Show the values kept, before anybody listens to them, and keep each value that is put.

        Raises KeptError for a file that is not what was written: which model goes live is not left to a guess.
        """
        self._ioc, self._path, self._pvs = ioc, path, pvs
        for pv, value in self._read().items():
            ioc.post(pv, value)
        for pv in pvs:
            ioc.on_set(pv, self._keeping(pv))

    def _read(self) -> dict[Pv, int]:
        try:
            kept = json.loads(self._path.read_text())
            return {pv: pv.states.index(kept[pv.name]) for pv in self._pvs if pv.name in kept}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise KeptError(f"{self._path} cannot be read; delete it to start with the defaults: {error}") from error

    def _keeping(self, pv: Pv) -> Callable[[int], Coroutine[Any, Any, None]]:
        async def keep(value: int) -> None:
            names = {each.name: state_name(each, self._ioc.value(each)) for each in self._pvs}
            try:
                with replaced_file(self._path) as part:
                    part.write_text(json.dumps(names | {pv.name: state_name(pv, value)}))
            except OSError as error:
                raise Refused(f"it cannot be kept over a restart: {error}") from error

        return keep
