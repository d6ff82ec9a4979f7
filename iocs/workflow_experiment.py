"""Who measures what, and where that is kept: proposal, sample and root, switched without a restart."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_bridge.site import Site
from iocs.bridge import Bridge
from iocs.config import Config
from iocs.record import Refused
from iocs.server import IocServer
from iocs.workflow_kept import KeptSetpoints
from iocs.workflow_runs import Runs
from phasing.card import lineage_key
from phasing.errors import GeometryError, PhaselineError
from phasing.files import replaced_file
from phasing.geometry import Geometry
from pvdb import Pv, Severity
from pvdb import workflow as pvs

KEPT = (pvs.PROPOSAL, pvs.SAMPLE, pvs.ROOT, pvs.SHARE)


class Experiment:
    """The setpoints of `Exp:`, and what follows from them: the folders of new runs, and the lineage of their models."""

    def __init__(
        self, ioc: IocServer, config: Config, bridge: Bridge, runs: Runs, kept: KeptSetpoints, followed: Path
    ) -> None:
        """Show what was kept, or what is configured, and register the handlers; `followed`: a file of the geometry.

        Raises SiteError when the root that was kept is not among the configured ones any more.
        """
        self._ioc, self._config, self._bridge, self._runs, self._kept = ioc, config, bridge, runs, kept
        self._followed = followed
        self.geometry, self._since_s = self._last_followed()
        """The geometry that models are trained for: that of the newest scan."""
        self._changed: list[Callable[[], None]] = []
        ioc.listen(pvs.SHARE, self._tell_change)
        configured = {
            pvs.PROPOSAL: config.experiment.proposal,
            pvs.SAMPLE: config.experiment.sample,
            pvs.ROOT: str(config.root.resolve()),
        }
        for pv, value in configured.items():
            if not ioc.value(pv):
                ioc.post(pv, value)
            ioc.on_set(pv, self._setting(pv))
            ioc.listen(pv, self._tell_change)
        self._bridge.site_at(Path(ioc.value(pvs.ROOT)))
        ioc.post(pvs.LINEAGE, self.lineage)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back when folders and lineage are others than before."""
        self._changed.append(callback)

    @property
    def site(self) -> Site:
        """Where new runs put what they compute."""
        place = f"{_folder_name(self._ioc.value(pvs.PROPOSAL))}/{_folder_name(self._ioc.value(pvs.SAMPLE))}"
        return self._bridge.site_at(Path(self._ioc.value(pvs.ROOT))).within(place)

    @property
    def lineage(self) -> str:
        """The lineage of the models that are trained now."""
        return self.lineage_of(self.geometry)

    def lineage_of(self, geometry: Geometry) -> str:
        """The lineage of models that scans of this experiment with that geometry belong to."""
        experiment = f"{self._ioc.value(pvs.PROPOSAL)} {self._ioc.value(pvs.SAMPLE)}"
        return lineage_key(experiment, geometry, self._config.experiment.optics)

    def set_up_of(self, geometry: Geometry) -> str:
        """The lineage without proposal and sample: what may train one network, whosever it is."""
        return lineage_key("", geometry, self._config.experiment.optics)

    def follow(self, geometry: Geometry, time_s: float) -> bool:
        """Go on with the lineage of a scan that ended at that Unix time; False for a scan older than the last such."""
        if time_s < self._since_s:
            return False
        with replaced_file(self._followed) as part:
            configured = self._config.geometry.geometry().to_json()
            part.write_text(json.dumps({"geometry": geometry.to_json(), "time_s": time_s, "configured": configured}))
        self.geometry, self._since_s = geometry, time_s
        self._tell_change(None)
        return True

    def _last_followed(self) -> tuple[Geometry, float]:
        """The geometry that was followed last; the configured one at first, and when it was changed since."""
        configured = self._config.geometry.geometry()
        try:
            kept = json.loads(self._followed.read_text())
            if kept["configured"] != json.loads(json.dumps(configured.to_json())):
                return configured, -math.inf
            return Geometry.from_json(kept["geometry"]), float(kept["time_s"])
        except FileNotFoundError:
            return configured, -math.inf
        except (OSError, ValueError, LookupError, TypeError, GeometryError) as error:
            self._ioc.tell(pvs.EXP_MESSAGE, f"{self._followed} cannot be read: {error}", Severity.MINOR)
            return configured, -math.inf

    def _setting(self, pv: Pv) -> Callable[[Any], Any]:
        async def accept(value: str) -> str:
            if self._runs.open("run") or self._runs.open("round"):
                raise Refused("runs are active: wait for them or cancel them")
            return self._checked(pv, value)

        return accept

    def _checked(self, pv: Pv, value: str) -> str:
        """The value as it will be shown, kept for the next start."""
        if pv is pvs.ROOT:
            try:
                root = self._bridge.site_at(Path(value)).root
                root.mkdir(parents=True, exist_ok=True)
            except PhaselineError as error:
                raise Refused(str(error)) from error
            except OSError as error:
                raise Refused(f"{value} cannot be made: {error.strerror}") from error
            value = str(root)
        elif not _folder_name(value):
            raise Refused(f"{value!r} has no letter or digit that a folder could be named by")
        self._kept.keep(pv, value)
        return value

    def _tell_change(self, _: Any) -> None:
        self._ioc.post(pvs.LINEAGE, self.lineage)
        for callback in self._changed:
            callback()


def _folder_name(text: str) -> str:
    """A folder's name that people recognise; the lineage tells apart what this does not."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.")
