"""Frame ids and scan boundaries: what is missing, where a scan begins, when a detector was restarted."""

from dataclasses import dataclass

from iocs.edge_messages import FrameMark
from iocs.stream import NdFrame

SEQUENCE_ATTRIBUTE = "Sequence"


@dataclass(frozen=True)
class Arrival:
    """What the id of a frame says: how many never came before it, whether a scan or a restarted detector begins."""

    missed: int
    new_scan: bool
    went_back: bool


class IdTracker:
    """Follows frame ids within a scan.

    A gap in ids is a loss. A detector that takes a chosen part of a scan numbers its frames in the attribute
    `Sequence`, which then says what was lost; the ids keep their gaps.
    """

    def __init__(self, last_frame: FrameMark | None) -> None:
        """`last_frame` is what a former process handled last."""
        self.scan_id: str | None = None
        self._last: int | None = None
        self.last_frame = last_frame

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
        last, new_scan = self._last, scan_id != self.scan_id
        self.scan_id, self._last = scan_id, number
        if new_scan or last is None:
            return Arrival(0, new_scan=True, went_back=False)
        if number <= last:
            return Arrival(0, new_scan=True, went_back=True)
        return Arrival(number - last - 1, new_scan=False, went_back=False)

    def forget(self) -> None:
        """Treat the next frame as the first of a scan."""
        self.scan_id = self._last = None
