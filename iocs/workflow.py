"""The workflow IOC: scans, runs, phase retrieval, training rounds and models, from PVs to the bridge and back."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_bridge import definition
from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.jobs import JOBS
from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.local_transfer import TRANSFER_URL, LocalTransfer
from hpc_bridge.runner import FlowRunner
from hpc_bridge.workers import WorkerSetup
from iocs.config import Config
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.stream import StreamServer
from iocs.workflow_documents import (
    BEAMLINE,
    COMPUTE,
    RECONSTRUCT_ENDPOINT,
    TRAIN_ENDPOINT,
    Layout,
    Submission,
    new_id,
    run_document,
)
from iocs.workflow_kept import KeptSwitches
from iocs.workflow_models import Models
from iocs.workflow_pictures import Pictures
from iocs.workflow_progress import Progress
from iocs.workflow_rounds import Rounds
from iocs.workflow_runs import Runs
from phasing.card import lineage_key
from phasing.errors import PhaselineError
from phasing.geometry import Geometry
from phasing.scanfile import Scan, read_scan
from phasing.store import Registry
from pvdb import Severity, state_name
from pvdb import workflow as pvs

log = logging.getLogger("phaseline.workflow")

REGISTER_URL = "phaseline:register"
FOLLOW_PERIOD_S = 0.2
DISK_PERIOD_S = 5.0
FLOW_IDLE, FLOW_ACTIVE, FLOW_HOLD, FLOW_FAILED = range(4)


class Workflow:
    """Owns the flow runner and its providers; every control and state is a PV."""

    def __init__(self, config: Config) -> None:
        """Open journal and registry and start the workers; nothing runs or is served yet."""
        self._config = config
        self._layout = Layout.below(config.root, config.scans)
        ioc = self._ioc = IocServer("workflow", "Workflow", config.prefix)
        KeptSwitches(ioc, self._layout.journal / "switches.json", pvs.GATE, pvs.STANDBY)
        image = ioc.name(pvs.RECON_IMAGE)
        self._streams = StreamServer([image])
        self._models = Models(
            ioc,
            Registry(self._layout.registry),
            self._lineage(config.geometry.geometry()),
            prefix=config.prefix,
            margin=config.train.gate_margin,
            edge_timeout_s=config.workflow.edge_timeout_s,
        )
        self._pictures = Pictures(ioc, self._streams, image)
        self._progress = Progress(ioc, self._pictures)
        self._flow = definition.shipped("run")
        self._providers = self._make_providers()
        self._runner = FlowRunner(
            self._layout.journal / "flows.sqlite",
            self._providers,
            max_active=config.workflow.runs_at_once + 1,
            trouble=self._troubled,
        )
        self._runner.subscribe(self._heard)
        self._runs = Runs(self._runner, ioc.stopping)
        self._rounds = Rounds(ioc, self._layout, self._runs, self._models, self._progress, config.train)
        self._rows = {row.run_id: row for row in reversed(self._runner.snapshot())}
        self._show_settings()
        self._register_handlers()

    def _lineage(self, geometry: Geometry) -> str:
        """The lineage of models that scans of this experiment with that geometry belong to."""
        experiment = self._config.experiment
        return lineage_key(f"{experiment.proposal} {experiment.sample}", geometry, experiment.optics)

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until told to stop; running work is resumed at the next start."""
        self._runner.start()
        self._show_runs()
        self._rounds.resume()
        tasks = [asyncio.create_task(self._every(period_s, step)) for period_s, step in self._periodic()]
        try:
            await self._ioc.serve(ready)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._runner.stop()
        for provider in self._providers.values():
            provider.stop()
        self._models.close()
        self._pictures.stop()
        self._streams.stop()

    def _make_providers(self) -> dict[str, Any]:
        settings, journal = self._config.workflow, self._layout.journal
        endpoints = {
            RECONSTRUCT_ENDPOINT: WorkerSetup(settings.reconstruct_workers, settings.nice, settings.threads_per_worker),
            TRAIN_ENDPOINT: WorkerSetup(1, settings.nice, settings.threads_per_worker, warm=("torch", "torch.onnx")),
        }
        limits_s = dict.fromkeys(JOBS, settings.job_timeout_s)
        roots = {BEAMLINE: self._layout.scans, COMPUTE: self._layout.compute}
        return {
            TRANSFER_URL: LocalTransfer(roots, journal / "transfer.sqlite"),
            COMPUTE_URL: LocalCompute(JOBS, endpoints, journal / "compute.sqlite", limits_s=limits_s),
            REGISTER_URL: FunctionProvider(self._models.register, journal / "register.sqlite"),
        }

    def _show_settings(self) -> None:
        config, post = self._config, self._ioc.post
        post(pvs.PROPOSAL, config.experiment.proposal)
        post(pvs.SAMPLE, config.experiment.sample)
        post(pvs.ROOT, str(config.root.resolve()))
        post(pvs.LINEAGE, self._models.lineage)
        post(pvs.NUM_EPOCHS, config.reconstruct.num_epochs)
        post(pvs.NUM_MODES, config.reconstruct.num_modes)
        post(pvs.RECON_BATCH, config.reconstruct.batch_size)
        post(pvs.EPOCHS, config.train.num_epochs)
        post(pvs.HOLD, int(self._runner.held))

    def _register_handlers(self) -> None:
        ioc = self._ioc
        ioc.on_action(pvs.SUBMIT, self._submit_action)
        ioc.on_action(pvs.RUN, self._run_action)
        ioc.on_action(pvs.CANCEL, self._cancel)
        ioc.on_action(pvs.RETRY, self._retry)
        ioc.on_set(pvs.HOLD, self._hold)
        ioc.listen(pvs.HOLD, lambda on: self._show_runs())

    # scans and their runs

    async def _submit_action(self) -> None:
        await self._submit()

    async def _run_action(self) -> None:
        """Submit and wait until the run has ended and its reconstruction is shown; put 0 cancels it."""
        run_id = await self._submit()
        await self._runs.finish(run_id)
        await self._pictures.shown()

    async def _submit(self) -> str:
        """Check the scan file as a whole, then queue its run."""
        path = Path(self._ioc.value(pvs.FILE))
        try:
            scan = await asyncio.to_thread(read_scan, path)
            self._check(scan)
            run_id = new_id(path.stem)
            submission = Submission(path.resolve(), scan.scan_id, self._lineage(scan.geometry))
            document = run_document(self._layout, run_id, submission, self._retrieval_settings())
            self._runner.submit(self._flow, document, scan.scan_id, run_id=run_id)
        except PhaselineError as error:
            raise ActionFailed(str(error)) from error
        self._ioc.post(pvs.SCAN_ID, scan.scan_id)
        self._ioc.post(pvs.LAST_ACCEPTED, str(path))
        text = f"{path.name} accepted as run {run_id}, {scan.num_frames} frames"
        if submission.lineage != self._models.lineage:
            different = ", ".join(scan.geometry.differences(self._config.geometry.geometry()))
            text += f"; not to be trained on, for its geometry is another: {different}"
        self._ioc.tell(pvs.SCAN_MESSAGE, text)
        return run_id

    def _check(self, scan: Scan) -> None:
        """Refuse what phase retrieval and training could not use."""
        for row in self._runs.open("run"):
            if self._runner.document(row.run_id)["scan"]["file"] == str(scan.path.resolve()):
                raise Refused(f"{scan.path.name} is already in run {row.run_id}")

    def _retrieval_settings(self) -> dict[str, Any]:
        value, settings = self._ioc.value, self._config.reconstruct
        return {
            "engine": state_name(pvs.RECON_ENGINE, value(pvs.RECON_ENGINE)),
            "num_epochs": value(pvs.NUM_EPOCHS),
            "num_modes": value(pvs.NUM_MODES),
            "batch_size": value(pvs.RECON_BATCH),
            "defocus_m": settings.defocus_m,
            "preview_every": settings.preview_every,
            "seed": settings.seed,
        }

    async def _cancel(self) -> None:
        for row in self._runs.open("run"):
            self._runner.cancel(row.run_id)

    async def _retry(self) -> None:
        failed = self._runs.to_retry()
        if not failed:
            raise Refused("no run has failed")
        for row in failed:
            self._runner.retry(row.run_id)

    async def _hold(self, on: int) -> None:
        self._runner.hold(bool(on))

    # what the runner says

    def _heard(self, row: RunRow) -> None:
        """Carry a change from the runner's thread into the event loop."""
        self._ioc.loop.call_soon_threadsafe(self._moved, row)

    def _troubled(self, text: str) -> None:
        """Show what keeps all runs from going on, or that nothing does any more; called in the runner's thread."""
        severity = Severity.MAJOR if text else Severity.NO_ALARM
        self._ioc.tell(pvs.FLOW_MESSAGE, text or "the journal of runs can be written again", severity)

    def _moved(self, row: RunRow) -> None:
        """A run changed: show it, wake who waits for it, train when there is something new."""
        try:
            self._progress.moved(row, self._runner.document(row.run_id))
        except (OSError, PhaselineError) as error:
            self._ioc.tell(pvs.FLOW_MESSAGE, f"{row.run_id} cannot be shown: {error}", Severity.MINOR)
        self._rows[row.run_id] = row
        self._show_runs()
        if row.status.ended:
            self._runs.ended(row.run_id)
            if row.status is RunStatus.SUCCEEDED:
                text = "training round done" if row.kind == "round" else "reconstructed, training pairs made"
                self._ioc.tell(pvs.FLOW_MESSAGE, f"{row.run_id}: {text}")
            elif row.status is RunStatus.CANCELLED:
                self._ioc.tell(pvs.FLOW_MESSAGE, f"{row.run_id} cancelled in {row.state}")
            self._rounds.begin_if_due()

    def _show_runs(self) -> None:
        """Post counts, state and table; of the rows as told, so that no count comes before its message."""
        rows = list(reversed(self._rows.values()))
        runs = [row for row in rows if row.kind == "run"]
        counts = {status: sum(row.status is status for row in runs) for status in RunStatus}
        for pv, status in (
            (pvs.ACTIVE_RUNS, RunStatus.ACTIVE),
            (pvs.QUEUED_RUNS, RunStatus.QUEUED),
            (pvs.SUCCEEDED_RUNS, RunStatus.SUCCEEDED),
            (pvs.FAILED_RUNS, RunStatus.FAILED),
        ):
            if self._ioc.value(pv) != counts[status]:
                self._ioc.post(pv, counts[status])
        self._ioc.post(pvs.FLOW_STATE, self._state(rows))
        self._ioc.post(pvs.FLOW_TABLE, [_table_row(row) for row in rows[:100]])

    def _state(self, rows: list[RunRow]) -> int:
        if self._runner.held:
            return FLOW_HOLD
        if any(not row.status.ended for row in rows):
            return FLOW_ACTIVE
        ended = [row for row in rows if row.ended_s is not None]
        last = max(ended, key=lambda row: row.ended_s or 0.0, default=None)
        return FLOW_FAILED if last is not None and last.status is RunStatus.FAILED else FLOW_IDLE

    def _periodic(self) -> list[tuple[float, Callable[[], None]]]:
        return [(FOLLOW_PERIOD_S, self._follow), (DISK_PERIOD_S, self._show_disk)]

    async def _every(self, period_s: float, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
            except Exception as error:
                log.debug("progress", exc_info=error)
                self._ioc.tell(pvs.FLOW_MESSAGE, f"progress cannot be shown: {error}", Severity.MINOR)
            await asyncio.sleep(period_s)

    def _follow(self) -> None:
        for row in list(self._rows.values()):
            if row.status is RunStatus.ACTIVE:
                current = self._runner.current(row.run_id)
                details = dict(current.details) if current else {}
                self._progress.follow(row, self._runner.document(row.run_id), details)

    def _show_disk(self) -> None:
        self._ioc.post(pvs.DISK_FREE, shutil.disk_usage(self._layout.compute).free / 1e9)


def _table_row(row: RunRow) -> tuple[Any, ...]:
    started, ended = row.started_s or 0.0, row.ended_s
    duration = ended - started if ended is not None and started else 0.0
    state = f"{row.state}, {row.status.lower()}"
    return (row.run_id, row.kind, row.label, state, started, duration, row.message)


async def serve(config: Config, ready: Callable[[], None] | None = None) -> None:
    """Run the workflow IOC until it is told to stop."""
    await Workflow(config).serve(ready)
