"""Scans that are never trained on: taken out of all rounds to come by their ids, and kept so over restarts."""

import json
from collections.abc import Callable
from pathlib import Path

from iocs.record import Refused
from iocs.server import IocServer
from iocs.workflow_runs import Runs
from phasing.errors import PhaselineError
from phasing.files import replaced_file
from pvdb import workflow as pvs


class ExcludedError(PhaselineError):
    """The list of excluded scans cannot be read."""


class Excluded:
    """The setpoints Scan:Exclude and Scan:Include, and the list that they change."""

    def __init__(self, ioc: IocServer, path: Path, runs: Runs) -> None:
        """Show the list, and register the handlers.

        Raises ExcludedError for a list that cannot be read: what is trained on is not left to a guess.
        """
        self._ioc, self._path, self._runs = ioc, path, runs
        self._scans = self._read()
        self._changed: Callable[[], None] = lambda: None
        ioc.post(pvs.EXCLUDED, "; ".join(self._scans))
        ioc.on_set(pvs.EXCLUDE, self._exclude)
        ioc.on_set(pvs.INCLUDE, self._include)

    def __contains__(self, scan_id: str) -> bool:
        return scan_id in self._scans

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back when another scan may be trained on."""
        self._changed = callback

    async def _exclude(self, scan_id: str) -> None:
        if not scan_id:
            return
        if not self._runs.of_scan(scan_id):
            raise Refused(f"no scan {scan_id} was ever accepted: give its id, as Scan:Id shows it")
        self._keep([*(one for one in self._scans if one != scan_id), scan_id])
        at_work = [row.run_id for row in self._runs.open("round")]
        still = f"; {', '.join(at_work)} may learn from it yet: put Train:Abort to stop that" if at_work else ""
        self._ioc.tell(pvs.SCAN_MESSAGE, f"scan {scan_id} is not trained on any more{still}")

    async def _include(self, scan_id: str) -> None:
        if not scan_id:
            return
        if scan_id not in self._scans:
            raise Refused(f"scan {scan_id} is not excluded")
        self._keep([one for one in self._scans if one != scan_id])
        self._ioc.tell(pvs.SCAN_MESSAGE, f"scan {scan_id} may be trained on again")
        self._changed()

    def _keep(self, scans: list[str]) -> None:
        try:
            with replaced_file(self._path) as part:
                part.write_text(json.dumps(scans))
        except OSError as error:
            raise Refused(f"it cannot be kept over a restart: {error}") from error
        self._scans = scans
        self._ioc.post(pvs.EXCLUDED, "; ".join(scans))

    def _read(self) -> list[str]:
        try:
            found = json.loads(self._path.read_text())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise ExcludedError(f"{self._path} cannot be read: {error}") from error
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise ExcludedError(f"{self._path} holds no list of scans")
        return found
