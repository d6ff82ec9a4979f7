"""Positions in a file, which may appear, grow and be replaced while frames come."""

import threading
from collections.abc import Callable
from dataclasses import replace
from time import time

import numpy as np

from iocs.config import PositionSection
from iocs.edge_messages import Note
from iocs.edge_placement import NOT_YET, Placement, placed
from iocs.stream import NdFrame
from phasing.positionfile import PositionFile, PositionFileError, PositionTable
from pvdb import Severity

FILE_LOOK_S = 1.0


class FilePositions:
    """Positions in a file, by frame id; the file may appear, grow and be replaced while frames come."""

    def __init__(self, section: PositionSection, note: Callable[[Note], None]) -> None:
        """Read the file if it is there, and look at it again in a thread; what is wrong with it is noted."""
        assert section.file is not None, "the section is complete"
        self._section, self._note = section, note
        self._path = section.file
        self._file = PositionFile(section.file, x=section.x, y=section.y, unique_id=section.unique_id)
        self._table: PositionTable | None = None
        self._signature: tuple[int, ...] | None = None
        self._is_read_whole = False
        self._wrong = ""
        self._closing = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._work, name="positions file", daemon=True)
        self._thread.start()

    def find(self, frame: NdFrame) -> Placement:
        """The position of the frame's id; not yet where the file does not have it, for it may still be written."""
        table = self._table
        position_m = None if table is None else table.find(frame.unique_id)
        return NOT_YET if position_m is None else Placement(position_m, True)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closing.wait(FILE_LOOK_S):
            self._look()

    def _look(self) -> None:
        """Read the file if it changed; what did not change since the last look is at rest."""
        try:
            stat = self._path.stat()
        except OSError as error:
            self._signature = None
            self._say(f"{self._path}: {error.strerror}")
            return
        signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        is_at_rest = signature == self._signature or (self._signature is None and stat.st_mtime < time() - FILE_LOOK_S)
        if signature == self._signature and self._is_read_whole:
            return
        self._signature, self._is_read_whole = signature, is_at_rest
        try:
            table = self._file.read(may_grow=True, at_rest=is_at_rest)
            if table is not None:
                self._take(table)
        except PositionFileError as error:
            self._say(str(error))

    def _take(self, table: PositionTable) -> None:
        if table.counted:
            raise PositionFileError(f"{self._path}: it has no frame ids")
        with np.errstate(over="ignore", invalid="ignore"):
            y_m, x_m = placed(self._section, table.yx[:, 0], table.yx[:, 1])
        position_m = np.stack([y_m, x_m], axis=1)
        if not np.isfinite(position_m).all():
            raise PositionFileError(f"{self._path}: a position is too large for a number of metres")
        self._table = replace(table, yx=position_m)
        if self._wrong:
            self._wrong = ""
            self._note(Note(f"positions: {self._path}: {len(position_m)} read", Severity.NO_ALARM))

    def _say(self, wrong: str) -> None:
        if wrong != self._wrong:
            self._wrong = wrong
            waits = "frames wait for it" if self._table is None else "the positions read before stay"
            self._note(Note(f"positions: {wrong}; {waits}", Severity.MAJOR))
