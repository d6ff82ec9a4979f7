"""The disk below the root: shown, and no new work begun while too little of it is free."""

import shutil
from pathlib import Path

from hpc_bridge.runner import FlowRunner
from iocs.server import IocServer
from pvdb import Severity
from pvdb import workflow as pvs

PERIOD_S = 5.0


class Disk:
    """Watches the free space. Below the lowest alarm limit it holds new work, and lets it go on above the next."""

    def __init__(self, ioc: IocServer, runner: FlowRunner, marker: Path) -> None:
        """Nothing is watched yet. `marker` is a file that says, also after a restart, that the hold is this one's."""
        self._ioc, self._runner, self._marker = ioc, runner, marker

    def look(self, root: Path) -> None:
        """Show how much is free below a root, and hold or let go."""
        free_gb = shutil.disk_usage(root if root.exists() else root.parent).free / 1e9
        self._ioc.post(pvs.DISK_FREE, free_gb)
        lowest, low = pvs.DISK_FREE.alarms.lolo, pvs.DISK_FREE.alarms.low
        assert lowest is not None
        assert low is not None
        if free_gb <= lowest and not self._runner.held:
            self._hold(True)
            text = f"held: {free_gb:.1f} GB are free below {root}, and {lowest:g} GB are too little for new work"
            self._ioc.tell(pvs.FLOW_MESSAGE, text, Severity.MAJOR)
        elif self._marker.exists() and free_gb > low:
            self._hold(False)
            self._ioc.tell(pvs.FLOW_MESSAGE, f"{free_gb:.1f} GB are free again: new work goes on")

    def _hold(self, on: bool) -> None:
        if on:
            self._marker.touch()
        self._runner.hold(on)
        if not on:
            self._marker.unlink()
        self._ioc.post(pvs.HOLD, int(on))
