"""Frames in, phase out: prepare, batch, infer, publish in the order of arrival, stitch."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from iocs.edge_accounting import Account, IdTracker
from iocs.edge_messages import FrameMark, Note, Settings, StreamConfig
from iocs.stream import Attribute, NdFrame
from phasing.card import ModelCard
from phasing.engines import Engine
from phasing.errors import FrameRejected, ModelError, PhaselineError
from phasing.frames import prepare
from phasing.stitch import StitchedMap, Stitcher
from pvdb import Severity

FloatArray = npt.NDArray[np.float32]
RECENT_FRAMES = 16


@dataclass(frozen=True, eq=False)
class Model:
    """A network that is ready to serve, and what its card says."""

    engine: Engine
    card: ModelCard


@dataclass(frozen=True, eq=False)
class _Pending:
    frame: NdFrame
    counts: FloatArray
    arrival_ns: int
    since_s: float


class Pipeline:
    """One stream's frames from arrival to publication; called from one thread."""

    def __init__(
        self,
        config: StreamConfig,
        settings: Settings,
        *,
        publish: Callable[[NdFrame], None],
        overflowed: Callable[[], int],
        note: Callable[[Note], None],
    ) -> None:
        """`publish` sends a prediction, `overflowed` is how many frames our queue lost so far, `note` tells people."""
        self._config, self.settings = config, settings
        self._publish, self._overflowed, self._note = publish, overflowed, note
        self._overflow_counted = self._gaps_explained = self._explained_for = 0
        self._batch: list[_Pending] = []
        self._ids = IdTracker(config.scan_id_attribute, config.last_frame)
        self._stitcher: Stitcher | None = None
        self.account = Account()
        self.model: Model | None = None
        self.recent: deque[npt.NDArray[Any]] = deque(maxlen=RECENT_FRAMES)
        self.latest_input: NdFrame | None = None
        self.map_changed = False

    @property
    def scan_id(self) -> str:
        """The scan of the latest frame; empty before the first."""
        return self._ids.scan_id or ""

    @property
    def last_frame(self) -> FrameMark | None:
        """The frame that came last, here or to the process before."""
        return self._ids.last_frame

    def take(self, frame: NdFrame, arrival_ns: int) -> None:
        """Count a frame and put it in the batch; a full batch is predicted at once.

        While the edge is disabled, only the frame's id is followed, so that what passed is not missed later.
        """
        if self._ids.repeats(frame):
            return
        self._follow(frame)
        if not self.settings.enabled:
            return
        self.account.count("received")
        self.recent.append(frame.array)
        if self.model is None:
            self.account.count("no_model")
            return
        try:
            counts = prepare(frame.array[None], self.model.card.geometry)[0]
        except FrameRejected as error:
            self.reject(f"frame {frame.unique_id}: {error}", counted=True)
            return
        self.latest_input = replace(frame, array=counts, units="counts")
        if counts.sum() < self.settings.min_counts:
            self.account.count("empty")
            return
        self._batch.append(_Pending(frame, counts, arrival_ns, time.monotonic()))
        if len(self._batch) >= self.settings.batch_size:
            self.flush()

    def reject(self, reason: str, *, counted: bool = False) -> None:
        """Count a frame that cannot be used and say why; `counted` if it was counted as received already."""
        if not self.settings.enabled:
            return
        if not counted:
            self.account.count("received")
        self._count_rejected(1, reason)

    def count_dropped(self) -> None:
        """Count frames that our own queue could not hold; the gap they leave in the ids is then no loss upstream.

        The gap lies behind the frames that were in the queue: whatever is not seen once those are through never shows.
        """
        total = self._overflowed()
        number, self._overflow_counted = total - self._overflow_counted, total
        if number:
            self._gaps_explained += number
            self._explained_for = self._config.queue_frames + 1
            self.account.count("received", number)
            self.account.count("dropped", number)
            self._note(Note(f"{number} frames dropped: the edge's queue is full", Severity.MAJOR))

    def time_left_s(self) -> float | None:
        """How long the oldest frame of the batch may still wait; None without one."""
        if not self._batch:
            return None
        return max(0.0, self._batch[0].since_s + self.settings.max_wait_s - time.monotonic())

    def flush_if_due(self) -> None:
        """Predict the batch when its oldest frame has waited long enough."""
        left_s = self.time_left_s()
        if left_s is not None and left_s <= 0.0:
            self.flush()

    def flush(self) -> None:
        """Predict and publish what is in the batch."""
        batch, self._batch = self._batch, []
        if not batch or self.model is None:
            return
        try:
            phases_rad = self.model.engine.infer(np.stack([pending.counts for pending in batch])[:, None])[:, 0]
        except ModelError as error:
            self._count_rejected(len(batch), f"model {self.model.card.version}: {error}")
            return
        for pending, phase_rad in zip(batch, phases_rad, strict=True):
            if np.isfinite(phase_rad).all():
                self._send(pending, phase_rad, self.model.card)
            else:
                text = f"frame {pending.frame.unique_id}: model {self.model.card.version} predicts no finite phase"
                self._count_rejected(1, text)

    def swap(self, model: Model) -> Model | None:
        """Let a model serve from the next frame on; returns the former one. The batch goes to the former."""
        self.flush()
        former, self.model = self.model, model
        if former is None or not _same_canvas(former.card, model.card):
            self._stitcher = None
        return former

    def reset(self) -> None:
        """Begin a new map and count from zero; what was dropped until now is counted before."""
        self.flush()
        self.count_dropped()
        self.account = Account()
        self._ids.forget()
        self._new_map()

    def stitched(self) -> StitchedMap | None:
        """The map of the scan; None before the first prediction with a position."""
        return None if self._stitcher is None else self._stitcher.map()

    def consistency(self) -> tuple[float | None, float | None]:
        """Spread of overlapping predictions in rad, and that over the spread of the map; None without overlaps."""
        if self._stitcher is None:
            return None, None
        return self._stitcher.consistency_rad, self._stitcher.consistency_ratio

    def _follow(self, frame: NdFrame) -> None:
        former = self._ids.scan_id
        arrival = self._ids.follow(frame)
        if self._explained_for == 0:
            self._gaps_explained = 0
        self._explained_for = max(0, self._explained_for - 1)
        if arrival.new_scan:
            self.flush()
            self._new_map()
        if arrival.went_back:
            text = f"frame ids went back to {frame.unique_id} within scan {former}: restarted detector, new map"
            self._note(Note(text, Severity.MINOR))
        if arrival.missed:
            self._count_gap(arrival.missed, frame.unique_id)

    def _count_gap(self, gap: int, unique_id: int) -> None:
        self.count_dropped()
        explained = min(gap, self._gaps_explained)
        self._gaps_explained -= explained
        if gap > explained:
            self.account.count("missed", gap - explained)
            self._note(Note(f"{gap - explained} frames missed before frame {unique_id}", Severity.MAJOR))

    def _count_rejected(self, number: int, reason: str) -> None:
        self.account.count("rejected", number)
        self._note(Note(reason, Severity.MAJOR))

    def _new_map(self) -> None:
        self._stitcher = None
        self.map_changed = False

    def _send(self, pending: _Pending, phase_rad: FloatArray, card: ModelCard) -> None:
        frame = pending.frame
        attributes: dict[str, Attribute] = {
            **frame.attributes,
            "ModelVersion": card.version,
            "PixelSize": card.pixel_size_m,
        }
        self._publish(NdFrame(frame.unique_id, frame.time_ns, phase_rad, attributes, "rad"))
        self.account.published(frame, pending.arrival_ns)
        position_m = self._position_m(frame)
        if position_m is None:
            self.account.count("unplaced")
            return
        if self._stitcher is None:
            self._stitcher = Stitcher(card.input_shape[1], card.pixel_size_m, card.probe_intensity)
        try:
            self._stitcher.add(phase_rad, position_m)
        except PhaselineError as error:
            self.account.count("unplaced")
            self._note(Note(f"frame {frame.unique_id} is not stitched: {error}", Severity.MINOR))
        self.map_changed = True

    def _position_m(self, frame: NdFrame) -> tuple[float, float] | None:
        """The frame's position (y, x) in m from its NDAttributes; None where one is missing or not finite."""
        names = (self._config.position_y_attribute, self._config.position_x_attribute)
        values = [frame.attributes.get(name) for name in names]
        if not all(isinstance(value, int | float) and np.isfinite(value) for value in values):
            return None
        y, x = (float(value) * self._config.position_unit_m for value in values if value is not None)
        return y, x


def _same_canvas(one: ModelCard, other: ModelCard) -> bool:
    return one.input_shape == other.input_shape and one.pixel_size_m == other.pixel_size_m
