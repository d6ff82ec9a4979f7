"""What the workflow IOC asks of the flow runner: which runs are open, and waiting for one."""

import asyncio
from pathlib import Path

from hpc_bridge.definition import deployable
from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.ports import Json
from hpc_bridge.runner import FlowRunner
from iocs.bridge import Elsewhere
from iocs.record import ActionFailed


def runs_elsewhere(document: Json) -> bool:
    """Whether a document is of a run whose flow runs elsewhere: it names that flow, and holds its document."""
    return "flow_id" in document


class Runs:
    """The runner as the event loop sees it."""

    def __init__(
        self,
        runner: FlowRunner,
        stopping: asyncio.Event,
        *,
        run_flow: Path | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`stopping` is set while the IOC ends: its runs then stay open, and the next start goes on with them.

        `run_flow`: a definition in place of the one shipped for scans. `elsewhere`: runs whole flows, where the runner
        does not. Raises DefinitionError.
        """
        self.runner, self._stopping = runner, stopping
        self._flows = {kind: deployable(kind, run_flow) for kind in ("run", "round")}
        self._elsewhere = elsewhere
        self._ended: dict[str, asyncio.Event] = {}

    def submit(self, kind: str, document: Json, label: str, run_id: str) -> None:
        """Queue a run or round. Raises BridgeError when it cannot be run."""
        flow = self._flows[kind]
        if self._elsewhere is not None:
            flow, document = self._elsewhere.wrapped(kind, document)
        self.runner.submit(flow, document, label, run_id=run_id, kind=kind)

    def open(self, kind: str) -> list[RunRow]:
        """Runs of a kind (`run` or `round`) that have not ended."""
        return [row for row in self.runner.snapshot() if row.kind == kind and not row.status.ended]

    def document(self, run_id: str) -> Json:
        """What a run was given and has found so far, also where its flow runs elsewhere."""
        document = self.runner.document(run_id)
        return dict(document["body"]) if runs_elsewhere(document) else document

    def find(self, run_id: str) -> RunRow | None:
        """A run or round by its id; None where there is none."""
        return next((row for row in self.runner.snapshot() if row.run_id == run_id), None)

    def of_scan(self, scan_id: str) -> str:
        """The newest run of a scan; empty when it had none."""
        rows = self.runner.snapshot()
        return next((row.run_id for row in rows if row.kind == "run" and row.label == scan_id), "")

    def reconstruction(self, run_id: str) -> str:
        """What the compute side calls the reconstruction of a run. Raises ActionFailed where there is none."""
        row = self.find(run_id)
        if row is None or row.kind != "run":
            raise ActionFailed(f"no scan can start from {run_id}: there is no such run")
        if row.status is not RunStatus.SUCCEEDED:
            raise ActionFailed(f"no scan can start from {run_id}: it is {row.status.lower()}")
        return str(self.document(run_id)["reconstruct"]["output"])

    def to_retry(self) -> list[RunRow]:
        """Failed runs and rounds that nothing newer stands for, oldest first.

        A newer run of the same scan file, or a newer round, has done the work or does it now.
        """
        seen: set[str] = set()
        found = []
        for row in self.runner.snapshot():
            work = "round" if row.kind == "round" else self.document(row.run_id)["scan"]["file"]
            if work not in seen and row.status is RunStatus.FAILED:
                found.append(row)
            seen.add(work)
        return found[::-1]

    def ended(self, run_id: str) -> None:
        """Wake who waits for a run."""
        if run_id in self._ended:
            self._ended[run_id].set()

    async def finish(self, run_id: str) -> None:
        """Wait for a run; ActionFailed when it does not succeed, cancelled with it when the put is ended by 0."""
        ended = self._ended.setdefault(run_id, asyncio.Event())
        try:
            while not self._row(run_id).status.ended:  # a failed run may be at work again before this was woken
                await ended.wait()
                ended.clear()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                self.runner.cancel(run_id)
            raise
        finally:
            self._ended.pop(run_id, None)
        row = self._row(run_id)
        if row.status is not RunStatus.SUCCEEDED:
            raise ActionFailed(f"{run_id}: {row.message}")

    def _row(self, run_id: str) -> RunRow:
        row = self.find(run_id)
        assert row is not None, "runs are never forgotten"
        return row
