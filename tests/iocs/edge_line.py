"""A beamline that several tests of one module share, and what they look at: frames, alarms, maps."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import onnx
from made_models import SIDE_PX, card
from onnx import TensorProto, helper
from test_edge import PATIENCE_S, Beamline, _connect

from iocs.client import ClientError
from iocs.stream import NdFrame, StreamReader, decode
from pvdb import Pv, Severity, edge, full_name

SCALE_RAD = 1e-3
ACCOUNT = (edge.FRAMES_OUT, edge.FRAMES_DROPPED, edge.FRAMES_REJECTED, edge.FRAMES_EMPTY, edge.FRAMES_NO_MODEL)
"""What the frames that came in add up to."""
BESIDE = (
    edge.FRAMES_MISSED, edge.FRAMES_UNPLACED, edge.FRAMES_MISMATCHED, edge.SCAN_MISSED, edge.SCAN_REJECTED,
    edge.SCAN_IN, edge.SCAN_OUT,
)  # fmt: skip
"""Counters that are shown after those."""
WATCHED = (
    edge.SCAN_MISSED, edge.SCAN_REJECTED, edge.SCAN_OUT, edge.SCAN_IN, edge.REJECTED_BECAUSE, edge.SCAN_STATE,
    edge.FRAMES_UNPLACED, edge.FRAMES_WAITING, edge.FRAMES_MISMATCHED, edge.LATENCY_MEDIAN, edge.LATENCY_FROM,
    edge.CONSISTENCY_RATIO, edge.RECORD_STATE, edge.RECORD_FILE, edge.RECORD_FRAMES, edge.RECORD_DROPPED,
)  # fmt: skip


class Frames:
    """Every image of a stream, collected by a thread of its own."""

    def __init__(self, name: str) -> None:
        self._reader = StreamReader(name, queue_size=5000)
        self._changed = threading.Condition()
        self._found: list[NdFrame] = []
        self._connected, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def wait_connected(self) -> None:
        """Wait for the first update, which is empty in a stream that is new: none is missed that comes after it."""
        assert self._connected.wait(PATIENCE_S), "the stream is not there"

    def begin(self) -> None:
        """Forget what came before."""
        with self._changed:
            self._found = []

    def until(
        self, condition: Callable[[list[NdFrame]], bool], what: str, timeout_s: float = PATIENCE_S
    ) -> list[NdFrame]:
        """All frames since `begin`, once there are any and the condition holds for them."""
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self._found) and condition(self._found), timeout_s), (
                f"{what}: {[(f.unique_id, dict(f.attributes)) for f in self._found[-3:]]} of {len(self._found)}"
            )
            return list(self._found)

    def until_of(self, scan_id: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait for any frame of a scan."""
        self.until(lambda found: any(f.attributes["ScanId"] == scan_id for f in found), scan_id, timeout_s)

    def take(self, number: int) -> list[NdFrame]:
        """So many frames since `begin`."""
        return self.until(lambda found: len(found) >= number, f"{number} frames")

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._reader.close()

    def _collect(self) -> None:
        while not self._closing.is_set():
            update = self._reader.next(0.2)
            if update is None:
                continue
            self._connected.set()
            found = decode(update)
            if found is not None:
                copy = replace(found, array=found.array.copy())
                with self._changed:
                    self._found.append(copy)
                    self._changed.notify_all()


