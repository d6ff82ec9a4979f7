"""Telling subscribers which runs changed, in order, and outside the lock under which they changed."""

import logging
from collections import deque
from collections.abc import Callable

from hpc_bridge.journal import RunRow

logger = logging.getLogger(__name__)


class Changes:
    """A queue of changed runs: added by any thread, published by one."""

    def __init__(self) -> None:
        self._rows: deque[RunRow] = deque()
        self._callbacks: list[Callable[[RunRow], None]] = []

    def subscribe(self, callback: Callable[[RunRow], None]) -> None:
        """Call back with every run that is published from now on."""
        self._callbacks.append(callback)

    def add(self, row: RunRow) -> None:
        """Note that a run changed."""
        self._rows.append(row)

    def publish(self) -> None:
        """Call every subscriber with every run noted so far."""
        while self._rows:
            row = self._rows.popleft()
            for callback in self._callbacks:
                try:
                    callback(row)
                except Exception:  # a subscriber's mistake must not stop the runs
                    logger.exception("a subscriber failed on run %s", row.run_id)
