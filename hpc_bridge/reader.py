"""What anybody may ask of the runs: read from the disk, so that it is as true after a restart as before."""

from hpc_bridge.errors import BridgeError
from hpc_bridge.journal import ActionRow, Journal, RunRow, RunStatus
from hpc_bridge.ports import Json


class RunReader:
    """Rows, counts, documents and actions of the runs in a journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def snapshot(self, limit: int = 1000) -> list[RunRow]:
        """Return the newest runs, the newest first."""
        return self._journal.rows(limit)

    def counts(self) -> dict[RunStatus, int]:
        """Return how many runs there are of each status."""
        return self._journal.counts()

    def document(self, run_id: str) -> Json:
        """Return a run's input together with the results so far. Raises BridgeError for an unknown id."""
        document = self._journal.document(run_id)
        if document is None:
            raise BridgeError(f"there is no run {run_id}")
        return document

    def actions(self, run_id: str) -> list[ActionRow]:
        """Return the run's actions in the order in which they began, every attempt its own row."""
        return self._journal.actions(run_id)
