"""What leaves the edge: every prediction published in the order of its frame, placed on the map, recorded."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

import numpy as np

from iocs.edge_accounting import Account, Scan
from iocs.edge_batches import FloatArray, Model, Outcome, Pending
from iocs.edge_maps import LiveMap, ScanMaps
from iocs.edge_messages import Note, StreamConfig
from iocs.edge_placement import NEVER, unplaced_because
from iocs.edge_positions import Placement, Waiting, open_positions
from iocs.edge_recorder import Recorded, Recorder
from iocs.edge_recordings import Recordings
from iocs.stream import Attribute, NdFrame
from phasing.card import ModelCard
from phasing.errors import PhaselineError
from phasing.recording import LatePosition, Position
from phasing.stitch import StitchedMap, warm_up
from pvdb import Severity

log = logging.getLogger("phaseline.edge")
LOOK_S = 0.02
"""How often predictions that wait for a position are looked at while no frame comes."""
SCANS_UNDER_WAY = 8
"""Scans that may have predictions under way: more are remembered than ever wait at once."""
_NO_PIXELS = np.zeros((0, 0), np.uint8)


@dataclass(frozen=True, eq=False)
class Placeable:
    """A published prediction on its way to the map."""

    pending: Pending
    phase_rad: FloatArray
    card: ModelCard
    late: LatePosition | None = None
    """Gets the position, where the prediction is recorded and waits for it."""


class Outlet:
    """Owns the thread that publishes, the positions, the maps and the recorder."""

    def __init__(
        self,
        config: StreamConfig,
        account: Account,
        *,
        publish: Callable[[NdFrame], None],
        done: Callable[[], None],
        note: Callable[[Note], None],
        begun: Callable[[LiveMap], None],
    ) -> None:
        """`publish` sends a prediction, `done` hears of every batch that is through, `note` tells people.

        `begun` hears of every map that is begun.
        """
        self._account, self._publish, self._done, self._note = account, publish, done, note
        record = config.edge.record
        self._section = config.edge.positions
        self._positions = open_positions(self._section, note)
        self._waiting: Waiting[Placeable] = Waiting(self._section)
        self._maps = ScanMaps(config.edge, begun)
        self.recorder = Recorder(
            config.recordings, quota_bytes=int(record.quota_gb * 1e9), queue_frames=record.queue_frames, note=note
        )
        self._recordings = Recordings(self.recorder, self._maps.last_of)
        self.record = False
        self._newest: Scan | None = None
        self._input: tuple[NdFrame, FloatArray] | None = None
        self.rejected_because = ""
        self.failed: BaseException | None = None
        self._logged = ""
        self._told_unplaced: deque[Scan] = deque(maxlen=SCANS_UNDER_WAY)
        self._ended: Future[None] = Future()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="edge-outlet", daemon=True)
        self._thread.start()

    @property
    def live(self) -> LiveMap | None:
        """The map to show; None where nothing of the present scan is placed yet."""
        return self._maps.live

    @property
    def waiting(self) -> int:
        """Predictions that wait for their position."""
        return len(self._waiting)

    def emit(self, future: "Future[list[Outcome]]", model: Model) -> None:
        """Publish a batch when it is predicted, after those before it."""
        self._jobs.put(partial(self._through, future, model))

    def drain(self, then: Callable[[], None], timeout_s: float) -> bool:
        """Run `then` in the outlet's thread when all batches before are through; whether it ran in time.

        Where that thread has ended nothing runs, nor is anything waited for.
        """
        ran: Future[None] = Future()

        def job() -> None:
            then()
            ran.set_result(None)

        self._jobs.put(job)
        wait((ran, self._ended), timeout_s, return_when=FIRST_COMPLETED)
        return ran.done()

    def begin_anew(self) -> None:
        """Forget the map and end the recordings; to be run in the outlet's thread."""
        self._end_recordings()
        for waiting in self._waiting.give_up():
            self._account.count(waiting.pending.scan, "unplaced")
        self._maps.clear()

    def show_input(self, frame: NdFrame, counts: FloatArray) -> None:
        """Have a frame shown as it was prepared, (n, n) counts, unless another comes before that; from any thread."""
        self._input = frame, counts

    def take_input(self) -> NdFrame | None:
        """The prepared frame to show now; None where none is new."""
        shown, self._input = self._input, None
        return None if shown is None else replace(shown[0], array=shown[1], units="counts", severity=0, message="")

    def record_map(self, live: LiveMap, stitched: StitchedMap) -> None:
        """Record a map that was made to be shown, where its scan is recorded; safe from any thread."""
        self._recordings.add_map(live.scan, stitched)

    def close(self, timeout_s: float) -> None:
        """Publish what is under way, then end."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._positions.close()
        self.recorder.close(timeout_s)

    def reject(self, scan: Scan | None, reason: str) -> None:
        """Count a frame that cannot be used, and say why."""
        self._account.count(scan, "rejected")
        self.rejected_because = reason
        self._note(Note(reason, Severity.MAJOR))

    def _work(self) -> None:
        try:
            warm_up()
            while True:
                if not self.record:
                    self._end_recordings()
                try:
                    job = self._jobs.get(timeout=LOOK_S)
                except queue.Empty:
                    self._place_waiting()
                    continue
                if job is None:
                    self._end_recordings()
                    return
                job()
        except BaseException as error:
            self.failed = error  # the loop raises it: a stream without its outlet must not look alive
            raise
        finally:
            self._ended.set_result(None)

    def _through(self, future: "Future[list[Outcome]]", model: Model) -> None:
        """Publish a whole batch first: nobody who looks at a prediction waits for the map."""
        try:
            published: list[tuple[Placeable, Placement]] = []
            for outcome in future.result():
                if outcome.pending.scan is not self._newest:  # the scan before is placed before its map is put aside
                    self._place_all(published)
                one = self._handle(outcome, model.card)
                if one is not None:
                    published.append(one)
            self._place_all(published)
        finally:
            self._done()
        self._place_waiting()

    def _handle(self, outcome: Outcome, card: ModelCard) -> tuple[Placeable, Placement] | None:
        """Publish or count a frame; the prediction and where it lies, unless that may still come."""
        pending, sent = outcome.pending, None
        if outcome.phase_rad is not None:
            try:
                placement = self._send(pending, outcome.phase_rad, card)
            except Exception as error:  # noqa: BLE001 whatever a frame brings along costs no frame after it
                self.reject(pending.scan, f"frame {pending.frame.unique_id} is not published: {self._told(error)}")
                return None
            sent = self._sent(pending, outcome.phase_rad, card, placement)
        elif outcome.reason:
            self.reject(pending.scan, f"frame {pending.frame.unique_id}: {outcome.reason}")
        else:
            self._account.count(pending.scan, "empty")
        if outcome.counts is not None:
            self.show_input(pending.frame, outcome.counts)
        return sent

    def _send(self, pending: Pending, phase_rad: FloatArray, card: ModelCard) -> Placement:
        """Publish a prediction with its position, as far as that is known now."""
        if self._newest is not pending.scan:
            self._newest = pending.scan
            self._recordings.end_former()  # while its map is there
        self._maps.follow(pending.scan, card)
        placement = self._positions.find(pending.frame)
        self._publish(prediction(pending, phase_rad, card, placement))
        return placement

    def _sent(
        self, pending: Pending, phase_rad: FloatArray, card: ModelCard, placement: Placement
    ) -> tuple[Placeable, Placement] | None:
        """Count and record what is published, and have it wait for its position if that may still come."""
        self._account.published(pending.scan, pending.frame, pending.arrival_ns)
        if pending.mismatch:
            self._account.count(pending.scan, "mismatched")
        late: LatePosition | None = None if placement.final or not self.record else Future()
        if self.record:
            self._recordings.add(pending.scan, recorded(pending, phase_rad, card, late or placement.position_m))
        if placement.final:
            return Placeable(pending, phase_rad, card), placement
        # What waits for its position keeps nothing of the frame's memory: two thousand frames are a gigabyte.
        frame = replace(pending.frame, array=_NO_PIXELS)
        self._waiting.add(Placeable(replace(pending, frame=frame), phase_rad, card, late), frame, monotonic())
        return None

    def _told(self, error: Exception) -> str:
        """An error in words; one that nobody foresaw is logged, but not the same for every frame."""
        if isinstance(error, PhaselineError):
            return str(error)
        text = f"{type(error).__name__}: {error}"
        if text != self._logged:
            self._logged = text
            log.error("a frame cannot be published or placed", exc_info=error)
        return text

    def _place_all(self, published: list[tuple[Placeable, Placement]]) -> None:
        for placeable, placement in published:
            self._place(placeable, placement)
        published.clear()

    def _place_waiting(self, *, at_once: bool = False) -> None:
        """Place what has its position by now or has waited for long enough; `at_once`: look at all of it."""
        for placeable, placement in self._waiting.ready(self._find, monotonic(), at_once=at_once):
            if placeable.late is not None:
                placeable.late.set_result(placement.position_m)
            self._place(placeable, placement)
        former = self._recordings.former
        if former is not None and all(placeable.pending.scan is not former for placeable in self._waiting):
            self._recordings.end_former()

    def _find(self, frame: NdFrame) -> Placement:
        """Where a frame lies that waits; nowhere if that cannot be found out, for those behind it go on."""
        try:
            return self._positions.find(frame)
        except Exception as error:  # noqa: BLE001 as where it is published
            self._note(Note(f"frame {frame.unique_id} is not placed: {self._told(error)}", Severity.MINOR))
            return NEVER

    def _place(self, placeable: Placeable, placement: Placement) -> None:
        """Put a prediction on its scan's map; one without a position is counted, and said once for a scan."""
        pending, card, position_m = placeable.pending, placeable.card, placement.position_m
        if position_m is None:
            self._account.count(pending.scan, "unplaced")
            if pending.scan not in self._told_unplaced:
                self._told_unplaced.append(pending.scan)
                reason = unplaced_because(self._section, waited=not placement.final)
                self._note(Note(f"frame {pending.frame.unique_id} is not stitched: {reason}", Severity.MINOR))
            return
        if pending.mismatch:  # it may not spoil the map of those that are right
            return
        try:
            self._stitch(placeable, self._maps.of(pending.scan, card), position_m)
        except Exception as error:  # noqa: BLE001 as where it is published; it counts as published already
            self._account.count(pending.scan, "unplaced")
            self._note(Note(f"frame {pending.frame.unique_id} is not stitched: {self._told(error)}", Severity.MINOR))

    def _stitch(self, placeable: Placeable, live: LiveMap, position_m: Position) -> None:
        """Add to a map; what leaves it and what was refused before it begins anew change places in the account."""
        before = live.added
        if live.add(placeable.phase_rad, position_m):
            scan, unique_id = placeable.pending.scan, placeable.pending.frame.unique_id
            self._account.count(scan, "unplaced", before - (live.added - 1))
            text = f"the map is begun anew with the last {live.added} predictions, up to frame {unique_id}"
            self._note(Note(f"{text}: they lie too far from the {before} on it", Severity.MINOR))

    def _end_recordings(self) -> None:
        """Have the files of what is recorded finished, with the positions that are known by now."""
        if self._recordings.are_open:
            self._place_waiting(at_once=True)
            self._recordings.end()


