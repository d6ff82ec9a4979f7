"""The file below a recording: room is reserved before a flush, so that the disk takes all of it or nothing."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from phasing.heldfile import HeldFile

CHUNK_BYTES = 2**20
"""About the bytes of a chunk of predictions: what HDF5 writes at a time."""


class RecordingDisk(HeldFile):
    """A held file that is locked while its writer lives, has room reserved for a flush, and can be left as it is."""

    def __init__(self, path: Path) -> None:
        """Create the file, as HeldFile does, and lock it."""
        super().__init__(path)
        self._diverted = False
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)  # shared: who reads the file locks it so too

    @property
    def size_bytes(self) -> int:
        """How large the file is, with what the disk does not have yet."""
        return self._size

    def reserve(self, num_bytes: int) -> None:
        """Have the file system set aside room around the end of the file, so that it cannot refuse half a flush."""
        start = max(0, self._size - CHUNK_BYTES)
        os.posix_fallocate(self._descriptor, start, self._size + num_bytes - start)

    def write_back(self) -> None:
        """Have the disk begin with what the operating system still holds, so that no fsync waits long."""
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def divert(self) -> None:
        """From now on keep everything written from the disk."""
        self._diverted = True

    def truncate(self, size: int | None = None) -> int:
        """As in HeldFile; of a diverted file, without the disk."""
        if self._diverted:
            self._size = self._position if size is None else size
            return self._size
        return super().truncate(size)

    def _taken(self, view: memoryview) -> bool:
        return not self._diverted and super()._taken(view)
