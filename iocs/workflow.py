"""The workflow IOC: scans, runs, phase retrieval, training rounds and models, from PVs to the bridge and back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.mailbox import Mailbox
from hpc_bridge.runner import FlowRunner
from iocs import workflow_disk
from iocs.background import kept_up
from iocs.config import Config
from iocs.live_maps import fetch_map
from iocs.record import Refused
from iocs.scan_files import ScanFiles
from iocs.server import IocServer
from iocs.stream import StreamServer
from iocs.workflow_auto import AutoSubmit, Trigger
from iocs.workflow_bridge import make_bridge
from iocs.workflow_disk import Disk
from iocs.workflow_enough import Enough
from iocs.workflow_excluded import Excluded
from iocs.workflow_experiment import KEPT, Experiment
from iocs.workflow_kept import KeptSetpoints
from iocs.workflow_layout import Layout
from iocs.workflow_lines import JobLines
from iocs.workflow_mail import Mail
from iocs.workflow_models import Models
from iocs.workflow_pictures import Pictures
from iocs.workflow_progress import Progress
from iocs.workflow_registry import RegistryControls
from iocs.workflow_rounds import Rounds
from iocs.workflow_runs import Runs
from iocs.workflow_scans import Scans
from iocs.workflow_table import RunTable
from iocs.workflow_tidy import Tidying
from phasing.errors import PhaselineError
from phasing.store import Registry
from pvdb import Severity
from pvdb import workflow as pvs
from pvdb.edge import MAP as LIVE_MAP

log = logging.getLogger("phaseline.workflow")

FOLLOW_PERIOD_S = 0.2
LIVE_MAP_S = 3.0
"""How long the edge is waited for: it may be away, and later pictures wait meanwhile."""
LIMITS = {pvs.MAX_TRANSFERS: "Transfer", pvs.MAX_RECONSTRUCTIONS: "Reconstruct"}
"""Setpoints that limit how many actions of a state go on at once."""


class Workflow:
    """Owns the flow runner and its providers; every control and state is a PV."""

    def __init__(self, config: Config) -> None:
        """Open journal and registry and start the workers; nothing runs or is served yet."""
        self._config = config
        self._layout = Layout.below(config.root, config.scans)
        ioc = self._ioc = IocServer("workflow", "Workflow", config.prefix)
        self._show_settings()
        switches = (pvs.GATE, pvs.STANDBY, pvs.AUTO, pvs.MAX_RUNS, *LIMITS, *KEPT)
        kept = KeptSetpoints(ioc, self._layout.switches, *switches)
        self._streams = StreamServer([ioc.name(pv) for pv in (pvs.RECON_IMAGE, pvs.DIFFERENCE, pvs.TRAIN_IMAGE)])
        bridge = self._bridge = make_bridge(config, self._layout, lambda made: self._models.register(made))
        live_map = partial(fetch_map, f"{config.prefix}{LIVE_MAP.name}", timeout_s=LIVE_MAP_S)
        self._pictures = Pictures(ioc, self._streams, bridge.files, live_map)
        lines = self._lines = JobLines(bridge.files, is_remote=bridge.is_remote)
        self._enough = Enough(ioc, self._layout.journal / "enough.json", kept, rest=bridge.rest)
        self._progress = Progress(
            ioc, self._pictures, lambda run_id: self._runner.document(run_id), lines, self._enough.judged
        )
        self._runner = FlowRunner(
            self._layout.journal / "flows.sqlite",
            self._bridge.providers,
            max_active={"run": ioc.value(pvs.MAX_RUNS)},
            limits={state: ioc.value(pv) for pv, state in LIMITS.items()},
            trouble=self._troubled,
        )
        ioc.listen(pvs.MAX_RUNS, lambda number: self._runner.set_max_active("run", number))
        for pv, state in LIMITS.items():
            ioc.listen(pv, partial(self._runner.set_limit, state))
        self._runner.subscribe(self._heard)
        self._runs = Runs(self._runner, ioc.stopping, run_flow=config.bridge.run_flow, elsewhere=bridge.flows)
        self._experiment = Experiment(
            ioc, config, self._bridge, self._runs, kept, self._layout.journal / "geometry.json"
        )
        self._excluded = Excluded(ioc, self._layout.journal / "excluded.json", self._runs)
        registry = Registry(self._layout.registry)
        self._controls = RegistryControls(ioc, config, self._layout, registry)
        self._models = Models(
            ioc,
            registry,
            self._experiment.lineage,
            prefix=config.prefix,
            margin=config.train.gate_margin,
            scan_margin=config.train.gate_scan_margin,
            edge_timeout_s=config.workflow.edge_timeout_s,
            trusted=self._enough.trusted,
        )
        self._experiment.on_change(lambda: self._models.follow(self._experiment.lineage))
        files = ScanFiles(config, config.geometry.geometry())
        self._scans = Scans(
            ioc, config.reconstruct, config.pairs, files, self._experiment, self._runs, self._pictures, self._judged_by
        )
        self._trigger = Trigger(config.auto.when, *config.auto_pvs)
        self._auto = AutoSubmit(
            ioc,
            config.auto,
            self._trigger,
            self._scans,
            self._layout.scans,
            self._layout.journal / "auto.json",
        )
        parts = (self._experiment, self._runs, self._models, self._progress)
        self._rounds = Rounds(ioc, self._layout, *parts, self._excluded, config.train)
        self._excluded.on_change(self._rounds.begin_if_due)
        self._experiment.on_change(self._rounds.begin_if_due)
        self._table = RunTable(ioc, self._runner)
        self._disk = Disk(ioc, self._runner, self._layout.journal / "held-by-disk")
        self._tidying = Tidying(ioc, config.retention, self._experiment, self._runs)
        self._mail = Mail(ioc, Mailbox(self._layout.inbox), self._models.register)
        ioc.post(pvs.HOLD, int(self._runner.held))
        ioc.on_action(pvs.CANCEL, self._cancel)
        ioc.on_action(pvs.RETRY, self._retry)
        ioc.on_set(pvs.HOLD, self._hold)
        ioc.listen(pvs.HOLD, lambda on: self._table.show())

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until told to stop; running work is resumed at the next start."""
        self._runner.start()
        self._table.show()
        self._rounds.resume()
        tasks = [asyncio.create_task(self._every(period_s, step)) for period_s, step in self._periodic()]
        tasks += [asyncio.create_task(kept_up(serve, failed)) for serve, failed in self._background()]
        try:
            await self._ioc.serve(ready)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._stop)

    def _background(self) -> Iterator[tuple[Callable[[], Awaitable[None]], Callable[[str], None]]]:
        """What is served beside the PVs, and who tells when it fails."""
        for served, message in (
            (self._mail, pvs.MODEL_MESSAGE),
            (self._auto, pvs.SCAN_MESSAGE),
            (self._tidying, pvs.TRANSFER_MESSAGE),
        ):
            yield served.serve, partial(self._ioc.tell, message, severity=Severity.MAJOR)

    def _stop(self) -> None:
        self._trigger.close()
        self._runner.stop()
        self._bridge.stop()
        self._models.close()
        self._lines.stop()
        self._pictures.stop()
        self._streams.stop()

    def _show_settings(self) -> None:
        """Show where the setpoints start, before anybody listens to them."""
        config, post = self._config, self._ioc.post
        workflow = config.workflow
        post(pvs.AUTO, int(config.auto.on))
        post(pvs.MAX_MISSING, config.scan_files.max_missing)
        post(pvs.MAX_RUNS, workflow.runs_at_once)
        post(pvs.MAX_TRANSFERS, workflow.transfers_at_once)
        post(pvs.MAX_RECONSTRUCTIONS, workflow.reconstructions_at_once or workflow.reconstruct_workers)
        post(pvs.RECON_ENGINE, pvs.RECON_ENGINE.states.index(config.reconstruct.engine))
        post(pvs.NUM_EPOCHS, config.reconstruct.num_epochs)
        post(pvs.NUM_MODES, config.reconstruct.num_modes)
        post(pvs.RECON_BATCH, config.reconstruct.batch_size)
        post(pvs.MAX_FOURIER_ERROR, config.reconstruct.max_fourier_error)
        post(pvs.MIN_RING_CORRELATION, config.reconstruct.min_ring_correlation)
        post(pvs.EPOCHS, config.train.num_epochs)
        post(pvs.TARGET, config.train.target_rad)
        post(pvs.TARGET_SCANS, config.train.target_scans)
        post(pvs.TRUST_FACTOR, config.train.trust_factor)
        post(pvs.TRAINING_SET, ("all", "last", "reservoir").index(config.train.training_set))
        post(pvs.LAST_SCANS, config.train.last_scans)
        post(pvs.RESERVOIR, config.train.reservoir_frames)

    def _judged_by(self) -> str | None:
        """The weights that new scans are judged by, where the compute side sees them and somebody wants to know."""
        parent = self._models.parent if self._ioc.value(pvs.TARGET) and self._experiment.site.shared else None
        return None if parent is None else str(parent.checkpoint)

    async def _cancel(self) -> None:
        for row in self._selected() or self._runs.open("run"):
            self._runner.cancel(row.run_id)

    async def _retry(self) -> None:
        failed = self._selected() or self._runs.to_retry()
        if not failed:
            raise Refused("no run has failed")
        for row in failed:
            self._runner.retry(row.run_id)

    def _selected(self) -> list[RunRow]:
        """The run that Flow:Selected names; none where it is empty. Refused for a run that is not there."""
        run_id = str(self._ioc.value(pvs.SELECTED_RUN))
        if not run_id:
            return []
        row = self._runs.find(run_id)
        if row is None:
            raise Refused(f"there is no run {run_id}")
        return [row]

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
            self._progress.moved(row)
        except (OSError, PhaselineError) as error:
            self._ioc.tell(pvs.FLOW_MESSAGE, f"{row.run_id} cannot be shown: {error}", Severity.MINOR)
        self._table.take(row)
        if row.status.ended:
            self._runs.ended(row.run_id)
            self._tidying.run_ended()
            if row.status is RunStatus.SUCCEEDED:
                text = "training round done" if row.kind == "round" else "reconstructed, training pairs made"
                self._ioc.tell(pvs.FLOW_MESSAGE, f"{row.run_id}: {text}")
            elif row.status is RunStatus.CANCELLED:
                self._ioc.tell(pvs.FLOW_MESSAGE, f"{row.run_id} cancelled in {row.state}")
            self._rounds.begin_if_due()

    def _periodic(self) -> list[tuple[float, Callable[[], None]]]:
        return [(FOLLOW_PERIOD_S, self._follow), (workflow_disk.PERIOD_S, self._look_at_disk)]

    async def _every(self, period_s: float, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
            except Exception as error:
                log.debug("progress", exc_info=error)
                self._ioc.tell(pvs.FLOW_MESSAGE, f"progress cannot be shown: {error}", Severity.MINOR)
            await asyncio.sleep(period_s)

    def _follow(self) -> None:
        consent_url = ""
        for row in self._table.active:
            current = self._runner.current(row.run_id)
            details = dict(current.details) if current else {}
            self._progress.follow(row, details)
            consent_url = consent_url or details.get("consent_url", "")
        if self._ioc.value(pvs.CONSENT_URL) != consent_url:
            severity = Severity.MAJOR if consent_url else Severity.NO_ALARM
            self._ioc.post(pvs.CONSENT_URL, consent_url, severity=severity)

    def _look_at_disk(self) -> None:
        self._disk.look(self._experiment.site.root)


async def serve(config: Config, ready: Callable[[], None] | None = None) -> None:
    """Run the workflow IOC until it is told to stop."""
    await Workflow(config).serve(ready)
