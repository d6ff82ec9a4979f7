"""The live maps of scans, and their publication beside the frames: a large map must not hold up a small frame."""

import threading
import time
from collections.abc import Callable

from iocs.config import EdgeSection
from iocs.edge_accounting import Scan
from iocs.edge_batches import FloatArray
from iocs.live_maps import MapKeeper
from iocs.maps import map_frame
from iocs.stream import Attribute, NdFrame
from phasing.card import ModelCard
from phasing.stitch import BeyondMap, StitchedMap, Stitcher, patch_weight

REST = 4.0
"""Times what it cost last that the next map waits at least: maps take a fifth of one core at most."""
NUM_ANEW = 8
"""Predictions in a row beyond the map that may be a new one: fewer may be outliers themselves."""
FORMER_MAPS = 2
"""Maps that are kept beside the one that is shown: the former scan's, and one that a swap has replaced."""


class LiveMap:
    """The map of one scan under models of one pixel size; one thread adds, another may look."""

    def __init__(self, scan: Scan, card: ModelCard, edge: EdgeSection) -> None:
        """Begin an empty map for the predictions of a card."""
        self.scan, self._card, self._edge = scan, card, edge
        self._weight = patch_weight(card.probe_intensity, edge.stitch_weight)
        self._stitcher = self._empty()
        self._elsewhere: Stitcher | None = None
        self._num_elsewhere = 0
        self.version = card.version
        self.added = 0

    @property
    def scan_id(self) -> str:
        """The id of its scan, which may be empty."""
        return self.scan.scan_id

    def takes(self, scan: Scan, card: ModelCard) -> bool:
        """Whether a card's predictions of a scan belong on this map."""
        same = card.input_shape == self._card.input_shape and card.pixel_size_m == self._card.pixel_size_m
        return scan is self.scan and same

    def add(self, phase_rad: FloatArray, position_m: tuple[float, float]) -> bool:
        """Add a prediction; FrameRejected when it cannot be placed. True when the map was begun anew for it.

        It may be the map that lies in the wrong place, as when the first position of a scan is that of the stage at
        rest. So what lies beyond it is stitched apart, and when NUM_ANEW in a row fit together there, and are more than
        the map holds, they are the map.
        """
        try:
            self._stitcher.add(phase_rad, position_m)
        except BeyondMap:
            self._add_elsewhere(phase_rad, position_m)
            if self._num_elsewhere < max(NUM_ANEW, self.added + 1):
                raise
            self._begin_anew()
            return True
        self._elsewhere, self._num_elsewhere = None, 0
        self.added += 1
        return False

    def _add_elsewhere(self, phase_rad: FloatArray, position_m: tuple[float, float]) -> None:
        try:
            self._elsewhere = self._elsewhere or self._empty()
            self._elsewhere.add(phase_rad, position_m)
        except BeyondMap:
            self._elsewhere, self._num_elsewhere = self._empty(), 0
            self._elsewhere.add(phase_rad, position_m)
        self._num_elsewhere += 1

    def _begin_anew(self) -> None:
        assert self._elsewhere is not None, "there is what outnumbers the map"
        self._stitcher, self.added = self._elsewhere, self._num_elsewhere
        self._elsewhere, self._num_elsewhere = None, 0

    def _empty(self) -> Stitcher:
        return Stitcher(
            self._card.input_shape[1],
            self._card.pixel_size_m,
            self._weight,
            align_offsets=self._edge.align_offsets,
            max_canvas_px=self._edge.max_map_px,
        )

    def map(self) -> StitchedMap | None:
        """The map as it is now; None before the first prediction."""
        return self._stitcher.map()

    def consistency(self) -> tuple[float | None, float | None]:
        """Spread of overlapping predictions in rad, and that over the spread of the map; None without overlaps."""
        stitcher = self._stitcher
        return stitcher.consistency_rad, stitcher.consistency_ratio


