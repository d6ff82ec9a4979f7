"""Where the edge's frames lie on the sample: from their attributes, from a file, or from samples that stream beside."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from time import perf_counter
from typing import Generic, TypeVar

from iocs.config import PositionSection
from iocs.edge_messages import Note
from iocs.edge_placement import NEVER, Placement, PositionSource, placed
from iocs.edge_position_file import FilePositions
from iocs.edge_position_streams import AxisPositions, TablePositions
from iocs.stream import NdFrame

__all__ = ["Placement", "PositionSource", "Waiting", "open_positions"]

Payload = TypeVar("Payload")
WAITING_LOOK_S = 0.02
REST = 20.0
"""Times what the last look at all that wait took, that the next is put off at least: it is the publishing thread's."""


def open_positions(section: PositionSection, note: Callable[[Note], None]) -> PositionSource:
    """The source of positions that the configuration names; `note` is called from threads of the source.

    What is not there yet (a file, a PV) is noted and waited for.
    """
    if section.source == "attributes":
        return AttributePositions(section)
    if section.source == "file":
        return FilePositions(section, note)
    return AxisPositions(section, note) if section.stream is None else TablePositions(section, note)


class AttributePositions:
    """Positions in NDAttributes of the frames themselves."""

    def __init__(self, section: PositionSection) -> None:
        self._section = section

    def find(self, frame: NdFrame) -> Placement:
        """The frame's own position; never one where an attribute is missing, no number or not finite."""
        y, x = frame.attributes.get(self._section.y), frame.attributes.get(self._section.x)
        if not isinstance(y, int | float) or not isinstance(x, int | float):
            return NEVER
        position_m = placed(self._section, float(y), float(x))
        return Placement(position_m, True) if all(map(isfinite, position_m)) else NEVER

    def close(self) -> None:
        """Nothing to end."""


@dataclass(frozen=True)
class _Waits(Generic[Payload]):
    payload: Payload
    frame: NdFrame
    since_s: float


class Waiting(Generic[Payload]):
    """What waits for its position, oldest first, bounded in time and number; of one thread."""

    def __init__(self, section: PositionSection) -> None:
        """Let at most `waiting_frames` wait, each for at most `wait_s`."""
        self._wait_s, self._most = section.wait_s, section.waiting_frames
        self._waits: deque[_Waits[Payload]] = deque()
        self._next_look_s = float("-inf")

    def __len__(self) -> int:
        return len(self._waits)

    def __iter__(self) -> Iterator[Payload]:
        """What waits, oldest first."""
        return (one.payload for one in self._waits)

    def add(self, payload: Payload, frame: NdFrame, now_s: float) -> None:
        """Let `payload` wait for the position of `frame`; `ready` is to be called after it."""
        self._waits.append(_Waits(payload, frame, now_s))

    def ready(
        self, find: Callable[[NdFrame], Placement], now_s: float, *, at_once: bool = False
    ) -> list[tuple[Payload, Placement]]:
        """What need not wait any longer, in the order it was added; a placement that is not final is given up.

        Something that gets its position overtakes what still waits. However often this is called, all are looked at
        only so often that it takes a twentieth of the time; `at_once` looks now.
        """
        done: list[tuple[Payload, Placement]] = []
        while len(self._waits) > self._most:
            oldest = self._waits.popleft()
            done.append((oldest.payload, find(oldest.frame)))
        if not self._waits or (now_s < self._next_look_s and not at_once):
            return done
        began_s = perf_counter()
        waits, self._waits = self._waits, deque()
        for one in waits:
            placement = find(one.frame)
            if placement.final or now_s >= one.since_s + self._wait_s:
                done.append((one.payload, placement))
            else:
                self._waits.append(one)
        self._next_look_s = now_s + max(WAITING_LOOK_S, REST * (perf_counter() - began_s))
        return done

    def give_up(self) -> list[Payload]:
        """All that still waits; nothing does afterwards."""
        left = [one.payload for one in self._waits]
        self._waits.clear()
        return left