def recorded(
    pending: Pending, phase_rad: FloatArray, card: ModelCard, position_m: Position | LatePosition | None
) -> Recorded:
    """What is recorded of a prediction."""
    return Recorded(
        unique_id=pending.frame.unique_id,
        time_ns=pending.frame.time_ns,
        phase_rad=phase_rad,
        position_m=position_m,
        model_version=card.version,
        mismatch=bool(pending.mismatch),
    )


def prediction(pending: Pending, phase_rad: FloatArray, card: ModelCard, placement: Placement) -> NdFrame:
    """What is published for a frame: its own id, time stamp and attributes, and what the edge and the model add.

    `ScanId` is that of the scan it was counted in, also where the frame did not say it, and may be empty. `SampleY` and
    `SampleX` are its position in the sample plane in m, where that is known already.
    """
    attributes: dict[str, Attribute] = {
        **pending.frame.attributes,
        "ScanId": pending.scan.scan_id,
        "ModelVersion": card.version,
        "PixelSize": card.pixel_size_m,
    }
    if placement.position_m is not None:
        attributes["SampleY"], attributes["SampleX"] = placement.position_m
    return NdFrame(
        pending.frame.unique_id,
        pending.frame.time_ns,
        phase_rad,
        attributes,
        "rad",
        severity=int(Severity.INVALID) if pending.mismatch else 0,
        message=pending.mismatch,
    )
