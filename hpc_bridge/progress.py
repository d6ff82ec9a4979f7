"""Progress of a job as JSON lines in a file: written while it runs, read by whoever can see the file.

Every line holds ``t`` (Unix seconds) and ``event``. A job begun again appends: a ``started`` line opens its attempt.
"""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc_bridge.ports import Json
from hpc_bridge.remote_files import FileReader, LocalFiles


class ProgressWriter:
    """Appends lines that are visible to readers as soon as they are written; with no path it writes nothing."""

    def __init__(self, path: Path | None) -> None:
        """Open the file for appending. Raises OSError."""
        self._file: int | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            _end_cut_line(path, self._file)

    def write(self, event: str, **values: Any) -> None:
        """Append one line; the values are numbers, text or lists of them."""
        if self._file is not None:
            line = json.dumps({"t": time.time(), "event": event, **values}, allow_nan=False)
            os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "ProgressWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ProgressReader:
    """Returns the lines that were added since the last read."""

    def __init__(self, path: str | Path, files: FileReader | None = None) -> None:
        """Remember the path, and who reads it: by default this machine. The file need not exist yet."""
        self._path, self._files = str(path), files or LocalFiles()
        self._offset = 0

    def read(self) -> list[Json]:
        """Return the new whole lines; a line that is still being written comes with the next read.

        Lines cut short by a kill are passed over. Raises OSError and BackendUnavailable.
        """
        try:
            text = self._files.read(self._path, self._offset)
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [line for line in map(_parse, whole.splitlines()) if line is not None]


def _end_cut_line(path: Path, file: int) -> None:
    """End the line that a killed attempt left half-written, so that ours stands on its own."""
    with path.open("rb") as written:
        if written.seek(0, os.SEEK_END) and (written.seek(-1, os.SEEK_END), written.read(1))[1] != b"\n":
            os.write(file, b"\n")


def _parse(line: bytes) -> Json | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None
