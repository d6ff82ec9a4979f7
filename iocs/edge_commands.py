"""The way from the edge IOC's event loop to its stream process."""

import logging
import threading
from multiprocessing.connection import Connection

from iocs.edge_messages import Command

log = logging.getLogger("phaseline.edge")


class Commands:
    """Writes commands to a stream process in a thread of its own: one that stands still holds up nothing else.

    Of the commands of one kind that wait to be written only the newest is kept; a newer one says all that the older
    said.
    """

    def __init__(self, pipe: Connection) -> None:
        """Write to `pipe` until it is closed or its reader is gone."""
        self._pipe = pipe
        self._changed = threading.Condition()
        self._waiting: dict[type[Command], Command] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="edge-commands", daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        """Have a command written; never waits."""
        with self._changed:
            self._waiting[type(command)] = command
            self._changed.notify()

    def close(self) -> None:
        """End the thread; only for a process that has ended, for until then it may be in the midst of writing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                command = self._waiting.pop(next(iter(self._waiting)))
            try:
                self._pipe.send(command)
            except OSError:
                log.info("the stream process is gone; it gets its settings when it is started again")
                return
