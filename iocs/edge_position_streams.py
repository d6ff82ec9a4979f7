"""Positions from samples that stream beside the frames, matched by time: a table of both axes, or a PV of each."""

import threading
from collections.abc import Callable
from functools import partial
from math import isfinite
from time import time
from typing import Any

import numpy as np
import numpy.typing as npt

from iocs.config import PositionSection
from iocs.edge_messages import Note
from iocs.edge_placement import NEVER, NOT_YET, Placement, placed
from iocs.edge_samples import Complain, GarbageError, SampleReader
from iocs.stream import NdFrame
from phasing.positions import Absent, Track
from pvdb import Severity

FloatArray = npt.NDArray[np.float64]
CLOCK_JUMP_S = 3600.0
LATEST_S = 1e10
"""Unix seconds in the year 2286: a larger number is no time in seconds."""


class _Tracks:
    """Both axes, written by the readers' threads and read by the one that places frames."""

    def __init__(self, section: PositionSection, *, hold: bool) -> None:
        self._section = section
        self._lock = threading.Lock()
        self._y = Track(section.tolerance_s, hold=hold)
        self._x = Track(section.tolerance_s, hold=hold)

    def change(self, work: Callable[[Track, Track], None]) -> None:
        """Change the tracks (y, x) while nobody reads them."""
        with self._lock:
            work(self._y, self._x)

    def find(self, frame: NdFrame) -> Placement:
        """The mean position over the frame's window of time."""
        begin_s = frame.time_ns / 1e9 + self._section.offset_s
        end_s, now_s = begin_s + self._section.exposure_s, time()
        with self._lock:
            y = self._y.mean(begin_s, end_s, now_s)
            x = self._x.mean(begin_s, end_s, now_s)
        if isinstance(y, Absent) or isinstance(x, Absent):
            return NEVER if Absent.FOREVER in (y, x) else NOT_YET
        position_m = placed(self._section, y, x)
        return Placement(position_m, True) if all(map(isfinite, position_m)) else NEVER


class TablePositions:
    """Positions from one PV with a table of samples: columns of time (Unix s), x and y, any number of rows an update.

    A frame has a position where samples lie close enough around its window (a strict phasing.positions.Track).
    """

    def __init__(self, section: PositionSection, note: Callable[[Note], None]) -> None:
        """Subscribe to the PV that the section names."""
        assert section.stream is not None, "the section is complete"
        self._columns = (section.stream_time, section.y, section.x)
        self._name, self._note = section.stream, note
        self._tracks = _Tracks(section, hold=False)
        self._reader = SampleReader(section.stream, "", take=self._take, connected=lambda _: None, note=note)

    def find(self, frame: NdFrame) -> Placement:
        """The mean position over the frame's window; never where the samples around it lie too far apart."""
        return self._tracks.find(frame)

    def close(self) -> None:
        """End the subscription."""
        self._reader.close()

    def _take(self, update: Any, complain: Complain) -> None:
        times_s, y, x = table_samples(update.toDict(), self._columns, complain)
        if times_s.size:
            self._tracks.change(partial(self._add, times_s, y, x))

    def _add(self, times_s: FloatArray, y: FloatArray, x: FloatArray, *tracks: Track) -> None:
        if len(tracks[0]) and tracks[0].newest_s - times_s[-1] > CLOCK_JUMP_S:
            text = f"positions: {self._name}: time went back by {tracks[0].newest_s - times_s[-1]:.0f} s"
            self._note(Note(f"{text}; the samples from before are forgotten", Severity.MINOR))
            for track in tracks:
                track.forget()
        for track, values in zip(tracks, (y, x), strict=True):
            track.add(times_s.tolist(), values.tolist())


def table_samples(
    fields: dict[str, Any], columns: tuple[str, str, str], complain: Complain
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Times (N,) s Unix, y (N,) and x (N,) of a table's fields, all finite; rows that are not go to `complain`.

    Raises GarbageError for columns that are missing, no numbers or of unequal length, and for times in another unit.
    """
    table = fields.get("value")
    arrays = [_column(table if isinstance(table, dict) else fields, name) for name in columns]
    if len({array.size for array in arrays}) > 1:
        lengths = ", ".join(f"{name} {array.size}" for name, array in zip(columns, arrays, strict=True))
        raise GarbageError(f"columns of unequal length: {lengths}")
    finite = np.isfinite(arrays).all(axis=0)
    if not finite.all():
        complain("samples that are not finite are skipped")
    times_s, y, x = (array[finite] for array in arrays)
    if times_s.size and (times_s.min() <= 0.0 or times_s.max() >= LATEST_S or np.ptp(times_s) > CLOCK_JUMP_S):
        raise GarbageError(f"column {columns[0]} does not hold Unix times in seconds")
    return times_s, y, x


def _column(fields: dict[str, Any], name: str) -> FloatArray:
    column = fields.get(name)
    if isinstance(column, dict):  # an array with its own time stamp, as in a group of records
        column = column.get("value")
    if column is None:
        raise GarbageError(f"no column {name} among {', '.join(fields)}")
    array = np.atleast_1d(np.asarray(column))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise GarbageError(f"column {name} does not hold numbers")
    return array.astype(np.float64)


class AxisPositions:
    """Positions from one PV of each axis, such as the read-backs of motors: every update is one sample.

    A motor at rest sends nothing, so a value holds until the next, for as long as its PV is connected (a
    phasing.positions.Track that holds). What it did while the PV was disconnected is known only if it did nothing: then
    the server sends the value with the time stamp that it had before.
    """

    def __init__(self, section: PositionSection, note: Callable[[Note], None]) -> None:
        """Subscribe to the PVs that x and y name."""
        self._tracks = _Tracks(section, hold=True)
        self._is_connected = [False, False]
        self._unheard_s: list[float | None] = [None, None]
        self._readers = [
            SampleReader(
                name, "value,timeStamp", take=partial(self._take, axis), connected=partial(self._hear, axis), note=note
            )
            for axis, name in enumerate((section.y, section.x))
        ]

    def find(self, frame: NdFrame) -> Placement:
        """The mean position over the frame's window; never from before the first sample, or where a PV was gone."""
        return self._tracks.find(frame)

    def close(self) -> None:
        """End the subscriptions."""
        for reader in self._readers:
            reader.close()

    def _hear(self, axis: int, is_connected: bool) -> None:
        self._tracks.change(lambda *tracks: self._connect(tracks[axis], axis, is_connected))

    def _take(self, axis: int, update: Any, _: Complain) -> None:
        value, stamp = update["value"], update["timeStamp"]
        if not isinstance(value, int | float) or not isfinite(value):
            raise GarbageError(f"its value is {value!r}, which is no position")
        time_s = stamp["secondsPastEpoch"] + stamp["nanoseconds"] / 1e9
        self._tracks.change(lambda *tracks: self._add(tracks[axis], axis, time_s, float(value)))

    def _connect(self, track: Track, axis: int, is_connected: bool) -> None:
        self._is_connected[axis] = is_connected
        unheard_s, self._unheard_s[axis] = self._unheard_s[axis], None
        if not is_connected:
            track.lose(time())
        elif unheard_s is not None:
            track.found(unheard_s)

    def _add(self, track: Track, axis: int, time_s: float, value: float) -> None:
        if self._is_connected[axis]:
            track.found(time_s)
        else:  # sent before the PV went, or already by the one that came back: the news of that may come after it
            self._unheard_s[axis] = time_s
        track.add([time_s], [value])
