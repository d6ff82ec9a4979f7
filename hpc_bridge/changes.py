"""Telling others what changed about the runs: in order, outside the lock under which it changed, once each."""

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


class Trouble:
    """What keeps all runs from going on; empty while nothing does."""

    def __init__(self, callback: Callable[[str], None]) -> None:
        self._callback = callback
        self._text = ""

    def set(self, text: str) -> None:
        """Tell a text that is another than before."""
        if text == self._text:
            return
        self._text = text
        logger.warning("%s", text or "the runs go on")
        try:
            self._callback(text)
        except Exception:  # a listener's mistake must not stop the runs
            logger.exception("nobody could be told: %s", text)
