"""The folder of recordings: the oldest make way for new ones, and what a killed writer left gets its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from phasing.errors import PhaselineError
from phasing.files import appear
from phasing.recording import is_being_written, is_recording
from phasing.scanwriter import part_path

_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z_[A-Za-z0-9._-]*\.h5")
_SCAN_CHARACTERS = 40


class QuotaExceeded(PhaselineError):
    """A recording that does not fit into the quota of all recordings, even alone."""


class RecordingFolder:
    """Recordings of one folder, kept below quota_bytes in sum; files that are not recordings are never touched.

    A recording is a file that is named like one and says inside that it is one. Used by one thread at a time. The
    methods raise OSError when the folder cannot be made, read or written to.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        """Look at nothing yet."""
        self.folder = folder
        self.quota_bytes = quota_bytes
        self._finished: dict[Path, int] = {}
        self._used_bytes = 0

    @property
    def used_bytes(self) -> int:
        """What the finished recordings take."""
        return self._used_bytes

    def refresh(self) -> list[str]:
        """Make the folder if need be, see which recordings it holds, and name those that writers left.

        Returns why something was left alone, a line each.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        left_alone = list(self._name_parts())
        found = sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        ours = [path for path in found if path in self._finished or is_recording(path)]
        self._finished = {path: path.stat().st_size for path in ours}
        self._used_bytes = sum(self._finished.values())
        return left_alone

    def new_path(self, name: str) -> Path:
        """Name the next recording: the time, then what can be in a file's name of `name`."""
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:_SCAN_CHARACTERS]
        while True:
            path = self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}_{safe}.h5"
            if not path.exists() and not part_path(path).exists():
                return path

    def make_room(self, own_bytes: int) -> list[Path]:
        """Delete the oldest recordings until own_bytes more stay within the quota; returns which.

        QuotaExceeded, and none deleted, for what does not fit even alone.
        """
        if own_bytes > self.quota_bytes:
            raise QuotaExceeded(f"{own_bytes} bytes are more than the quota of recordings, {self.quota_bytes} bytes")
        deleted = []
        while self._used_bytes + own_bytes > self.quota_bytes:
            oldest = min(self._finished)
            oldest.unlink(missing_ok=True)
            self._used_bytes -= self._finished.pop(oldest)
            deleted.append(oldest)
        return deleted

    def add(self, path: Path) -> None:
        """Count a recording that was finished."""
        self._finished[path] = path.stat().st_size
        self._used_bytes += self._finished[path]

    def _name_parts(self) -> Iterator[str]:
        for part in sorted(self.folder.glob("*.h5.part")):
            path = part.with_suffix("")
            if not _NAME.fullmatch(path.name) or is_being_written(part):
                continue
            if not is_recording(part):
                yield f"{part} cannot be opened and is left alone"
            elif path.exists():
                yield f"{part} is left alone, as {path.name} exists"
            else:
                appear(part, path)
