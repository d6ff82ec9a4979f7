"""Copying one file so that it is there whole or not at all: checksum, resume, fsync, rename."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hpc_bridge.errors import Cancelled, TaskFailed
from phasing.files import fsync

CHUNK_BYTES = 1 << 22
Report = Callable[[int], None]


def confined(root: Path, path: str) -> Path:
    """Return where a collection's path lies on the disk. Raises TaskFailed when that is outside the root."""
    relative = Path(path.lstrip("/"))
    if "\0" in path or ".." in relative.parts or not relative.parts:
        raise TaskFailed(f"the path {path!r} is not inside its root")
    found = (root / relative).resolve()
    if not found.is_relative_to(root.resolve()):
        raise TaskFailed(f"the path {path!r} leads out of its root")
    return found


def copy(source: Path, destination: Path, *, report: Report, cancelled: Callable[[], bool]) -> str:
    """Copy a file and return its sha256 in hex.

    ``destination.part`` holds what has arrived; what is already there is kept when it agrees with the source.
    ``report`` gets the number of bytes that agree with the source so far. Raises TaskFailed when the source is not a
    file, changes meanwhile, or does not arrive as it was read; Cancelled when ``cancelled()`` turns true.
    """
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as reading, _open_part(part) as writing:
            before = _identity(os.fstat(reading.fileno()))
            digest = _append(reading, writing, report, cancelled)
            if _identity(source.stat()) != before:
                part.unlink()
                raise TaskFailed(f"{source} changed while it was copied")
            _verify(part, digest)
            part.replace(destination)
            fsync(destination.parent)
    except OSError as error:
        raise TaskFailed(f"cannot copy {source} to {destination}: {error.strerror}") from error
    return digest


def _open_part(part: Path) -> BinaryIO:
    handle = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+b")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise TaskFailed(f"{part} is being written by another transfer") from error
    return handle


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _append(reading: BinaryIO, writing: BinaryIO, report: Report, cancelled: Callable[[], bool]) -> str:
    """Keep the leading chunks that agree with the source, write the rest, and return the source's sha256."""
    digest = hashlib.sha256()
    size = os.fstat(reading.fileno()).st_size
    done = 0
    keeping = True
    # no further than its size at the start: a file that grows is refused afterwards, not followed
    while chunk := reading.read(min(CHUNK_BYTES, size - done)):
        if cancelled():
            raise Cancelled("the transfer was cancelled")
        digest.update(chunk)
        keeping = keeping and writing.read(len(chunk)) == chunk
        if not keeping:
            writing.seek(done)
            writing.write(chunk)
        done += len(chunk)
        report(done)
    writing.flush()
    if os.fstat(writing.fileno()).st_size > done:
        writing.truncate(done)
    os.fsync(writing.fileno())
    return digest.hexdigest()


def _verify(part: Path, digest: str) -> None:
    with part.open("rb") as written:
        found = hashlib.file_digest(written, "sha256").hexdigest()
    if found != digest:
        part.unlink()
        raise TaskFailed(f"{part} does not hold what was read from the source")
