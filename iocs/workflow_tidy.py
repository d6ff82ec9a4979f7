"""Keeps what is computed within its quotas: looked at when a run has ended, and now and then."""

import asyncio
import time

from hpc_bridge.tidying import DAY_S, Rule, Tidied, tidy
from iocs.config import RetentionSection
from iocs.server import IocServer
from iocs.workflow_experiment import Experiment
from iocs.workflow_runs import Runs
from pvdb import workflow as pvs

PERIOD_S = 600.0
LOOK_S = 5.0


class Tidying:
    """Removes copies, pairs and checkpoints that their rules do not keep; never those of open runs."""

    def __init__(self, ioc: IocServer, settings: RetentionSection, experiment: Experiment, runs: Runs) -> None:
        """Nothing is removed yet."""
        self._ioc, self._experiment, self._runs = ioc, experiment, runs
        self._rules = [
            Rule("scans", *_limits(settings.copies_gb, settings.copies_days)),
            Rule("pairs", *_limits(settings.pairs_gb, settings.pairs_days)),
            Rule("rounds", *_limits(settings.checkpoints_gb, settings.checkpoints_days)),
        ]
        self._due = True
        self._last_s = 0.0

    def run_ended(self) -> None:
        """A run has ended: look soon."""
        self._due = True

    async def serve(self) -> None:
        """Work until cancelled; only where what is computed lies on a disk of this machine."""
        while self._experiment.site.shared:
            if self._due or time.monotonic() > self._last_s + PERIOD_S:
                self._due, self._last_s = False, time.monotonic()
                in_use, folder = self._in_use(), self._experiment.site.root / "compute"
                self._tell(await asyncio.to_thread(tidy, folder, self._rules, in_use=in_use))
            await asyncio.sleep(LOOK_S)

    def _in_use(self) -> set[str]:
        """Ids of runs and rounds that are open or may be retried, and of the runs whose pairs a round trains on."""
        rounds = self._runs.open("round")
        pairs = {
            path.rpartition("/")[2] for row in rounds for path in self._runs.document(row.run_id)["train"]["pairs"]
        }
        return pairs | {row.run_id for row in (*rounds, *self._runs.open("run"), *self._runs.to_retry())}

    def _tell(self, tidied: list[Tidied]) -> None:
        if tidied:
            what = ", ".join(f"{each.number} of {each.kind} ({each.freed_bytes / 1e9:.2f} GB)" for each in tidied)
            self._ioc.tell(pvs.TRANSFER_MESSAGE, f"beyond quota or age, and removed: {what}")


def _limits(quota_gb: float | None, days: float | None) -> tuple[float | None, float | None]:
    return None if quota_gb is None else quota_gb * 1e9, None if days is None else days * DAY_S
