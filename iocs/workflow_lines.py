"""Lines that jobs write about their progress: at once where their files are this machine's, else from a thread."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from hpc_bridge.ports import Json
from hpc_bridge.progress import ProgressReader
from hpc_bridge.remote_files import FileReader
from phasing.errors import PhaselineError

log = logging.getLogger("phaseline.workflow")


class JobLines:
    """What is new in the progress files of runs."""

    def __init__(self, files: FileReader, *, is_remote: bool) -> None:
        """`files` reads them; where that `is_remote`, it may wait, and is left to a thread."""
        self._files, self.is_remote = files, is_remote
        self._readers: dict[tuple[str, str], ProgressReader] = {}
        self._asked: dict[tuple[str, str], Future[list[Json]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="progress") if is_remote else None

    def new(self, run_id: str, path: str) -> list[Json]:
        """Return the lines of a run's file that were not returned before; from afar, those that have come by now."""
        key = (run_id, path)
        reader = self._readers.setdefault(key, ProgressReader(path, self._files))
        if self._thread is None:
            return reader.read()
        found: list[Json] = []
        asked = self._asked.get(key)
        if asked is not None and asked.done():
            found = asked.result()
            del self._asked[key]
        if key not in self._asked:
            self._asked[key] = self._thread.submit(_read, reader)
        return found

    def last(self, run_id: str, path: str, take: Callable[[list[Json]], object]) -> None:
        """Hand over what is left of a file whose job has ended: at once, or from the thread when it has come."""
        key = (run_id, path)
        reader = self._readers.setdefault(key, ProgressReader(path, self._files))
        if self._thread is None:
            take(reader.read())
            return
        before = self._asked.pop(key, None)
        self._thread.submit(lambda: take((before.result() if before else []) + _read(reader)))

    def forget(self, run_id: str) -> None:
        """Drop what is kept of a run that has ended."""
        self._readers = {key: reader for key, reader in self._readers.items() if key[0] != run_id}
        self._asked = {key: asked for key, asked in self._asked.items() if key[0] != run_id}

    def stop(self) -> None:
        """Ask nothing more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)


def _read(reader: ProgressReader) -> list[Json]:
    try:
        return reader.read()
    except (OSError, PhaselineError) as error:  # the job itself tells whether it failed
        log.info("progress cannot be read: %s", error)
        return []
