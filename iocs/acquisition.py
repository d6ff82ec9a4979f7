"""One acquisition: frames at their period, to the stream and to the file writer, in a thread of its own."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from iocs.frames_source import FrameSource, Shot
from iocs.shots_ahead import ShotsAhead
from iocs.stream import Attribute, NdFrame
from phasing.errors import PhaselineError
from phasing.frames import Frame
from pvdb.detector import LAST_ID

METRES_TO_MICRONS = 1e6


class IdTooLarge(PhaselineError):
    """An acquisition whose next frame would have an id that neither a stream nor ArrayCounter can carry."""


@dataclass(frozen=True)
class Taken:
    """How far an acquisition is: frames taken, id of the last, frames a second since it began."""

    frames: int
    last_id: int
    rate_hz: float


def acquire(
    source: FrameSource,
    *,
    num_frames: int,
    period_s: float,
    first_id: int,
    stop: threading.Event,
    stream: Callable[[NdFrame], None],
    save: Callable[[FrameSource, Frame], None],
    report: Callable[[Taken], None],
) -> Taken:
    """Take `num_frames` frames, one every `period_s`, until done or stopped; ids count up from `first_id`.

    A frame replayed keeps its id; when it comes round again, ids count on from the largest. `report` is called
    about ten times a second and at the end, also when the source, `stream` or `save` raises: an id that may have been
    sent is not used again. Raises IdTooLarge.
    """
    reported = float("-inf")
    taken, largest_id = Taken(0, first_id - 1, 0.0), first_id - 1
    try:
        with ShotsAhead(source, num_frames) as shots:
            shot = shots.next(stop)
            began = time.perf_counter()
            for index in range(num_frames):
                if shot is None or stop.wait(max(0.0, began + index * period_s - time.perf_counter())):
                    break
                unique_id = _unique_id(shot, largest_id, again=index >= source.num_frames)
                largest_id = unique_id if index == 0 else max(largest_id, unique_id)
                taken = replace(taken, last_id=unique_id)
                _expose(source, shot, index, unique_id, stream, save)
                now = time.perf_counter()
                taken = Taken(index + 1, unique_id, (index + 1) / max(now - began, period_s))
                if now - reported > 0.1:
                    report(taken)
                    reported = now
                if index + 1 < num_frames:
                    shot = shots.next(stop)
    finally:
        report(taken)
    return taken


def _unique_id(shot: Shot, largest_id: int, *, again: bool) -> int:
    """The id that a shot had, or the one after the largest so far when it has none or comes `again`."""
    unique_id = largest_id + 1 if again or shot.unique_id is None else shot.unique_id
    if abs(unique_id) > LAST_ID:
        raise IdTooLarge(f"frame id {unique_id} does not fit into 32 bits: put ArrayCounter, or replay another file")
    return unique_id


def _expose(
    source: FrameSource,
    shot: Shot,
    index: int,
    unique_id: int,
    stream: Callable[[NdFrame], None],
    save: Callable[[FrameSource, Frame], None],
) -> None:
    """Give one frame its time and hand it to the stream and to the file writer."""
    time_ns = time.time_ns()
    y_m, x_m = shot.position_m
    attributes: dict[str, Attribute] = {
        "ScanId": source.scan_id,
        "Sequence": index,
        "PositionX": x_m * METRES_TO_MICRONS,
        "PositionY": y_m * METRES_TO_MICRONS,
        "Energy": source.geometry.energy_ev,
        "DetectorDistance": source.geometry.distance_m,
    }
    stream(NdFrame(unique_id, time_ns, shot.counts, attributes, "counts"))
    save(source, Frame(unique_id, time_ns / 1e9, source.scan_id, shot.counts, shot.position_m))
