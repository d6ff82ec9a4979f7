"""Training rounds: begun by hand, or by themselves when the trainer is free and there are new pairs."""

from pathlib import Path

from hpc_bridge.documents import round_document
from hpc_bridge.journal import RunStatus
from iocs.config import TrainSection
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.workflow_experiment import Experiment
from iocs.workflow_layout import Layout, new_id
from iocs.workflow_models import Models
from iocs.workflow_progress import Progress
from iocs.workflow_runs import Runs
from phasing.errors import PhaselineError
from pvdb import Severity, state_name
from pvdb import workflow as pvs


class Rounds:
    """The controls of `Train:`."""

    def __init__(
        self,
        ioc: IocServer,
        layout: Layout,
        experiment: Experiment,
        runs: Runs,
        models: Models,
        progress: Progress,
        settings: TrainSection,
    ) -> None:
        """Register the handlers; no round begins before `resume`."""
        self._ioc, self._layout, self._experiment, self._runs, self._models = ioc, layout, experiment, runs, models
        self._progress, self._settings = progress, settings
        ioc.on_action(pvs.START, self._start)
        ioc.on_action(pvs.ABORT, self._abort)
        ioc.listen(pvs.STANDBY, self._standby_changed)

    def resume(self) -> None:
        """Show how training stands, and begin a round if one is due."""
        if not self._runs.open("round"):
            self._progress.training_idle()
        self.begin_if_due()

    def begin_if_due(self) -> None:
        """Begin a round when the trainer is free and there are pairs that no round has taken yet."""
        if self._ioc.value(pvs.STANDBY) or self._runs.open("round"):
            return
        pairs = self._pairs()
        if not set(pairs) - self._taken():
            return
        try:
            self._begin(pairs)
        except ActionFailed:
            return  # told on Train:Message

    async def _start(self) -> None:
        """Train a round on all pairs there are, and wait for it; put 0 aborts it."""
        if self._runs.open("round"):
            raise Refused("a round is running")
        pairs = self._pairs()
        if not pairs:
            raise Refused("there are no training pairs yet")
        await self._runs.finish(self._begin(pairs))

    async def _abort(self) -> None:
        for row in self._runs.open("round"):
            self._runs.runner.cancel(row.run_id)

    def _standby_changed(self, on: int) -> None:
        text = "standby: put by hand" if on else "a round begins by itself when new pairs are there"
        self._ioc.tell(pvs.TRAIN_MESSAGE, text)
        self.resume()

    def _taken(self) -> set[str]:
        """Folders of pairs that a round was given, whatever became of it: a failed one is retried by hand."""
        runner = self._runs.runner
        rounds = [row for row in runner.snapshot() if row.kind == "round"]
        return {path for row in rounds for path in self._runs.document(row.run_id)["train"]["pairs"]}

    def _pairs(self) -> list[str]:
        """Folders of the training pairs of this lineage's scans, the newest run of each scan file, oldest first."""
        runner = self._runs.runner
        newest: dict[str, str] = {}
        for row in reversed(runner.snapshot()):
            if row.kind == "run" and row.status is RunStatus.SUCCEEDED:
                document = self._runs.document(row.run_id)
                if document["scan"]["lineage"] == self._models.lineage:
                    newest[document["scan"]["file"]] = document["pairs"]["output"]
        # of folders of another machine, those that are gone are named by the training job
        if not self._experiment.site.shared:
            return list(newest.values())
        return [folder for folder in newest.values() if Path(folder).is_dir()]  # one tidied away ends no training

    def _begin(self, pairs: list[str]) -> str:
        round_id = new_id("round")
        try:
            parent = self._models.parent
            settings = self._settings.settings() | self._setpoints()
            inbox = self._layout.inbox
            document = round_document(
                self._experiment.site, round_id, pairs, parent, self._models.lineage, settings, inbox
            )
            label = f"{len(pairs)} scans"
            self._runs.submit("round", document, label, round_id)
        except PhaselineError as error:
            self._ioc.tell(pvs.TRAIN_MESSAGE, f"no round could begin: {error}", Severity.MAJOR)
            raise ActionFailed(str(error)) from error
        self._ioc.tell(pvs.TRAIN_MESSAGE, f"{round_id} begins on {label}")
        return round_id

    def _setpoints(self) -> dict[str, int]:
        """What of a round's settings has PVs."""
        value = self._ioc.value
        chosen = state_name(pvs.TRAINING_SET, value(pvs.TRAINING_SET))
        return {
            "num_epochs": value(pvs.EPOCHS),
            "last_scans": value(pvs.LAST_SCANS) if chosen == "Last scans" else 0,
            "reservoir_frames": value(pvs.RESERVOIR) if chosen == "Reservoir" else 0,
        }
