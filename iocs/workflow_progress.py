"""How far runs and rounds are: from the runner's journal and the jobs' progress files to PVs, while they run."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.ports import Json
from iocs.server import IocServer
from iocs.workflow_lines import JobLines
from iocs.workflow_pictures import Pictures
from iocs.workflow_runs import runs_elsewhere
from pvdb import Pv, Severity
from pvdb import workflow as pvs

IDLE, RUNNING, DONE, FAILED = range(4)
TRAIN_IDLE, TRAINING, EXPORTING, TRAIN_STANDBY, TRAIN_FAILED = range(5)
_RUN_SHARE = {"Transfer": (0.0, 5.0), "Reconstruct": (5.0, 90.0), "Pairs": (95.0, 3.0), "Return": (98.0, 2.0)}
_ROUND_SHARE = {
    "Elsewhere": (0.0, 0.0),
    "Send": (0.0, 0.0),
    "Train": (0.0, 90.0),
    "Export": (90.0, 5.0),
    "Return": (95.0, 2.0),
    "Register": (97.0, 3.0),
}
_SHARES = {"run": _RUN_SHARE, "round": _ROUND_SHARE}
_COPIES = ("Transfer", "Return")
_JOBS = {"Reconstruct": "reconstruct", "Pairs": "pairs", "Train": "train"}
_BEFORE_EXPORT = ("Elsewhere", "Send", "Train")
_STAGE: dict[str, tuple[Pv | None, Pv]] = {
    "Transfer": (pvs.TRANSFER_STATE, pvs.TRANSFER_MESSAGE),
    "Reconstruct": (pvs.RECON_STATE, pvs.RECON_MESSAGE),
    "Pairs": (pvs.RECON_STATE, pvs.RECON_MESSAGE),
    "Return": (pvs.TRANSFER_STATE, pvs.TRANSFER_MESSAGE),
}
_NO_STAGE: tuple[Pv | None, Pv] = (None, pvs.FLOW_MESSAGE)
"""What a state of a facility's own shows."""


