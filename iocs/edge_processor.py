"""The edge's processing in a consumer of pvapy's streaming framework: its share of the frames, each passed on in order.

A frame that is predicted leaves with its phase, any other without its pixels; the attribute EdgeOutcome says what
became of it. So whoever reads the consumers' merged stream can account for every frame.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic, time, time_ns
from typing import Any

import numpy as np
import pvaccess as pva
from pvapy.hpc.adImageProcessor import AdImageProcessor
from pvapy.hpc.dataConsumer import DataConsumer

from iocs.edge_accounting import Scan
from iocs.edge_batches import Batcher, FloatArray, Model, Outcome, Pending
from iocs.edge_consumer_child import vital
from iocs.edge_consumer_merge import IDLE, WORKING
from iocs.edge_consumer_models import Models
from iocs.edge_consumer_orders import OUTCOME, REASON, VERSION, Became, Orders
from iocs.stream import Attribute, Encoder, NdFrame, decode, time_stamp_ns
from phasing.card import ModelCard
from phasing.errors import FrameRejected

IDLE_S = 0.1
POLL_S = 0.02
NO_SCAN = Scan("", 0)
NO_PIXELS = np.zeros((1, 1), np.uint8)


@dataclass(frozen=True, eq=False)
class Arrived:
    """A frame as it was received, and what became of it if that is known already."""

    frame: NdFrame
    became: Became | None = None
    reason: str = ""


class WhenHeard(DataConsumer):  # type: ignore[misc]
    """The framework's consumer, which asks for frames only when the collector hears it: what it did before is lost."""

    def start(self) -> None:
        """Begin to serve, and leave the subscription to the processor."""
        self.startTime = time()
        self.processingController.userDataProcessor.begin_with(self.dataReceiver.start)
        self.processingController.start()


