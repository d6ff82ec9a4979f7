"""Scans in the workflow IOC: checked as a whole, accepted once, queued as runs."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_bridge.documents import Submission, run_document
from hpc_bridge.site import OutsideFolder
from iocs.config import PairsSection, ReconstructSection
from iocs.record import ActionFailed, Refused
from iocs.scan_files import ScanFiles
from iocs.server import IocServer
from iocs.workflow_experiment import Experiment
from iocs.workflow_layout import new_id
from iocs.workflow_pictures import Pictures
from iocs.workflow_runs import Runs
from phasing.errors import PhaselineError
from phasing.scanfile import Scan, read_scan
from phasing.supplement import Supplement
from pvdb import state_name
from pvdb import workflow as pvs


class Scans:
    """The controls of `Scan:` and those of `Flow:` that take a scan."""

    def __init__(
        self,
        ioc: IocServer,
        settings: ReconstructSection,
        pairs: PairsSection,
        files: ScanFiles,
        experiment: Experiment,
        runs: Runs,
        pictures: Pictures,
        judged_by: Callable[[], str | None],
    ) -> None:
        """Register the handlers; `judged_by` gives the checkpoint that a new scan is to be judged by, if any."""
        self._ioc, self._settings, self._pairs = ioc, settings, pairs
        self._files, self._experiment = files, experiment
        self._runs, self._pictures, self._judged_by = runs, pictures, judged_by
        self._accepting = asyncio.Lock()
        ioc.on_action(pvs.SUBMIT, self._submit)
        ioc.on_action(pvs.RUN, self._run)

    async def _submit(self) -> None:
        await self.accept(Path(self._ioc.value(pvs.FILE)))

    async def _run(self) -> None:
        """Submit and wait until the run has ended and its reconstruction is shown; put 0 cancels it."""
        run_id = await self.accept(Path(self._ioc.value(pvs.FILE)))
        await self._runs.finish(run_id)
        await self._pictures.shown()

    def supplement(self, path: Path) -> Supplement:
        """How a scan file is read now."""
        value = self._ioc.value
        return self._files.supplement(path, value(pvs.POSITION_FILE), value(pvs.MAX_MISSING))

    async def accept(self, path: Path, *, once: bool = False, min_frames: int = 1) -> str:
        """Check a scan file as a whole, queue its run and return the run's id.

        `once`: a scan that had a run already, whatever became of it, gets no other; that run's id is returned.
        Refused for a file that is in an open run already and for a scan with fewer frames, ActionFailed with the reason
        for one that cannot be used.
        """
        async with self._accepting:
            try:
                path = path.resolve()
                scan = await asyncio.to_thread(read_scan, path, self.supplement(path))
                if once and (known := self._runs.of_scan(scan.scan_id)):
                    return known
                if scan.num_frames < min_frames:
                    raise Refused(f"{scan.num_frames} frames are too few: {min_frames} are needed")
                self._refuse_doubles(scan)
                run_id = new_id(path.stem)
                submission = Submission(
                    path,
                    scan.scan_id,
                    self._experiment.lineage_of(scan.geometry),
                    scan.siblings,
                    scan.supplement,
                    self._experiment.set_up_of(scan.geometry),
                    shared=bool(self._ioc.value(pvs.SHARE)),
                )
                pairs = {**self._pairs.model_dump(), "judged_by": self._judged_by()}
                document = run_document(self._experiment.site, run_id, submission, self._retrieval_settings(), pairs)
                self._runs.submit("run", document, scan.scan_id, run_id)
            except Refused:
                raise
            except OutsideFolder as error:
                raise ActionFailed(f"{error}: set workflow.scans to where scans lie") from error
            except PhaselineError as error:
                raise ActionFailed(str(error)) from error
        self._tell(scan, run_id, submission)
        return run_id

    def _refuse_doubles(self, scan: Scan) -> None:
        for row in self._runs.open("run"):
            if self._runs.document(row.run_id)["scan"]["file"] == str(scan.path):
                raise Refused(f"{scan.path.name} is already in run {row.run_id}")

    def _tell(self, scan: Scan, run_id: str, submission: Submission) -> None:
        self._ioc.post(pvs.SCAN_ID, scan.scan_id)
        self._ioc.post(pvs.LAST_ACCEPTED, str(scan.path))
        for pv in (pvs.POSITION_FILE, pvs.FORMER_RUN):  # the next scan has another
            self._ioc.post(pv, "")
        text = f"{scan.path.name} accepted as run {run_id}, {scan.num_frames} frames"
        if scan.num_left_out:
            text += f" ({scan.num_left_out} more have no position)"
        if submission.lineage != self._experiment.lineage:
            different = ", ".join(scan.geometry.differences(self._experiment.geometry))
            if self._experiment.follow(scan.geometry, float(scan.time_s[-1])):
                text += f"; lineage {submission.lineage} goes on from here, for the geometry is another: {different}"
            else:
                text += (
                    f"; trained on with its own lineage alone, for it is older and its geometry another: {different}"
                )
        self._ioc.tell(pvs.SCAN_MESSAGE, text)

    def _retrieval_settings(self) -> dict[str, Any]:
        value, settings = self._ioc.value, self._settings
        engine = state_name(pvs.RECON_ENGINE, value(pvs.RECON_ENGINE))
        former = value(pvs.FORMER_RUN)
        return {
            "engine": engine,
            "num_gpus": settings.num_gpus if engine == "tike" else 1,
            "num_epochs": value(pvs.NUM_EPOCHS),
            "num_modes": value(pvs.NUM_MODES),
            "batch_size": value(pvs.RECON_BATCH),
            "defocus_m": settings.defocus_m,
            "preview_every": settings.preview_every,
            "seed": settings.seed,
            "half_scans": settings.half_scans,
            **({"former": self._runs.reconstruction(former)} if former else {}),
        }