class Progress:
    """Shows runs on the PVs of Transfer:, Recon: and Train:."""

    def __init__(
        self,
        ioc: IocServer,
        pictures: Pictures,
        read: Callable[[str], Json],
        lines: JobLines,
        judged: Callable[[dict[str, float]], None],
    ) -> None:
        """`pictures` shows reconstructions, `read` gives the document of a run, `lines` what its jobs say.

        `judged` hears of the live model's losses on scans that it had not learned from.
        """
        self._ioc, self._pictures, self._read, self._lines, self._judged = ioc, pictures, read, lines, judged
        self._documents: dict[str, Json] = {}
        self._alarmed: set[Pv] = set()
        self._states: dict[str, str] = {}
        self._losses: list[float] = []
        self._val_losses: list[float] = []
        self._rates: list[float] = []

    def moved(self, row: RunRow) -> None:
        """A run entered a state or ended."""
        document = self._documents[row.run_id] = self._read(row.run_id)
        self._show_state(*self._seen(row, document, {}))
        if row.status.ended:
            self._lines.forget(row.run_id)
            self._states.pop(row.run_id, None)
            self._documents.pop(row.run_id)

    def follow(self, row: RunRow, details: Json) -> None:
        """Show how far an active run is; `details` are what its action's provider says."""
        document = self._documents.get(row.run_id)
        if document is None:
            document = self._documents[row.run_id] = self._read(row.run_id)
        before = self._states.get(row.run_id)
        row, document = self._seen(row, document, details)
        if row.state != before:
            self._show_state(row, document)
        done = 0.0
        if row.state in _COPIES:
            done = self._show_transfer(details)
        elif row.state in _JOBS:
            done = self._show_job(row, document[_JOBS[row.state]]["progress"])
        if done:
            begin, share = _share(row)
            self._ioc.post(pvs.FLOW_PROGRESS, begin + share * done)

    def _seen(self, row: RunRow, document: Json, details: Json) -> tuple[RunRow, Json]:
        """The run by the states of its own flow, also where that flow runs elsewhere and is one action here."""
        if runs_elsewhere(document):
            known = details.get("state_name") or self._states.get(row.run_id, "")
            row, document = replace(row, state=known), document["body"]
        if not row.status.ended:
            self._states[row.run_id] = row.state
        return row, document

    def _show_state(self, row: RunRow, document: Json) -> None:
        self._ioc.post(pvs.FLOW_STEP, row.state)
        if row.status is RunStatus.FAILED:
            self._failed(row)
        elif row.kind == "round":
            self._round_moved(row, document)
        else:
            self._run_moved(row, document)

    def _run_moved(self, row: RunRow, document: Json) -> None:
        """Mark the stages before the run's state as done, and its own as running."""
        state, message = _STAGE.get(row.state, _NO_STAGE)
        if row.status is RunStatus.SUCCEEDED:
            self._finish_job(row, document, "reconstruct")
            self._finish_job(row, document, "pairs")
            for done in (pvs.TRANSFER_STATE, pvs.RECON_STATE):
                self._post_stage(done, DONE)
            self._pictures.reconstruction(Path(document["results"]["reconstruction"]))
            self._ioc.post(pvs.FLOW_PROGRESS, 100.0)
        elif row.status is RunStatus.CANCELLED and state is not None:
            self._post_stage(state, IDLE)
        elif row.status is RunStatus.ACTIVE and state is not None:
            if state is pvs.RECON_STATE:
                self._post_stage(pvs.TRANSFER_STATE, DONE)
                self._show_transfer(document.get("Transfer", {}).get("details", {}))
            if row.state == "Return":
                self._finish_job(row, document, "reconstruct")
                self._post_stage(pvs.RECON_STATE, DONE)
            self._post_stage(state, RUNNING)
            self._clear(message, row)
            self._ioc.post(pvs.FLOW_PROGRESS, _share(row)[0])

    def _round_moved(self, row: RunRow, document: Json) -> None:
        if row.state == "Export":
            self._finish_job(row, document, "train")
        if row.status is RunStatus.ACTIVE:
            if row.state in _BEFORE_EXPORT:
                self._ioc.post(pvs.EPOCH, 0)  # the former round's is not this one's
            self._ioc.post(pvs.TRAIN_STATE, TRAINING if row.state in _BEFORE_EXPORT else EXPORTING)
            self._clear(pvs.TRAIN_MESSAGE, row)
            self._ioc.post(pvs.FLOW_PROGRESS, _share(row)[0])
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
            state, message = _STAGE.get(row.state, _NO_STAGE)
            if state is not None:
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
        if "bytes_total" not in details:  # not begun, or run elsewhere
            return 0.0
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

        def take(lines: list[Json]) -> None:
            self._ioc.loop.call_soon_threadsafe(self._show_lines, lines)

        self._lines.last(row.run_id, document[job]["progress"], take if self._lines.is_remote else self._show_lines)

    def _show_job(self, row: RunRow, progress: str) -> float:
        """Show the new lines of a job's progress file; returns the share of epochs done."""
        return self._show_lines(self._lines.new(row.run_id, progress))

    def _show_lines(self, lines: list[Json]) -> float:
        share = 0.0
        for line in lines:
            if line["event"] == "begun":
                self._show_begun(line)
            elif line["event"] == "judged":
                self._show_judged(line)
            elif line["event"] == "quality":
                self._show_quality(line)
            elif line["event"] == "epoch":
                (self._show_training if line["job"] == "train" else self._show_retrieval)(line)
                share = line["epoch"] / line["num_epochs"]
            elif line["event"] == "ended" and line["job"] == "train":
                self._ioc.tell(pvs.TRAIN_MESSAGE, f"trained: {line['why']}{_left_out(line)}", _severity(line))
        return share

    def _show_judged(self, line: Json) -> None:
        if line["val_loss"] is not None:
            self._judged({line["scan_id"]: line["val_loss"]})
        else:
            self._ioc.tell(pvs.RECON_MESSAGE, f"scan {line['scan_id']} is not judged: {line['why']}", Severity.MINOR)

    def _show_quality(self, line: Json) -> None:
        """How good the reconstruction is; NaN for halves that were not reconstructed."""
        period_m = line["resolution_m"]
        shown = {
            pvs.FOURIER_ERROR: line["fourier_error"],
            pvs.RING_CORRELATION: line["ring_correlation"],
            pvs.RESOLUTION: None if period_m is None else period_m * 1e9,
        }
        for pv, value in shown.items():
            self._ioc.post(pv, math.nan if value is None else value)

    def _show_begun(self, line: Json) -> None:
        """A round begins, or goes on from the epochs that an attempt before has done."""
        self._losses, self._val_losses = line["losses"], line["val_losses"]
        self._rates = line["learning_rates"]
        self._ioc.post(pvs.EPOCH, len(self._losses))
        self._ioc.post(pvs.NUM_SCANS, len(line["scans"]))
        self._ioc.post(pvs.NUM_SAMPLES, line["num_samples"])
        self._ioc.post(pvs.LEFT_OUT, "; ".join(line["skipped"]), severity=_severity(line))
        self._show_histories()
        self._judged(line["new_scan_losses"])

    def _show_retrieval(self, line: Json) -> None:
        self._ioc.post(pvs.RECON_EPOCH, line["epoch"])
        self._ioc.post(pvs.RECON_ERROR, line["error"])
        if line.get("preview"):
            self._pictures.preview(line["preview"], line["epoch"])

    def _show_training(self, line: Json) -> None:
        self._losses.append(line["loss"])
        self._val_losses.append(line["val_loss"])
        self._rates.append(line["learning_rate"])
        shown = {
            pvs.EPOCH: line["epoch"],
            pvs.LOSS: line["loss"],
            pvs.VAL_LOSS: line["val_loss"],
            pvs.BEST_VAL_LOSS: line["best_val_loss"],
            pvs.LEARNING_RATE: line["learning_rate"],
            pvs.SAMPLE_RATE: line["samples_per_s"],
            pvs.TIME_LEFT: line["time_left_s"],
        }
        for pv, value in shown.items():
            self._ioc.post(pv, value)
        self._show_histories()
        if line.get("preview"):
            self._pictures.training(line["preview"], line["epoch"])

    def _show_histories(self) -> None:
        histories = (pvs.LOSS_HISTORY, self._losses), (pvs.VAL_LOSS_HISTORY, self._val_losses)
        for pv, values in (*histories, (pvs.RATE_HISTORY, self._rates)):
            self._ioc.post(pv, tuple(values))


def _left_out(line: Json) -> str:
    """Which scans a round was not trained on, to be added to a message."""
    return f"; left out: {'; '.join(line['skipped'])}" if line["skipped"] else ""


def _severity(line: Json) -> Severity:
    return Severity.MINOR if line["skipped"] else Severity.NO_ALARM


def _share(row: RunRow) -> tuple[float, float]:
    """Where a state begins and how much of the whole it is, in %; a facility's own is none."""
    return _SHARES.get(row.kind, {}).get(row.state, (0.0, 0.0))
