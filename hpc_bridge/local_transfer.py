"""Globus Transfer's body carried out on this machine: endpoints are names of configured roots."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hpc_bridge.actions import ActionStore, StoredProvider
from hpc_bridge.copying import confined, copy
from hpc_bridge.errors import BridgeError, Cancelled, TaskFailed
from hpc_bridge.ports import ActionState, Json
from hpc_bridge.transfer_body import check_body, check_item

TRANSFER_URL = "https://transfer.actions.globus.org/transfer"


@dataclass
class _Copying:
    """One running transfer; written by its thread, read by whoever asks for its status."""

    files_total: int
    bytes_total: int = 0
    bytes_transferred: int = 0
    files_done: int = 0
    begun_s: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def details(self) -> Json:
        """Return the progress: bytes, files and the mean rate in bytes/s."""
        seconds = max(time.monotonic() - self.begun_s, 1e-6)
        return {
            "bytes_transferred": self.bytes_transferred,
            "bytes_total": self.bytes_total,
            "files_done": self.files_done,
            "files_total": self.files_total,
            "rate_bytes_per_s": self.bytes_transferred / seconds,
        }


class LocalTransfer(StoredProvider):
    """Copies files between roots; a transfer that was running when the process died goes on where it was."""

    def __init__(self, roots: Mapping[str, Path], path: Path, *, max_active: int = 2) -> None:
        """Serve the roots by endpoint name, remembering actions at ``path``.

        Raises BackendUnavailable when another process holds the store.
        """
        super().__init__(ActionStore(path))
        self._roots = dict(roots)
        self._copying: dict[str, _Copying] = {}
        self._threads = ThreadPoolExecutor(max_workers=max_active, thread_name_prefix="transfer")
        for action in self._store.unfinished():
            self.begin(action.action_id, action.body)

    def check(self, body: Json) -> None:
        """Raise TaskFailed naming what is missing, unknown or outside the roots."""
        check_body(body)  # its options change nothing: every copy is verified, synced and keeps its part file
        self._pairs(body)

    def begin(self, action_id: str, body: Json) -> None:
        """Queue the copy."""
        self._copying[action_id] = _Copying(len(body["DATA"]))
        self._threads.submit(self._transfer, action_id, body)

    def progress(self, action_id: str) -> Json:
        """Return bytes_transferred, bytes_total, files_done, files_total and rate_bytes_per_s."""
        copying = self._copying.get(action_id)
        return copying.details() if copying else {}

    def halt(self, action_id: str) -> None:
        """Stop at the next chunk; the part file stays for a later attempt."""
        self._store.fail(action_id, Cancelled("the transfer was cancelled"))
        if copying := self._copying.get(action_id):
            copying.cancelled.set()

    def stop(self) -> None:
        """Stop copying at the next chunk and close; open transfers go on at the next start."""
        for copying in list(self._copying.values()):
            copying.cancelled.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._store.close()

    def _transfer(self, action_id: str, body: Json) -> None:
        copying = self._copying[action_id]
        try:
            digests = self._copy_all(body, copying)
        except Cancelled:
            return  # either recorded by halt, or left open by stop
        except BridgeError as error:
            self._store.fail(action_id, error, **copying.details())
        else:
            self._store.end(action_id, ActionState.SUCCEEDED, {**copying.details(), "sha256": digests})
        finally:
            self._copying.pop(action_id, None)

    def _copy_all(self, body: Json, copying: _Copying) -> list[str]:
        pairs = self._pairs(body)
        copying.begun_s = time.monotonic()
        copying.bytes_total = sum(_size(source) for source, _ in pairs)
        digests = []
        for source, destination in pairs:
            before = copying.bytes_transferred

            def report(done: int, before: int = before) -> None:
                copying.bytes_transferred = before + done

            digests.append(copy(source, destination, report=report, cancelled=copying.cancelled.is_set))
            copying.files_done += 1
        return digests

    def _pairs(self, body: Json) -> list[tuple[Path, Path]]:
        source, destination = self._root(body["source_endpoint"]), self._root(body["destination_endpoint"])
        return [_pair(item, source, destination) for item in body["DATA"]]

    def _root(self, endpoint: object) -> Path:
        if endpoint not in self._roots:
            raise TaskFailed(f"there is no endpoint {endpoint!r} (known: {', '.join(sorted(self._roots))})")
        return self._roots[str(endpoint)]


def _pair(item: object, source: Path, destination: Path) -> tuple[Path, Path]:
    named = check_item(item)
    if named.get("recursive"):
        raise TaskFailed("copying whole folders is not possible here: name the files")
    return confined(source, str(named["source_path"])), confined(destination, str(named["destination_path"]))


def _size(source: Path) -> int:
    try:
        if not source.is_file():
            raise TaskFailed(f"{source} is {'not a file' if source.exists() else 'missing'}")
        return source.stat().st_size
    except OSError as error:
        raise TaskFailed(f"cannot read {source}: {error.strerror}") from error
