"""Training rounds: begun by hand, or by themselves when the trainer is free and there are new pairs."""

from pathlib import Path

from hpc_bridge.documents import round_document
from hpc_bridge.journal import RunStatus
from hpc_bridge.ports import Json
from iocs.config import TrainSection
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.workflow_excluded import Excluded
from iocs.workflow_experiment import Experiment
from iocs.workflow_layout import Layout, new_id
from iocs.workflow_models import Models
from iocs.workflow_progress import Progress
from iocs.workflow_runs import Runs
from phasing.errors import PhaselineError
from phasing.quality import Quality
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
        excluded: Excluded,
        settings: TrainSection,
    ) -> None:
        """Register the handlers; no round begins before `resume`."""
        self._ioc, self._layout, self._experiment, self._runs, self._models = ioc, layout, experiment, runs, models
        self._progress, self._excluded, self._settings = progress, excluded, settings
        ioc.on_action(pvs.START, self._start)
        ioc.on_action(pvs.ABORT, self._abort)
        ioc.listen(pvs.STANDBY, lambda _: self.resume())
        for limit in (pvs.MAX_FOURIER_ERROR, pvs.MIN_RING_CORRELATION):
            ioc.listen(limit, lambda _: self.begin_if_due())
        self._qualities: dict[str, Quality | None] = {}

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

    def _taken(self) -> set[str]:
        """Folders of pairs that a round of this lineage was given, whatever became of it: retried by hand."""
        rounds = [row for row in self._runs.runner.snapshot() if row.kind == "round"]
        documents = [self._runs.document(row.run_id) for row in rounds]
        return {
            path
            for document in documents
            if document["register"]["lineage"] == self._models.lineage
            for path in document["train"]["pairs"]
        }

    def _pairs(self) -> list[str]:
        """Folders of the pairs that this lineage learns from, the newest run of each scan file, oldest first."""
        runner = self._runs.runner
        newest: dict[str, str] = {}
        kept_out: dict[str, str] = {}
        for row in reversed(runner.snapshot()):
            if row.kind == "run" and row.status is RunStatus.SUCCEEDED:
                document = self._runs.document(row.run_id)
                scan = document["scan"]
                if not self._may_train_on(scan):
                    continue
                newest.pop(scan["file"], None)
                kept_out.pop(scan["scan_id"], None)
                if fault := self._fault(row.run_id, document):
                    kept_out[scan["scan_id"]] = fault
                else:
                    newest[scan["file"]] = document["pairs"]["output"]
        self._tell_kept_out(kept_out)
        # of folders of another machine, those that are gone are named by the training job
        if not self._experiment.site.shared:
            return list(newest.values())
        return [folder for folder in newest.values() if Path(folder).is_dir()]  # one tidied away ends no training

    def _fault(self, run_id: str, document: Json) -> str:
        """Why a reconstruction is too bad to be trained on; empty when it is not, or when nothing is known of it."""
        value = self._ioc.value
        limits = (value(pvs.MAX_FOURIER_ERROR), value(pvs.MIN_RING_CORRELATION))
        if not any(limits):
            return ""
        if run_id not in self._qualities:
            try:
                self._qualities[run_id] = Quality.load(Path(document["results"]["reconstruction"]))
            except PhaselineError as error:
                return str(error)
        found = self._qualities[run_id]
        return found.fault(max_fourier_error=limits[0], min_ring_correlation=limits[1]) if found else ""

    def _tell_kept_out(self, kept_out: dict[str, str]) -> None:
        """Show which scans are kept out, and say so when there are others than before."""
        text = "; ".join(f"scan {scan_id}: {fault}" for scan_id, fault in kept_out.items())
        if text != self._ioc.value(pvs.KEPT_OUT):
            self._ioc.post(pvs.KEPT_OUT, text, severity=Severity.MINOR if text else Severity.NO_ALARM)
            self._ioc.tell(pvs.TRAIN_MESSAGE, f"kept out of training: {text or 'none any more'}", Severity.MINOR)

    def _may_train_on(self, scan: Json) -> bool:
        """Whether a scan is of this lineage, or shared like it and of the same set-up; never one that is excluded."""
        if scan["scan_id"] in self._excluded:
            return False
        if scan["lineage"] == self._models.lineage:
            return True
        both_share = bool(self._ioc.value(pvs.SHARE)) and scan.get("shared", False)
        return both_share and scan.get("set_up") == self._experiment.set_up_of(self._experiment.geometry)

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