class Line(Beamline):
    """A beamline with a model that scales counts, and viewers of its streams."""

    scan = ""
    """The scan of the frames that are sent, where a test does not say another."""

    def _start(self, parts: ExitStack) -> None:
        self._numbers = count()
        super()._start(parts)
        self.client.watch(*WATCHED)
        self.until(lambda: self.client.value(edge.STATE) == "No model", "the edge is up")
        self.phase = parts.enter_context(closing(Frames(f"{self.prefix}Edge:Phase")))
        self.stitched = parts.enter_context(closing(Frames(f"{self.prefix}Edge:Stitched")))
        self.start_models()
        write_scaling_model(self.folder, 1)
        self.announce(1, None)
        self.shows(edge.MODEL, 1)
        _connect(self)
        self._see_a_frame()
        self.stitched.wait_connected()

    def begin(self) -> None:
        """Count from zero, in a scan of its own: nothing of the test before is left, or still on its way."""
        for pv in (edge.BATCH_SIZE, edge.MAX_WAIT, edge.MIN_COUNTS):
            self.client.put(pv, pv.initial)
        self.client.put(edge.RECORD, 0)
        self.client.put(edge.ENABLE, 1)
        self.client.put(edge.RESET, 1)  # the stream process has taken what was put before it
        self._see_a_frame()
        self.reset()
        self.until(lambda: not any(map(self.value, BESIDE)), "the others are zero")
        self.scan = f"scan-{next(self._numbers)}"
        self.phase.begin()
        self.stitched.begin()
        self.predictions.begin()

    def _see_a_frame(self) -> None:
        """Send scans of one frame until one comes through: what was sent before it has come through, too."""
        deadline = time.monotonic() + PATIENCE_S
        for attempt in count():
            assert time.monotonic() < deadline, "frames do not come through"
            scan_id = f"seen-{next(self._numbers)}"
            self.sent(1, scan_id=scan_id)
            with suppress(AssertionError):
                self.phase.until_of(scan_id, 2.0 + attempt)
                return

    def send(self, count: int, **how: Any) -> None:
        """Begin to stream frames of this test's scan, where `how` does not say another."""
        super().send(count, **{"scan_id": self.scan} | how)

    def value(self, pv: Pv) -> Any:
        return self.client.value(pv)

    def sent(self, count: int, **how: Any) -> None:
        """Stream frames and wait until they are sent."""
        self.send(count, **how)
        self.wait_sent()

    def send_until_seen(self, first: int, **how: Any) -> int:
        """Send frames one after the other until one comes through; its id."""
        deadline = time.monotonic() + PATIENCE_S
        for unique_id in count(first):
            assert time.monotonic() < deadline, "no frame comes through"
            self.sent(1, first=unique_id, **how)
            with suppress(AssertionError):
                self.phase.until(lambda found, sent=unique_id: found[-1].unique_id == sent, "the frame", 0.5)
                return unique_id
        raise AssertionError("unreachable: ids have no end")

    def balanced(self, frames_in: int) -> None:
        """Wait until so many frames came in and each of them is accounted for, as it must be with none in flight."""
        try:
            self.until(lambda: self.value(edge.FRAMES_IN) == frames_in == sum(map(self.value, ACCOUNT)), "balanced")
        except ClientError as error:
            found = {pv.name: self.value(pv) for pv in (edge.FRAMES_IN, *ACCOUNT, edge.FRAMES_MISSED)}
            raise AssertionError(f"{frames_in} frames came in, but {found}") from error
        self.until(lambda: all(self.value(pv) == self.client.get(pv) for pv in BESIDE), "the other counters are shown")

    def alarms(self, pv: Pv) -> tuple[Severity, Severity]:
        """The severity that a PV shows on pvAccess and on Channel Access."""
        return pva_alarm(self.prefix, pv)[0], ca_severity(self.prefix, pv)

    def shows_alarm(self, pv: Pv, severity: Severity) -> None:
        """Wait until both protocols show a severity."""
        self.until(lambda: self.alarms(pv) == (severity, severity), f"{pv.name} is {severity.name}")


def pva_alarm(prefix: str, pv: Pv) -> tuple[Severity, str]:
    """Severity and message of a PV, on pvAccess."""
    from p4p.client.thread import Context

    with Context("pva", conf=dict(os.environ), useenv=False, nt=False) as context:
        alarm = context.get(full_name(prefix, pv), timeout=PATIENCE_S).alarm
    return Severity(alarm.severity), str(alarm.message)


def ca_severity(prefix: str, pv: Pv) -> Severity:
    """The severity of a PV, on Channel Access; caproto repeats a lost search after half of its timeout only."""
    from caproto import CaprotoTimeoutError
    from caproto.sync import client

    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            read = client.read(full_name(prefix, pv), data_type="time", timeout=4.0, repeater=False)
            return Severity(int(read.metadata.severity))
        except CaprotoTimeoutError:
            assert time.monotonic() < deadline_s, f"{pv.name} does not answer on Channel Access"


def scaling_onnx(factor: float = SCALE_RAD, side_px: int = SIDE_PX) -> bytes:
    """A network that predicts its counts times a factor: every pixel tells which it was."""
    shape = ["batch", 1, side_px, side_px]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["input", "factor"], ["output"])],
        "scale",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_scaling_model(folder: Path, version: int, factor: float = SCALE_RAD) -> None:
    """Such a network's ONNX file and card."""
    content = scaling_onnx(factor)
    (folder / f"{version}.onnx").write_bytes(content)
    made = card(version, content)
    assert made.digest == hashlib.sha256(content).hexdigest()
    (folder / f"{version}.json").write_text(json.dumps(made.to_json()))


@contextmanager
def a_line(folder: Path, more: str = "", *, engine: str = "onnxruntime") -> Iterator[Line]:
    """A started line for a module's tests."""
    line = Line(folder, f"L{os.getpid()}{folder.name[-6:].replace('_', '').replace('-', '')}:", more, engine=engine)
    try:
        yield line
    finally:
        line.close()
