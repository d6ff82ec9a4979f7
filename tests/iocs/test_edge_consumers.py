"""The edge in several processes: detector, mirror, consumers, collector, edge and viewer, each of them a real one."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pvaccess as pva
import pytest
from following import Following
from harness import Process, start_script, wait_gone, write_config
from made_models import write_model

from benchmarks.processes import command_line, descendants
from iocs.client import ClientError
from iocs.demo_streams import Predictions
from iocs.edge_consumer_merge import IDLE, WORKING, InOrder
from iocs.edge_consumer_tools import GROUP_FRAMES
from pvdb import Pv, edge

HERE = Path(__file__).parent
PATIENCE_S = 600.0
COUNTERS = {
    "in": edge.FRAMES_IN, "out": edge.FRAMES_OUT, "missed": edge.FRAMES_MISSED, "dropped": edge.FRAMES_DROPPED,
    "rejected": edge.FRAMES_REJECTED, "empty": edge.FRAMES_EMPTY, "no_model": edge.FRAMES_NO_MODEL,
}  # fmt: skip
CONSUMERS = 2
DEALT_FRAMES = 2 * CONSUMERS * GROUP_FRAMES
"""So many that every consumer gets a whole group of them."""
PROCESSES = CONSUMERS + 1
"""The consumers and the collector; the mirror comes in addition where the detector has no distributor."""


class Beamline:
    """A detector, an edge with consumers, a model server and a viewer."""

    def __init__(self, folder: Path, prefix: str, *, mirrored: bool) -> None:
        self.folder, self.prefix = folder, prefix
        self.stream = f"{prefix}Det:Pva1:Image"
        source = f'stream = "{self.stream}"\n' if mirrored else ""
        text = f'[edge]\n{source}engine = "onnxruntime"\nthreads = 1\nfetch_timeout_s = 5.0\n'
        self.config = write_config(folder, prefix, text)
        self.processes = PROCESSES + mirrored
        with ExitStack() as parts:
            self._start(parts)
            self._parts = parts.pop_all()

    def _start(self, parts: ExitStack) -> None:
        """Start one part after the other; `parts` knows how each is stopped."""
        self.publisher = self._detector()
        parts.callback(lambda: self.publisher.stop())
        self.models = start_script(HERE / "model_server.py", self.folder / "models.log", self.prefix, self.folder)
        parts.callback(self.models.stop)
        command = [sys.executable, "-m", "iocs.cli", "ioc", "edge", "--consumers", str(CONSUMERS)]
        self.edge = Process([*command, "--config", str(self.config), "--attached"], self.folder / "edge.log")
        parts.callback(self.edge.stop)
        self.edge.wait_line(lambda line: "serving" in line)
        self.client = parts.enter_context(closing(Following(self.prefix)))
        self.client.watch(*COUNTERS.values(), edge.MODEL, edge.REFUSED, edge.MESSAGE, edge.SCAN_ID)
        self.predictions = parts.enter_context(closing(Predictions(f"{self.prefix}Edge:Phase")))

    def close(self) -> None:
        """Stop every part, also when one does not stop well."""
        self._parts.close()

    def send(self, count: int, **how: Any) -> None:
        """Begin to stream; `wait_sent` waits for the end."""
        self.publisher.tell(json.dumps({"count": count, **how}))

    def wait_sent(self) -> None:
        self.publisher.wait_count("done", self.publisher.told)

    def announce(self, version: int, phase_rad: float) -> None:
        write_model(self.folder, version, phase_rad)
        self.models.tell(json.dumps({"version": version}))

    def until(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        try:
            self.client.wait(condition, what, patience_s)
        except ClientError as error:
            raise AssertionError(f"{error}: {self.counts()}, {self.client.value(edge.MESSAGE)}") from error

    def shows(self, pv: Pv, value: Any) -> None:
        self.until(lambda: self.client.value(pv) == value, f"{pv.name} is {value}")

    def shows_counts(self, expected: dict[str, int]) -> None:
        """Wait for what is expected of the counters, all others being zero."""
        self.until(lambda: self.counts() == dict.fromkeys(COUNTERS, 0) | expected, f"{expected}")

    def counts(self) -> dict[str, int]:
        return {name: self.client.value(pv) for name, pv in COUNTERS.items()}

    def connect(self, name: str = "connect") -> None:
        """Send short scans until one has come all the way through every consumer before the next is sent."""
        deadline = time.monotonic() + PATIENCE_S
        for attempt in count(1):
            assert time.monotonic() < deadline, "not every frame comes through"
            before = self.client.value(edge.FRAMES_IN)
            self.send(DEALT_FRAMES, scan_id=f"{name}-{attempt}")
            self.wait_sent()
            with suppress(AssertionError):
                self.until(partial(self._is_in, before + DEALT_FRAMES), "all frames came through", 0.5 * attempt)
                return

    def _is_in(self, frames: int) -> bool:
        return bool(self.client.value(edge.FRAMES_IN) == frames)

    def restart_detector(self) -> None:
        self.publisher.kill()
        self.publisher = self._detector()

    def _detector(self) -> Process:
        return start_script(HERE / "frame_publisher.py", self.folder / "publisher.log", self.stream)

    def begin(self) -> None:
        """Have model 1 live, every path of a frame seen to work, and all counters at zero."""
        self.connect()
        self.announce(1, 0.1)
        self.shows(edge.MODEL, 1)
        self.reset()
        self.predictions.begin()

    def reset(self) -> None:
        """Have nothing counted, and that seen; only while nothing streams."""
        self.client.put(edge.RESET, 1)
        self.until(lambda: not any(self.counts().values()), "the counters are zero")

    def children(self, tool: str) -> list[int]:
        """The processes of the framework that run one tool."""
        found = []
        for pid in descendants(self.edge.process.pid):
            words = command_line(pid).split(b"\0")
            if b"iocs.edge_consumer_child" in words and tool.encode() in words:
                found.append(pid)
        return found


@pytest.fixture(params=[False, True], ids=["direct", "mirrored"])
def beamline(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Beamline]:
    mirrored = request.param
    made = Beamline(
        tmp_path, f"N{os.getpid()}{'m' if mirrored else 'd'}{time.monotonic_ns() % 10**6}:", mirrored=mirrored
    )
    try:
        yield made
    finally:
        made.close()


direct = pytest.mark.parametrize("beamline", [False], indirect=True, ids=["direct"])


def test_every_frame_is_predicted_in_order_also_while_a_model_is_swapped(beamline: Beamline) -> None:
    beamline.begin()
    beamline.send(803, rate_hz=100, scan_id="swap")
    beamline.predictions.wait_for(1, PATIENCE_S)
    beamline.announce(2, 0.2)
    beamline.shows(edge.MODEL, 2)
    beamline.send(200, first=804, rate_hz=100, scan_id="swap")  # the first may all have come before
    beamline.wait_sent()
    beamline.shows_counts({"in": 1003, "out": 1003})
    beamline.predictions.wait_for(1003, PATIENCE_S)
    got = beamline.predictions.of_last_scan()
    assert [p.unique_id for p in got] == list(range(1, 1004))
    assert {p.model_version for p in got} == {1, 2}
    beamline.predictions.begin()
    beamline.send(203, scan_id="after")
    beamline.shows(edge.FRAMES_OUT, 1206)
    beamline.predictions.wait_for(203, PATIENCE_S)
    assert [(p.unique_id, p.model_version) for p in beamline.predictions.of_last_scan()] == [
        (unique_id, 2) for unique_id in range(1, 204)
    ]


@direct
def test_frames_that_are_not_predicted_are_accounted_for(beamline: Beamline) -> None:
    beamline.connect()
    beamline.reset()
    beamline.send(11, scan_id="early")
    beamline.shows(edge.FRAMES_NO_MODEL, 11)
    beamline.announce(1, 0.1)
    beamline.shows(edge.MODEL, 1)
    beamline.send(9, first=12, scan_id="dark", counts=0)
    beamline.send(10, first=21, scan_id="small", side_px=8)
    beamline.send(21, first=31, scan_id="good")
    beamline.shows_counts({"in": 51, "out": 21, "rejected": 10, "empty": 9, "no_model": 11})


@direct
def test_a_gap_in_the_ids_is_missed_and_holds_nothing_up_for_long(beamline: Beamline) -> None:
    beamline.begin()
    beamline.send(20, scan_id="gap")
    beamline.send(20, first=26, scan_id="gap")
    beamline.shows(edge.FRAMES_OUT, 40)
    beamline.shows(edge.FRAMES_MISSED, 5)


def test_a_consumer_that_is_killed_is_told_of_replaced_and_its_frames_are_missed(beamline: Beamline) -> None:
    beamline.begin()
    victim, other = beamline.children("consumer")
    beamline.send(600, rate_hz=100, scan_id="killed")
    beamline.until(lambda: beamline.counts()["out"] >= 50, "50 frames are out")
    with beamline.client.passing(edge.MESSAGE, lambda text: "died" in text, timeout_s=PATIENCE_S):
        os.kill(victim, signal.SIGKILL)
    beamline.wait_sent()
    beamline.until(lambda: len(beamline.children("consumer")) == CONSUMERS, "another is started")
    assert other in beamline.children("consumer") and victim not in beamline.children("consumer")
    deadline, first = time.monotonic() + PATIENCE_S, 601
    while True:  # what is lost at the end of a scan shows when more of it comes, which the new consumer may lose too
        assert time.monotonic() < deadline, f"not every frame is accounted for: {beamline.counts()} of {first - 1}"
        beamline.send(20, first=first, scan_id="killed")
        beamline.wait_sent()
        first += 20
        with suppress(AssertionError):
            beamline.until(partial(_accounted, beamline, first - 1), "every frame is accounted for", 5.0)
            break
    assert beamline.counts()["out"] > 400


@pytest.mark.parametrize("beamline", [True], indirect=True, ids=["mirrored"])
def test_it_goes_on_when_the_collector_dies_and_when_the_detector_starts_again(beamline: Beamline) -> None:
    beamline.begin()
    (collector,) = beamline.children("collector")
    again = "the collector was started again"
    with beamline.client.passing(edge.MESSAGE, lambda text: again in text, timeout_s=PATIENCE_S):
        os.kill(collector, signal.SIGKILL)
    beamline.connect("collected")
    beamline.restart_detector()
    beamline.connect("restarted")
    beamline.reset()
    beamline.send(203, scan_id="again")
    beamline.shows_counts({"in": 203, "out": 203})


@direct
def test_setpoints_reach_the_consumers(beamline: Beamline) -> None:
    beamline.begin()
    beamline.client.put(edge.MIN_COUNTS, 10 * 16 * 16)
    deadline, first = time.monotonic() + PATIENCE_S, 1
    while not beamline.client.value(edge.FRAMES_EMPTY):  # of 9 counts in each pixel
        assert time.monotonic() < deadline, "they do not"
        beamline.send(5, first=first, scan_id="dim")
        beamline.wait_sent()
        first += 5
    beamline.client.put(edge.ENABLE, 0)
    beamline.client.put(edge.MIN_COUNTS, 1)
    beamline.reset()  # the stream process has taken what was put before it
    beamline.send(5, first=first, scan_id="off")
    beamline.shows(edge.SCAN_ID, "off")
    assert beamline.client.get(edge.FRAMES_IN) == 0


def _accounted(beamline: Beamline, sent: int) -> bool:
    counts = beamline.counts()
    known = sum(counts[name] for name in ("out", "dropped", "rejected", "empty", "no_model"))
    return counts["in"] == known and counts["in"] + counts["missed"] == sent


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_edge(beamline: Beamline, how: signal.Signals) -> None:
    beamline.connect()
    pids = descendants(beamline.edge.process.pid)
    assert sum(len(beamline.children(tool)) for tool in ("consumer", "collector", "mirror")) == beamline.processes
    beamline.edge.process.send_signal(how)
    wait_gone(pids)


class Collected:
    """The collector without its processes: what producers say goes in, what may go comes out."""

    def __init__(self) -> None:
        self._collector = InOrder(
            1,
            "nothing*",
            producerIdList=[1, 2],
            collectorCacheSize=4000,
            processingController=SimpleNamespace(userDataProcessor=None),
        )
        self._collector.producerChannelMap = {p: SimpleNamespace(isConnected=lambda: True) for p in (1, 2)}
        self.out: list[int] = []

    def say(self, producer: int, state: int) -> None:
        told = pva.NtNdArray()
        told.setInt("uniqueId", state)
        self._collector.addObjectToCache(producer, state, told)

    def put(self, producer: int, unique_id: int, time_s: int) -> None:
        frame = pva.NtNdArray()
        frame["dimension"] = [pva.PvDimension(1, 0, 1, 1, False)] * 2
        frame.setInt("uniqueId", unique_id)
        frame.setLong("timeStamp.secondsPastEpoch", time_s)
        self._collector.addObjectToCache(producer, unique_id, frame)
        self.release()

    def release(self) -> None:
        while self._collector.may_release():
            self.out += [unique_id for unique_id, _ in self._collector.getObjectsFromCache()]


def test_any_interleaving_of_consumers_comes_out_in_order() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        collected = Collected()
        ids = [unique_id for unique_id in range(1, 100) if chance.random() < 0.9]
        shares: dict[int, list[int]] = {1: [], 2: []}
        for place, unique_id in enumerate(ids):
            shares[1 + place // 8 % 2].append(unique_id)
        last = max(shares[1][-1], shares[2][-1])
        for producer in shares:
            collected.say(producer, WORKING)
            shares[producer].append(last + producer)  # so that every gap before is passed by both
        while any(shares.values()):
            producer = chance.choice([producer for producer, left in shares.items() if left])
            unique_id = shares[producer].pop(0)
            collected.put(producer, unique_id, unique_id)
        assert collected.out[: len(ids)] == ids


def test_the_next_frame_goes_at_once_and_one_behind_a_gap_waits_for_who_works() -> None:
    collected = Collected()
    for producer in (1, 2):
        collected.say(producer, WORKING)
    collected.put(1, 1, 1)
    assert collected.out == []  # the other may have an earlier one
    collected.put(2, 3, 3)
    assert collected.out == [1]
    collected.put(1, 2, 2)
    assert collected.out == [1, 2, 3]
    collected.put(1, 5, 5)
    assert collected.out == [1, 2, 3]
    collected.put(2, 6, 6)
    assert collected.out == [1, 2, 3, 5, 6]


def test_a_detector_that_starts_again_is_no_late_frame() -> None:
    collected = Collected()
    for producer in (1, 2):
        collected.say(producer, WORKING)
        collected.put(producer, producer, producer)
    collected.put(1, 2, 2)  # late: another put it out
    collected.put(1, 9, 9)  # waits: frames 3 to 8 may come
    collected.put(2, 1, 20)
    collected.put(1, 2, 21)
    assert collected.out == [1, 2, 9, 1, 2]


def test_who_has_nothing_is_not_waited_for_beyond_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    collected = Collected()
    collected.say(1, WORKING)
    collected.say(2, IDLE)
    monkeypatch.setattr("iocs.edge_consumer_merge.GRACE_S", 1000.0)
    collected.put(1, 4, 4)
    assert collected.out == []
    monkeypatch.setattr("iocs.edge_consumer_merge.GRACE_S", 0.0)
    collected.release()
    assert collected.out == [4]
