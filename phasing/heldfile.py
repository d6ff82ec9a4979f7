"""A file for a writer that must never see its disk fail: what the disk refuses is held in memory until it takes it."""

import io
import os
from pathlib import Path
from typing import Any


class HeldFile(io.RawIOBase):
    """A new file, read and written as a stream of bytes, whose writes never fail.

    HDF5 cannot bear a write that fails: it loses the chunk without a word, and may end the process when the file is
    closed. It writes here instead, and its user asks `settle` whether the disk has everything.
    """

    def __init__(self, path: Path) -> None:
        """Create the file. OSError when that cannot be done, or it exists."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._held: list[tuple[int, bytes]] = []
        self._position = self._size = 0

    def settle(self) -> None:
        """Give the disk what it refused before; OSError when it still refuses, which loses nothing."""
        while self._held:
            self._to_disk(*self._held[0])
            self._held.pop(0)
        if os.fstat(self._descriptor).st_size != self._size:
            os.ftruncate(self._descriptor, self._size)

    def close(self) -> None:
        """Let go of the file, and of what the disk refused."""
        if not self.closed:
            os.close(self._descriptor)
            self._descriptor = -1  # a number that is no other file's
        super().close()

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in bytes; returns it."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size in bytes; a larger one reaches the disk in `settle`."""
        size = self._position if size is None else size
        self._held = [(offset, data[: size - offset]) for offset, data in self._held if offset < size]
        if os.fstat(self._descriptor).st_size > size:
            os.ftruncate(self._descriptor, size)
        self._size = size
        return size

    def write(self, data: Any) -> int:
        """Write all of it at the position; returns its length in bytes."""
        view = memoryview(data).cast("B")
        if self._held or not self._taken(view):
            self._held.append((self._position, bytes(view)))
        self._position += len(view)
        self._size = max(self._size, self._position)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position on, with what was written wherever that is; returns its length in bytes."""
        view = memoryview(buffer).cast("B")
        start, length = self._position, max(0, min(len(view), self._size - self._position))
        on_disk = os.pread(self._descriptor, length, start)
        view[:length] = on_disk + bytes(length - len(on_disk))
        for offset, data in self._held:
            first, last = max(offset, start), min(offset + len(data), start + length)
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        self._position += length
        return length

    def _taken(self, view: memoryview) -> bool:
        """Write at the position; False when the disk refuses."""
        try:
            self._to_disk(self._position, view)
        except OSError:
            return False
        return True

    def _to_disk(self, offset: int, data: memoryview | bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset, view = offset + written, view[written:]
