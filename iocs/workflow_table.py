"""Counts, state and table of runs and rounds on the PVs of `Flow:`."""

from typing import Any

from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.runner import FlowRunner
from iocs.server import IocServer
from pvdb import workflow as pvs

IDLE, ACTIVE, HOLD, FAILED = range(4)
SHOWN_ROWS = 100
_COUNTED = {
    pvs.ACTIVE_RUNS: RunStatus.ACTIVE,
    pvs.QUEUED_RUNS: RunStatus.QUEUED,
    pvs.SUCCEEDED_RUNS: RunStatus.SUCCEEDED,
    pvs.FAILED_RUNS: RunStatus.FAILED,
}


class RunTable:
    """The runs as told by the runner, so that no count comes before its message."""

    def __init__(self, ioc: IocServer, runner: FlowRunner) -> None:
        """Take over the rows of the journal."""
        self._ioc, self._runner = ioc, runner
        self._rows = {row.run_id: row for row in reversed(runner.snapshot())}

    def take(self, row: RunRow) -> None:
        """Note a run that changed, and show it."""
        self._rows[row.run_id] = row
        self.show()

    @property
    def active(self) -> list[RunRow]:
        """Runs and rounds at work, the oldest first."""
        return [row for row in self._rows.values() if row.status is RunStatus.ACTIVE]

    def show(self) -> None:
        """Post counts, state and table."""
        rows = list(reversed(self._rows.values()))
        runs = [row for row in rows if row.kind == "run"]
        for pv, status in _COUNTED.items():
            number = sum(row.status is status for row in runs)
            if self._ioc.value(pv) != number:
                self._ioc.post(pv, number)
        self._ioc.post(pvs.FLOW_STATE, self._state(rows))
        self._ioc.post(pvs.FLOW_TABLE, [_table_row(row) for row in rows[:SHOWN_ROWS]])

    def _state(self, rows: list[RunRow]) -> int:
        if self._runner.held:
            return HOLD
        if any(not row.status.ended for row in rows):
            return ACTIVE
        ended = [row for row in rows if row.ended_s is not None]
        last = max(ended, key=lambda row: row.ended_s or 0.0, default=None)
        return FAILED if last is not None and last.status is RunStatus.FAILED else IDLE


def _table_row(row: RunRow) -> tuple[Any, ...]:
    started, ended = row.started_s or 0.0, row.ended_s
    duration = ended - started if ended is not None and started else 0.0
    state = f"{row.state}, {row.status.lower()}"
    return (row.run_id, row.kind, row.label, state, started, duration, row.message)
