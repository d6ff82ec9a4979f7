"""Which file a prediction goes into: that of its scan, which stays open while predictions wait for their position."""

from collections import deque
from collections.abc import Callable

from iocs.edge_accounting import Scan
from iocs.edge_recorder import Recorded, Recorder, ScanRecording
from phasing.stitch import StitchedMap


class Recordings:
    """Begins and ends the recordings of the present scan and of the former; of one thread.

    A scan is recorded in one file from its first prediction on: none is opened again for what comes late to it.
    """

    def __init__(self, recorder: Recorder, last_map: Callable[[Scan], StitchedMap | None]) -> None:
        """`last_map` gives the map that a scan ends with, which the one published last may lack predictions of."""
        self._recorder, self._last_map = recorder, last_map
        self._open: deque[tuple[Scan, ScanRecording]] = deque()
        self._present: tuple[Scan, ScanRecording] | None = None

    @property
    def are_open(self) -> bool:
        """Whether anything is being recorded."""
        return bool(self._open)

    @property
    def former(self) -> Scan | None:
        """The scan before the present one, while its recording is open."""
        return self._open[0][0] if len(self._open) > 1 else None

    def add(self, scan: Scan, prediction: Recorded) -> None:
        """Record a prediction of the present scan, whose recording begins with its first."""
        if not self._open or self._open[-1][0] is not scan:
            self.end_former()
            self._present = scan, self._recorder.begin(scan.scan_id, "")
            self._open.append(self._present)
        self._recorder.add(prediction, self._open[-1][1])

    def add_map(self, scan: Scan, stitched: StitchedMap) -> None:
        """Record the map of the present scan as it is by now; safe from any thread, void for any other scan."""
        present = self._present
        if present is not None and present[0] is scan:
            self._recorder.add_map(stitched, present[1])

    def end_former(self) -> None:
        """End the former scan's recording, if it is open: nothing of it waits any longer, or the next scan begins."""
        if self.former is not None:
            self._end_oldest()

    def end(self) -> None:
        """End all recordings; positions that have not come by now stay unknown."""
        self._present = None
        while self._open:
            self._end_oldest()

    def _end_oldest(self) -> None:
        scan, recording = self._open.popleft()
        stitched = self._last_map(scan)
        if stitched is not None:
            self._recorder.add_map(stitched, recording)
        self._recorder.end(recording)
