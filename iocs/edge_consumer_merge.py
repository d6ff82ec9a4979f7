"""The collector's part: frames of all consumers in the order of ids, each as soon as nothing can come before it.

pvapy's collector counts: it lets frames go when so many are there, or when none has come for 5 s. The last frames of a
scan would wait that long, and a frame that comes later than so many others is thrown away. Here the next id goes at
once, and a gap is closed as soon as every consumer is past it.
"""

import json
import time
from typing import Any

import pvaccess as pva
from pvapy.hpc.dataCollector import DataCollector, ProcessingThread
from pvapy.hpc.userDataProcessor import UserDataProcessor

from iocs.edge_consumer_child import vital

IDLE, WORKING = 0, 1
"""Ids of updates without pixels: a consumer has nothing, or has begun to work; a greater one is a process's."""
GRACE_S = 3.0
"""How long a frame waits for consumers that say they have nothing or are gone: for frames on their way to them."""
HOLD_S = 30.0
"""How long a frame waits for a consumer that is busy."""
LOOK_S = 0.1


class Publisher(UserDataProcessor):  # type: ignore[misc]
    """Puts out what was collected on a channel that is there from the start, so that its reader finds it."""

    def start(self) -> None:
        """Begin to serve the channel."""
        self.pvaServer.addRecord(self.outputChannel, pva.NtNdArray())

    def process(self, received: Any) -> Any:
        """Put a frame out."""
        self.pvaServer.update(self.outputChannel, received)
        return received

    def getStatsPvaTypes(self) -> dict[str, Any]:  # noqa: N802
        """`heard`: the process that the collector hears as each consumer, as JSON."""
        return {"heard": pva.STRING}

    def getOutputPvObjectType(self, received: Any) -> None:  # noqa: N802
        """None: the framework would make the channel at the first frame, which nobody would see."""


class Releasing(ProcessingThread):  # type: ignore[misc]
    """The collector's thread, which asks for every frame whether it may go."""

    def run(self) -> None:
        """Let frames go until told to stop."""
        vital(self._run)()

    def _run(self) -> None:
        self.isRunning = True
        while not self.isDone:
            self.dataCollector.clearEvent()
            self.dataCollector.look()
            while self.dataCollector.may_release():
                self.processObjects()
            self.dataCollector.waitOnEvent(LOOK_S)
        self.isRunning = False


class InOrder(DataCollector):  # type: ignore[misc]
    """Frames by id; an update without pixels tells of its consumer: its id is IDLE, WORKING or a process's."""

    lastObjectId: int | None  # noqa: N815

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.processingThread: ProcessingThread = Releasing("collector", self)
        self._came_s: dict[int, float] = {}
        self._latest: dict[int, int] = {}
        self._idle: dict[int, bool] = {}
        self._heard: dict[int, int] = {}
        self._last_ns = 0
        self._began_s = float("-inf")
        self._next_detector: list[tuple[int, int, Any]] = []

    def addObjectToCache(self, producer: int, unique_id: int, received: Any) -> None:  # noqa: N802
        """Keep what a consumer put out until it may go; called from the consumers' monitors."""
        with self.cacheLock:
            if not received["dimension"]:
                self._idle[producer] = unique_id != WORKING
                if unique_id > WORKING:
                    self._heard[producer] = unique_id
            elif self._next_detector:
                self._next_detector.append((producer, unique_id, received))
            else:
                self._take(producer, unique_id, received)
        self.setEvent()

    def look(self) -> None:
        """Take note of consumers that are gone: they have nothing, until they say something again."""
        with self.cacheLock:
            for producer in self.producerIdList:
                if not self._is_there(producer):
                    self._idle[producer] = True

    def may_release(self) -> bool:
        """Whether the frame with the lowest id may go."""
        with self.cacheLock:
            if not self.collectorCacheMap:
                return False
            if self._next_detector or self.nObjectsCached >= self.collectorCacheSize:
                return True
            first = self.minCachedObjectId
            if self.lastObjectId is not None and first == self.lastObjectId + 1:
                return True
            behind = [producer for producer in self.producerIdList if self._latest.get(producer, -1) < first]
            waited_s = time.monotonic() - self._came_s[first]
            if not behind or waited_s > HOLD_S:
                return True
            return waited_s > GRACE_S and all(self._idle.get(producer, True) for producer in behind)

    def getObjectsFromCache(self) -> list[tuple[int, Any]]:  # noqa: N802
        """The frames with the lowest ids, without a gap."""
        released: list[tuple[int, Any]] = super().getObjectsFromCache()
        with self.cacheLock:
            for unique_id, received in released:
                self._came_s.pop(unique_id, None)
                self._last_ns = max(self._last_ns, _time_ns(received))
            if self._next_detector and not self.collectorCacheMap:
                waiting, self._next_detector = self._next_detector, []
                self._begin_anew()
                for entry in waiting:
                    self._take(*entry)
        return released

    def getUserStats(self) -> dict[str, Any]:  # noqa: N802
        """The process of each consumer that was heard last, by its number."""
        return {"heard": json.dumps(self._heard)}

    def _take(self, producer: int, unique_id: int, received: Any) -> None:
        """Keep a frame; ids and times that disagree tell a restarted detector's frames from those that come late."""
        self._idle[producer] = False
        time_ns = _time_ns(received)
        if self.lastObjectId is not None and unique_id <= self.lastObjectId:
            if 0 < time_ns <= self._last_ns:
                self.nRejected += 1
                return
            if self.collectorCacheMap:
                self._next_detector.append((producer, unique_id, received))
                return
            self._begin_anew()
        elif 0 < time_ns < self._last_ns and time.monotonic() - self._began_s < HOLD_S:
            self.nRejected += 1
            return
        self._latest[producer] = unique_id
        self._came_s.setdefault(unique_id, time.monotonic())
        self.collectorCacheMap.setdefault(unique_id, []).append(received)
        self.nObjectsCached += 1
        self.minCachedObjectId = min(self.collectorCacheMap)

    def _begin_anew(self) -> None:
        self.lastObjectId, self._began_s = None, time.monotonic()
        self._latest.clear()

    def _is_there(self, producer: int) -> bool:
        return bool(self.producerChannelMap[producer].isConnected())


def _time_ns(received: Any) -> int:
    seconds = int(received.getLong("timeStamp.secondsPastEpoch"))
    return seconds * 1_000_000_000 + int(received.getInt("timeStamp.nanoseconds"))
