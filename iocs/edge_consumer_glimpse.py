"""Raw frames for the eye and for trials where others predict: the newest one, a few times a second."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import pvaccess as pva

from iocs.edge_intake import RECENT_FRAMES
from iocs.stream import NdFrame, decode
from phasing.card import ModelCard
from phasing.errors import FrameRejected
from phasing.frames import prepare

ANSWER_S = 1.0


class Glimpse:
    """Owns the thread that asks the detector's stream for its newest frame."""

    def __init__(
        self, source: str, period_s: float, *, card: Callable[[], ModelCard | None], show: Callable[[NdFrame], None]
    ) -> None:
        """`show` gets frames prepared for the model whose card `card` returns, from the thread."""
        self._period_s, self._card, self._show = period_s, card, show
        self.recent: deque[npt.NDArray[Any]] = deque(maxlen=RECENT_FRAMES)
        self._seen: tuple[int, int] | None = None
        self._channel = pva.Channel(source)
        self._channel.setTimeout(ANSWER_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="edge-glimpse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._period_s):
            frame = self._look()
            if frame is None or (frame.unique_id, frame.time_ns) == self._seen:
                continue
            self._seen = frame.unique_id, frame.time_ns
            self.recent.append(frame.array)
            card = self._card()
            if card is not None:
                self._prepare(frame, card)

    def _look(self) -> NdFrame | None:
        try:
            return decode(self._channel.get("field()"))
        except (pva.PvaException, FrameRejected):  # the consumers count and tell what cannot be read
            return None

    def _prepare(self, frame: NdFrame, card: ModelCard) -> None:
        try:
            counts = prepare(frame.array[None], card.geometry)[0]
        except FrameRejected:
            return
        self._show(NdFrame(frame.unique_id, frame.time_ns, counts, frame.attributes, "counts"))