class EdgeProcessor(AdImageProcessor):  # type: ignore[misc]
    """Predicts the frames that the distributor gives it; `configure` takes the edge's orders.

    Threads: the framework's receives, ours closes batches, the model's predict, another of ours puts out.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Build the live model before any frame is asked for; `config` holds the orders and `queue_frames`."""
        super().__init__(config)
        self._orders = Orders.from_dict(config["orders"])
        self._models = Models()
        self._models.follow(self._orders)
        self._models.wait()
        self._size = int(config["queue_frames"])
        self._arrived: queue.Queue[Arrived] = queue.Queue(2 * self._size)
        self._batches = Batcher(self._orders.settings, self._emit)
        self._batches.model = self._models.take_live(self._orders.live)
        self._live = self._orders.live if self._batches.model is not None else ""
        self._line: deque[Arrived | Pending] = deque()
        self._outgoing: queue.SimpleQueue[tuple[Future[list[Outcome]], ModelCard] | int | None] = queue.SimpleQueue()
        self._subscribe: Callable[[], None] | None = None
        self._said_idle = True
        self._worked_s = monotonic()
        self._encoder = Encoder()

    # what the framework calls

    def start(self) -> None:
        """Serve the output channel, so that the collector finds it before the first frame, and begin."""
        self.pvaServer.addRecord(self.outputChannel, _telling(os.getpid()))
        for work in (self._work, self._put_out):
            threading.Thread(target=vital(work), name=work.__name__, daemon=True).start()

    def begin_with(self, subscribe: Callable[[], None]) -> None:
        """Have `subscribe` called, which asks for frames, as soon as the orders let them through."""
        self._subscribe = subscribe

    def getOutputPvObjectType(self, received: Any) -> None:  # noqa: N802
        """None: the framework would make the channel at the first frame, which nobody would see."""

    def configure(self, said: dict[str, Any]) -> None:
        """Follow orders, unless newer ones came before."""
        orders = Orders.from_dict(said)
        if orders.serial >= self._orders.serial:
            self._orders = orders
            self._models.follow(orders)
            if orders.begun and self._subscribe is not None:
                subscribe, self._subscribe = self._subscribe, None
                subscribe()

    def getStatsPvaTypes(self) -> dict[str, Any]:  # noqa: N802
        """`answer`: how far the orders are followed, as JSON."""
        return {"answer": pva.STRING}

    def getStats(self) -> dict[str, Any]:  # noqa: N802
        """The answer to the orders."""
        return {"answer": self._models.answer(self._orders, self._live, self._batches.model).to_json()}

    def process(self, received: Any) -> Any:
        """Take a frame; when too many wait, only its id goes on, as dropped."""
        try:
            frame = decode(received)
        except FrameRejected as error:
            self._arrived.put(Arrived(_without_pixels(received), Became.REJECTED, str(error)))
            return received
        if frame is None:
            return received
        if self._arrived.qsize() >= self._size:
            self._arrived.put(Arrived(_marked(frame), Became.DROPPED))
        else:
            self._arrived.put(Arrived(frame))
        return received

    # ours

    def _work(self) -> None:
        while True:
            self._follow()
            timeout_s = self._batches.wait_s(POLL_S)
            if timeout_s <= 0.0:
                self._batches.wait_for_room(POLL_S)
                continue
            self._batches.close_if_due()
            try:
                arrived = self._arrived.get(timeout=timeout_s)
            except queue.Empty:
                self._say_idle()
                continue
            self._worked_s = monotonic()
            if self._said_idle:
                self._said_idle = False
                self._outgoing.put(WORKING)
            self._take(arrived)

    def _follow(self) -> None:
        orders = self._orders
        self._batches.settings = orders.settings
        if orders.live != self._live:
            model = self._models.take_live(orders.live)
            if model is not None or not orders.live:
                self._live = orders.live
                former = self._batches.swap(model)
                if former is not None:
                    self._models.retire(former)

    def _take(self, arrived: Arrived) -> None:
        """Give a frame to the model, or pass it on behind those before it."""
        became = arrived.became
        if became is None and not self._orders.settings.enabled:
            became = Became.DISABLED
        if became is None and self._batches.model is None:
            became = Became.NO_MODEL
        if became is None:
            pending = Pending(arrived.frame, NO_SCAN, time_ns(), monotonic())
            self._line.append(pending)
            self._batches.add(pending)
        else:
            self._line.append(Arrived(_marked(arrived.frame), became, arrived.reason))
            self._outgoing.put(None)

    def _emit(self, future: "Future[list[Outcome]]", model: Model) -> None:
        self._outgoing.put((future, model.card))

    def _say_idle(self) -> None:
        """Say that there is nothing here once nothing has come for a while, so that nobody waits for it."""
        if not self._said_idle and not self._line and monotonic() - self._worked_s > IDLE_S:
            self._said_idle = True
            self._outgoing.put(IDLE)

    def _put_out(self) -> None:
        while True:
            job = self._outgoing.get()
            if isinstance(job, int):
                self.pvaServer.update(self.outputChannel, _telling(job))
            elif job is None:
                self._pass_on()
            else:
                future, card = job
                for outcome in future.result():
                    self._pass_on()
                    self._line.popleft()
                    self._publish(_outgoing(outcome, card))
                self._batches.done()
                self._pass_on()

    def _pass_on(self) -> None:
        """Put out what is next in line and needs no prediction."""
        while self._line and isinstance(self._line[0], Arrived):
            arrived = self._line.popleft()
            assert isinstance(arrived, Arrived) and arrived.became is not None
            self._publish(_with(arrived.frame, arrived.became, arrived.reason))

    def _publish(self, frame: NdFrame) -> None:
        self.pvaServer.update(self.outputChannel, self._encoder.encode(frame))


def _telling(state: int) -> Any:
    """An update without pixels, which tells the collector something: IDLE, WORKING, or which process begins."""
    update = pva.NtNdArray()
    update.setInt("uniqueId", state)
    return update


def _outgoing(outcome: Outcome, card: ModelCard) -> NdFrame:
    frame, phase_rad = outcome.pending.frame, outcome.phase_rad
    if phase_rad is not None:
        return _with(frame, Became.PREDICTED, "", phase_rad, card.version)
    return _with(frame, Became.REJECTED if outcome.reason else Became.EMPTY, outcome.reason, version=card.version)


def _with(
    frame: NdFrame, became: Became, reason: str = "", array: FloatArray | None = None, version: int = 0
) -> NdFrame:
    """What is put out for a frame: its own id, time stamp and attributes, and what became of it."""
    attributes: dict[str, Attribute] = {**frame.attributes, OUTCOME: str(became), REASON: reason, VERSION: version}
    return NdFrame(frame.unique_id, frame.time_ns, NO_PIXELS if array is None else array, attributes)


def _marked(frame: NdFrame) -> NdFrame:
    """A frame without its pixels."""
    return NdFrame(frame.unique_id, frame.time_ns, NO_PIXELS, frame.attributes)


def _without_pixels(received: Any) -> NdFrame:
    """As much of an update as can be said of one that cannot be read."""
    unique_id = time_ns = 0
    with suppress(FrameRejected, pva.PvaException, LookupError, TypeError, ValueError):
        unique_id = int(received.getInt("uniqueId"))
        time_ns = time_stamp_ns(received)
    return NdFrame(unique_id, time_ns, NO_PIXELS)
