"""A beamline that several tests of one module share, and what they look at: frames, alarms, maps."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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
BESIDE = (edge.FRAMES_MISSED, edge.FRAMES_UNPLACED, edge.FRAMES_MISMATCHED, edge.SCAN_MISSED, edge.SCAN_REJECTED)
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
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Forget what came before."""
        with self._changed:
            self._found = []

    def until(self, condition: Callable[[list[NdFrame]], bool], what: str) -> list[NdFrame]:
        """All frames since `begin`, once the condition holds for them."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self._found), PATIENCE_S), (
                f"{what}: {[(f.unique_id, dict(f.attributes)) for f in self._found[-3:]]} of {len(self._found)}"
            )
            return list(self._found)

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
            found = None if update is None else decode(update)
            if found is not None:
                copy = replace(found, array=found.array.copy())
                with self._changed:
                    self._found.append(copy)
                    self._changed.notify_all()


class Line(Beamline):
    """A beamline with a model that scales counts, and viewers of its streams."""

    def __init__(self, folder: Path, prefix: str, more: str = "", *, engine: str = "onnxruntime") -> None:
        super().__init__(folder, prefix, more, engine=engine)
        try:
            self.client.watch(*WATCHED)
            self.until(lambda: self.client.value(edge.STATE) == "No model", "the edge is up")
            self.phase, self.stitched = Frames(f"{prefix}Edge:Phase"), Frames(f"{prefix}Edge:Stitched")
            self.start_models()
            write_scaling_model(folder, 1)
            self.announce(1, None)
            self.shows(edge.MODEL, 1)
            _connect(self)
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        self.phase.close()
        self.stitched.close()
        super().close()

    def begin(self) -> None:
        """Count from zero: nothing of the test before is left."""
        for pv in (edge.BATCH_SIZE, edge.MAX_WAIT, edge.MIN_COUNTS):
            self.client.put(pv, pv.initial)
        self.client.put(edge.RECORD, 0)
        self.client.put(edge.ENABLE, 1)
        self.client.put(edge.RESET, 1)
        self.until(lambda: self.value(edge.FRAMES_IN) == 0 == self.value(edge.FRAMES_OUT), "the counters are zero")
        self.phase.begin()
        self.stitched.begin()
        self.predictions.begin()

    def value(self, pv: Pv) -> Any:
        return self.client.value(pv)

    def sent(self, count: int, **how: Any) -> None:
        """Stream frames and wait until they are sent."""
        self.send(count, **how)
        self.wait_sent()

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
    """The severity of a PV, on Channel Access."""
    from caproto.sync import client

    read = client.read(full_name(prefix, pv), data_type="time", timeout=PATIENCE_S, repeater=False)
    return Severity(int(read.metadata.severity))


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
