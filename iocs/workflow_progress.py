"""How far runs and rounds are: from the runner's journal and the jobs' progress files to PVs, while they run."""

from pathlib import Path

from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.ports import Json
from hpc_bridge.progress import ProgressReader
from iocs.server import IocServer
from iocs.workflow_pictures import Pictures
from pvdb import Pv, Severity
from pvdb import workflow as pvs

IDLE, RUNNING, DONE, FAILED = range(4)
TRAIN_IDLE, TRAINING, EXPORTING, TRAIN_STANDBY, TRAIN_FAILED = range(5)
_RUN_SHARE = {"Transfer": (0.0, 5.0), "Reconstruct": (5.0, 90.0), "Pairs": (95.0, 5.0)}
_ROUND_SHARE = {"Train": (0.0, 90.0), "Export": (90.0, 5.0), "Register": (95.0, 5.0)}
_STAGE = {
    "Transfer": (pvs.TRANSFER_STATE, pvs.TRANSFER_MESSAGE),
    "Reconstruct": (pvs.RECON_STATE, pvs.RECON_MESSAGE),
    "Pairs": (pvs.RECON_STATE, pvs.RECON_MESSAGE),
}


class Progress:
    """Shows runs on the PVs of Transfer:, Recon: and Train:."""

    def __init__(self, ioc: IocServer, pictures: Pictures) -> None:
        """`pictures` shows reconstructions."""
        self._ioc, self._pictures = ioc, pictures
        self._readers: dict[tuple[str, str], ProgressReader] = {}
        self._alarmed: set[Pv] = set()
        self._losses: list[float] = []
        self._val_losses: list[float] = []

    def moved(self, row: RunRow, document: Json) -> None:
        """A run entered a state or ended."""
        self._ioc.post(pvs.FLOW_STEP, row.state)
        if row.status is RunStatus.FAILED:
            self._failed(row)
        elif row.kind == "round":
            self._round_moved(row, document)
        else:
            self._run_moved(row, document)
        if row.status.ended:
            self._readers = {key: reader for key, reader in self._readers.items() if key[0] != row.run_id}

    def follow(self, row: RunRow, document: Json, details: Json) -> None:
        """Show how far an active run is; `details` are what its action's provider says."""
        share = (_ROUND_SHARE if row.kind == "round" else _RUN_SHARE).get(row.state)
        if share is None:
            return
        done = 0.0
        if row.state == "Transfer":
            done = self._show_transfer(details)
        elif row.state in ("Reconstruct", "Train"):
            done = self._show_job(row, document[row.state.lower()]["progress"])
        if done:
            self._ioc.post(pvs.FLOW_PROGRESS, share[0] + share[1] * done)

    def _run_moved(self, row: RunRow, document: Json) -> None:
        """Mark the stages before the run's state as done, and its own as running."""
        order = ("Transfer", "Reconstruct", "Pairs")
        if row.status is RunStatus.SUCCEEDED:
            self._finish_job(row, document, "reconstruct")
            self._post_stage(pvs.RECON_STATE, DONE)
            self._ioc.post(pvs.FLOW_PROGRESS, 100.0)
        elif row.status is RunStatus.CANCELLED:
            self._post_stage(_STAGE[row.state][0], IDLE)
        elif row.status is RunStatus.ACTIVE and row.state in order:
            if row.state != "Transfer":
                self._post_stage(pvs.TRANSFER_STATE, DONE)
                self._show_transfer(document["Transfer"]["details"])
            if row.state == "Pairs":
                self._finish_job(row, document, "reconstruct")
                self._pictures.reconstruction(Path(document["reconstruct"]["output"]))
            state, message = _STAGE[row.state]
            self._post_stage(state, RUNNING)
            self._clear(message, row)
            self._ioc.post(pvs.FLOW_PROGRESS, _RUN_SHARE[row.state][0])

    def _round_moved(self, row: RunRow, document: Json) -> None:
        if row.state == "Export":
            self._finish_job(row, document, "train")
        if row.status is RunStatus.ACTIVE:
            if row.state == "Train":
                self._ioc.post(pvs.EPOCH, 0)  # the former round's is not this one's
            self._ioc.post(pvs.TRAIN_STATE, TRAINING if row.state == "Train" else EXPORTING)
            self._clear(pvs.TRAIN_MESSAGE, row)
            self._ioc.post(pvs.FLOW_PROGRESS, _ROUND_SHARE[row.state][0])
        elif row.status.ended:
            self._ioc.post(pvs.FLOW_PROGRESS, 100.0)
            self.training_idle()

    def training_idle(self) -> None:
        """No round is running: show whether one may begin by itself."""
        self._ioc.post(pvs.TIME_LEFT, 0.0)
        self._ioc.post(pvs.TRAIN_STATE, TRAIN_STANDBY if self._ioc.value(pvs.STANDBY) else TRAIN_IDLE)

    def _failed(self, row: RunRow) -> None:
        text = f"{row.run_id} failed in {row.state}: {row.message}"
        if row.kind == "round":
            self._ioc.post(pvs.TRAIN_STATE, TRAIN_FAILED)
            message = pvs.TRAIN_MESSAGE
        else:
            state, message = _STAGE[row.state]
            self._post_stage(state, FAILED)
        self._alarmed.add(message)
        self._ioc.tell(message, text, Severity.MAJOR)
        self._ioc.tell(pvs.FLOW_MESSAGE, text, Severity.MAJOR)

    def _clear(self, message: Pv, row: RunRow) -> None:
        """A stage that is at work again is no alarm."""
        if message in self._alarmed:
            self._alarmed.remove(message)
            self._ioc.tell(message, f"{row.run_id} is in {row.state}")

    def _post_stage(self, pv: Pv, state: int) -> None:
        if self._ioc.value(pv) != state:
            self._ioc.post(pv, state)

    def _show_transfer(self, details: Json) -> float:
        total, done = details.get("bytes_total", 0), details.get("bytes_transferred", 0)
        shown = {
            pvs.BYTES_TOTAL: float(total),
            pvs.BYTES_DONE: float(done),
            pvs.FILES_DONE: int(details.get("files_done", 0)),
            pvs.TRANSFER_RATE: float(details.get("rate_bytes_per_s", 0.0)) / 1e6,
        }
        for pv, value in shown.items():
            self._ioc.post(pv, value)
        return done / total if total else 0.0

    def _finish_job(self, row: RunRow, document: Json, job: str) -> None:
        """Read the lines that a job wrote after it was last asked."""
        self._show_job(row, document[job]["progress"])

    def _show_job(self, row: RunRow, progress: str) -> float:
        """Show the new lines of a job's progress file; returns the share of epochs done."""
        reader = self._readers.setdefault((row.run_id, progress), ProgressReader(Path(progress)))
        share = 0.0
        for line in reader.read():
            if line["event"] == "started" and line["job"] == "train":
                self._losses, self._val_losses = [], []
                self._ioc.post(pvs.EPOCH, 0)
                self._ioc.post(pvs.NUM_SCANS, len(set(line["scans"])))
                self._ioc.post(pvs.NUM_SAMPLES, line["num_samples"])
            elif line["event"] == "epoch":
                (self._show_training if line["job"] == "train" else self._show_retrieval)(line)
                share = line["epoch"] / line["num_epochs"]
            elif line["event"] == "ended" and line.get("skipped"):
                self._ioc.tell(pvs.TRAIN_MESSAGE, f"left out: {'; '.join(line['skipped'])}", Severity.MINOR)
        return share

    def _show_retrieval(self, line: Json) -> None:
        self._ioc.post(pvs.RECON_EPOCH, line["epoch"])
        self._ioc.post(pvs.RECON_ERROR, line["error"])
        if line.get("preview"):
            self._pictures.preview(Path(line["preview"]), line["epoch"])

    def _show_training(self, line: Json) -> None:
        self._losses.append(line["loss"])
        self._val_losses.append(line["val_loss"])
        shown = {
            pvs.EPOCH: line["epoch"],
            pvs.LOSS: line["loss"],
            pvs.VAL_LOSS: line["val_loss"],
            pvs.BEST_VAL_LOSS: line["best_val_loss"],
            pvs.LEARNING_RATE: line["learning_rate"],
            pvs.SAMPLE_RATE: line["samples_per_s"],
            pvs.TIME_LEFT: line["time_left_s"],
            pvs.LOSS_HISTORY: tuple(self._losses),
            pvs.VAL_LOSS_HISTORY: tuple(self._val_losses),
        }
        for pv, value in shown.items():
            self._ioc.post(pv, value)
