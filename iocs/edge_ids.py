"""Frame ids and scan boundaries: what is missing, where a scan begins, when a detector was restarted."""

from collections import deque
from dataclasses import dataclass

from iocs.edge_messages import Mark
from iocs.stream import NdFrame

SEQUENCE_ATTRIBUTE = "Sequence"
LATE_FRAMES = 64
"""Missing frames that are waited for; one that comes after so many others is one of a restarted detector."""


@dataclass(frozen=True)
class Arrival:
    """What the id of a frame says: how many never came before it, whether a scan or a restarted detector begins.

    `missed` is -1 for a frame that comes after its successors and was missed until now.
    """

    missed: int
    new_scan: bool
    went_back: bool


class IdTracker:
    """Follows frame ids within a scan.

    A gap in ids is a loss, unless what is missing comes soon: threads of a detector's plugin may overtake one another.
    A detector that takes a chosen part of a scan numbers its frames in the attribute `Sequence`, which then says what
    was lost; the ids keep their gaps.
    """

    def __init__(self, former: Mark) -> None:
        """`former` is how far a former process came."""
        self.scan_id, self.number, self.last_frame = former.scan_id, former.number, former.last_frame
        self._missing: deque[int] = deque(maxlen=LATE_FRAMES)

    def repeats(self, frame: NdFrame) -> bool:
        """Whether this is the very frame that came last: a stream that reconnects sends its latest once more.

        Frames without a time stamp cannot be told apart by it, and are never taken for repeated.
        """
        seen, self.last_frame = self.last_frame, (frame.unique_id, frame.time_ns)
        return seen == self.last_frame and frame.time_ns > 0

    def follow(self, frame: NdFrame, scan_id: str) -> Arrival:
        """Take note of a frame's scan and number."""
        number = frame.attributes.get(SEQUENCE_ATTRIBUTE, frame.unique_id)
        number = number if isinstance(number, int) else frame.unique_id
        last, new_scan = self.number, scan_id != self.scan_id
        if not new_scan and number in self._missing:
            self._missing.remove(number)
            return Arrival(-1, new_scan=False, went_back=False)
        self.scan_id, self.number = scan_id, number
        if new_scan or last is None or number <= last:
            self._missing.clear()
            return Arrival(0, new_scan=True, went_back=not new_scan and last is not None)
        self._missing.extend(range(max(last + 1, number - LATE_FRAMES), number))
        return Arrival(number - last - 1, new_scan=False, went_back=False)

    def forget(self) -> None:
        """Treat the next frame as the first of a scan."""
        self.scan_id = self.number = None
        self._missing.clear()