class ScanMaps:
    """The map that is shown, and those before it, onto which what gets its position late still goes; of one thread."""

    def __init__(self, edge: EdgeSection, begun: Callable[[LiveMap], None]) -> None:
        """Begin without a map; `begun` hears of every map that is begun."""
        self._edge, self._begun = edge, begun
        self._newest: tuple[Scan, ModelCard] | None = None
        self._former: list[LiveMap] = []
        self.live: LiveMap | None = None

    def follow(self, scan: Scan, card: ModelCard) -> None:
        """Know what was predicted last: its map is to be shown, and another scan's no longer."""
        self._newest = scan, card
        if self.live is not None and self.live.scan is not scan:
            self._put_aside(self.live)
            self.live = None

    def of(self, scan: Scan, card: ModelCard) -> LiveMap:
        """The map that a prediction of a scan goes onto; another scan, pixel or patch has another."""
        known = next((one for one in self._all() if one.takes(scan, card)), None)
        found = known or self._begin(scan, card)
        found.version = card.version
        if found is not self.live and self._is_to_show(found):
            self._show(found)
        elif known is None:
            self._put_aside(found)
        return found

    def last_of(self, scan: Scan) -> StitchedMap | None:
        """The map of a scan as it is now, the latest if it has several; None if it has none."""
        made = (one.map() for one in self._all() if one.scan is scan)
        return next((one for one in made if one is not None), None)

    def clear(self) -> None:
        """Forget all maps."""
        self._former, self.live = [], None

    def _begin(self, scan: Scan, card: ModelCard) -> LiveMap:
        made = LiveMap(scan, card, self._edge)
        self._begun(made)
        return made

    def _all(self) -> list[LiveMap]:
        """All maps, the latest first."""
        return [*([] if self.live is None else [self.live]), *reversed(self._former)]

    def _is_to_show(self, found: LiveMap) -> bool:
        """Whether a map is that of what was predicted last, or of its scan at least while there is no other."""
        if self._newest is None:
            return False
        return found.takes(*self._newest) or (self.live is None and found.scan is self._newest[0])

    def _show(self, found: LiveMap) -> None:
        self._former = [one for one in self._former if one is not found]
        if self.live is not None:
            self._put_aside(self.live)
        self.live = found

    def _put_aside(self, live: LiveMap) -> None:
        self._former = [*self._former, live][-FORMER_MAPS:]


class MapPublisher:
    """Publishes the current map a few times a second, from a thread of its own, while it changes."""

    def __init__(
        self,
        period_s: float,
        *,
        current: Callable[[], LiveMap | None],
        state: Callable[[], str],
        publish: Callable[[NdFrame], None],
        made: Callable[[LiveMap, StitchedMap], None],
        keeper: MapKeeper,
    ) -> None:
        """`current` gives the map to show, `state` the scan's state in words, `made` hears of every map made.

        `keeper` looks after the maps on the disk, in this thread.
        """
        self._period_s, self._current, self._state = period_s, current, state
        self._publish, self._made, self._keeper = publish, made, keeper
        self._shown: tuple[LiveMap, int, str] | None = None
        self._stop = threading.Event()
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="edge-map", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show what is not shown yet, then end."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            cost_s = 0.0
            while not self._stop.wait(max(self._period_s, REST * cost_s)):
                began_s = time.monotonic()
                self._show()
                self._keeper.look()
                cost_s = time.monotonic() - began_s
            self._show()
            self._keeper.close()
        except BaseException as error:
            self.failed = error
            raise

    def _show(self) -> None:
        """Publish what changed; the map of a scan that is over once more, if it grew after it was shown last."""
        live, state = self._current(), self._state()
        if self._shown is not None and live is not self._shown[0]:
            former, added, last_state = self._shown
            self._shown = None
            if former.added != added:
                self._publish_map(former, last_state)
        if live is None or self._shown == (live, live.added, state):
            return
        self._shown = (live, live.added, state)
        found = self._publish_map(live, state)
        if found is not None and self._current() is live:
            self._made(live, found)

    def _publish_map(self, live: LiveMap, state: str) -> StitchedMap | None:
        added, found = live.added, live.map()
        if found is None:
            return None
        attributes: dict[str, Attribute] = {
            "ScanId": live.scan.scan_id,
            "ModelVersion": live.version,
            "ScanState": state,
        }
        self._publish(map_frame(found, added, time.time_ns(), attributes))
        return found
