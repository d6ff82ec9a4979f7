"""When training has done enough: it goes to standby by itself, gives its compute back, and wakes when it is needed.

Source: Babu et al. 2023: once the model meets the user's quality metrics, the HPC resources are released.
"""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from iocs.record import Refused
from iocs.server import IocServer
from iocs.workflow_kept import KeptSetpoints
from phasing.files import replaced_file
from pvdb import Severity
from pvdb import workflow as pvs

log = logging.getLogger("phaseline.workflow")
BY_HAND = "put by hand"


@dataclass(frozen=True)
class Rest:
    """Why training is in standby, empty if it is not; how many new scans in a row were good; the trust figure then.

    by_itself: it may wake by itself. scan_id: the scan that was judged last.
    """

    reason: str = ""
    by_itself: bool = False
    good_scans: int = 0
    trust: float | None = None
    scan_id: str = ""


class Enough:
    """Train:Target and what follows from it; owns Train:Standby's reason."""

    def __init__(self, ioc: IocServer, path: Path, kept: KeptSetpoints, *, rest: Callable[[bool], None]) -> None:
        """Take up where the IOC was; `rest` gives the trainer's compute back, or takes it again."""
        self._ioc, self._path, self._kept, self._rest = ioc, path, kept, rest
        self._trust = math.nan
        self._state = self._read()
        if bool(ioc.value(pvs.STANDBY)) != bool(self._state.reason):  # put while this was not noted
            self._state = replace(self._state, reason=BY_HAND if ioc.value(pvs.STANDBY) else "", by_itself=False)
        ioc.post(pvs.NEW_SCAN_LOSS, math.nan)
        self._show()
        rest(bool(self._state.reason))
        ioc.listen(pvs.STANDBY, self._standby_put)

    def judged(self, losses: dict[str, float]) -> None:
        """The live model's losses, in rad, on scans that it had not learned from, by scan; each counts once."""
        for scan_id, loss in losses.items():
            if scan_id != self._state.scan_id:
                self._judged(scan_id, loss)

    def trusted(self, ratio: float) -> None:
        """The edge's figure of trust at the end of a scan; one that has risen wakes training."""
        self._trust = ratio
        before, factor = self._state.trust, self._ioc.value(pvs.TRUST_FACTOR)
        if not self._state.by_itself or not math.isfinite(ratio):
            return
        if before is None:
            self._keep(replace(self._state, trust=ratio))
        elif ratio > factor * before:
            self._wake(f"the live figure of trust rose from {before:.2f} to {ratio:.2f}")

    def _judged(self, scan_id: str, loss: float) -> None:
        target, wanted = self._ioc.value(pvs.TARGET), self._ioc.value(pvs.TARGET_SCANS)
        self._ioc.post(pvs.NEW_SCAN_LOSS, loss)
        met = 0.0 < loss <= target
        good = self._state.good_scans + 1 if met else 0
        self._keep(replace(self._state, good_scans=good, scan_id=scan_id))
        if self._state.by_itself and not met:
            self._wake(f"the loss on scan {scan_id} is {loss:.4f} rad, {target:g} is enough")
        elif not self._state.reason and good >= wanted:
            self._sleep(f"the loss on {good} new scans in a row is {target:g} rad or less")

    def _sleep(self, reason: str) -> None:
        trust = self._trust if math.isfinite(self._trust) else None
        self._put(replace(self._state, reason=reason, by_itself=True, trust=trust), on=True)
        self._ioc.tell(pvs.TRAIN_MESSAGE, f"standby: {reason}; compute is given back")

    def _wake(self, reason: str) -> None:
        self._put(replace(self._state, reason="", by_itself=False, good_scans=0, trust=None), on=False)
        self._ioc.tell(pvs.TRAIN_MESSAGE, f"training wakes: {reason}", Severity.MINOR)

    def _put(self, state: Rest, *, on: bool) -> None:
        """Switch Train:Standby as a put would."""
        try:
            self._kept.keep(pvs.STANDBY, int(on))
        except Refused as error:  # it holds until the next start
            self._ioc.tell(pvs.TRAIN_MESSAGE, str(error), Severity.MINOR)
        self._keep(state)
        self._rest(on)
        self._ioc.post(pvs.STANDBY, int(on))

    def _standby_put(self, on: int) -> None:
        """Somebody has put Train:Standby, or it was switched here and is noted already."""
        if bool(on) == bool(self._state.reason):
            return
        reason = BY_HAND if on else ""
        self._keep(replace(self._state, reason=reason, by_itself=False, good_scans=0, trust=None))
        self._rest(bool(on))
        text = f"standby: {BY_HAND}" if on else "a round begins by itself when new pairs are there"
        self._ioc.tell(pvs.TRAIN_MESSAGE, text)

    def _keep(self, state: Rest) -> None:
        self._state = state
        self._show()
        try:
            with replaced_file(self._path) as part:
                part.write_text(json.dumps(asdict(state)))
        except OSError as error:
            self._ioc.tell(pvs.TRAIN_MESSAGE, f"{self._path} cannot be written: {error.strerror}", Severity.MINOR)

    def _show(self) -> None:
        self._ioc.post(pvs.STANDBY_REASON, self._state.reason)
        self._ioc.post(pvs.GOOD_SCANS, self._state.good_scans)

    def _read(self) -> Rest:
        try:
            return Rest(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return Rest()
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read, and is begun anew: %s", self._path, error)
            return Rest()
