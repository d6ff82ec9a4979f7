"""Who else is on the line: viewers that sleep or vanish, clients that put, a second edge, models that come and fail."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import pvaccess as pva
import pytest
from edge_line import SCALE_RAD, Line, a_line, scaling_onnx, write_scaling_model
from harness import Process, ioc_command, start_ioc
from made_models import card
from onnx import TensorProto, helper
from test_edge import PATIENCE_S

from pvdb import Severity, edge

RATE_HZ = 200.0
VIEWER = """
import sys
from iocs.stream import StreamReader, decode
reader = StreamReader(sys.argv[1], queue_size=10)
seen = False
while True:
    update = reader.next(1.0)
    if update is not None and decode(update) is not None and not seen:
        seen = True
        print("seen", flush=True)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with a_line(tmp_path_factory.mktemp("viewers")) as line:
        yield line


@pytest.fixture
def line(started: Line) -> Line:
    started.begin()
    return started


@pytest.fixture
def viewer(line: Line, tmp_path: Path) -> Iterator[Process]:
    """A client of its own process with a monitor of every prediction."""
    made = Process([sys.executable, "-c", VIEWER, f"{line.prefix}Edge:Phase"], tmp_path / "viewer.log")
    try:
        deadline = time.monotonic() + PATIENCE_S
        for first in count(1):
            assert time.monotonic() < deadline, "the viewer sees nothing"
            line.sent(1, first=first, scan_id="for the viewer")
            with suppress(AssertionError):
                made.wait_count("seen", 1, 0.2)
                break
        line.begin()
        yield made
    finally:
        made.process.send_signal(signal.SIGCONT)
        made.kill()


def _all_goes_well(line: Line, count: int) -> None:
    line.send(count, rate_hz=500, counts=None, scan_id="watched")
    line.wait_sent()
    line.balanced(count)
    assert [frame.unique_id for frame in line.phase.take(count)] == list(range(1, count + 1))
    assert line.value(edge.FRAMES_OUT) == count
    assert line.value(edge.FRAMES_MISSED) == 0


def test_a_viewer_that_sleeps_holds_nobody_up(line: Line, viewer: Process) -> None:
    os.kill(viewer.process.pid, signal.SIGSTOP)
    _all_goes_well(line, 2000)  # more than lies between the two


def test_a_viewer_that_vanishes_holds_nobody_up(line: Line, viewer: Process) -> None:
    line.send(600, rate_hz=RATE_HZ, counts=None)
    line.phase.take(100)
    viewer.process.kill()
    line.wait_sent()
    line.balanced(600)
    assert [frame.unique_id for frame in line.phase.take(600)] == list(range(1, 601))


@pytest.mark.parametrize("stream", [edge.PHASE, edge.STITCHED, edge.INPUT], ids=lambda pv: pv.name)
def test_a_stream_takes_no_put(line: Line, stream: object) -> None:
    line.sent(3, counts=None)
    line.phase.take(3)
    channel = pva.Channel(line.client.name(stream))  # type: ignore[arg-type]
    for put in (lambda: channel.put(99, "uniqueId"), lambda: channel.put(pva.NtNdArray())):
        with pytest.raises(pva.PvaException):
            put()
    line.sent(3, first=4, counts=None)
    assert [frame.unique_id for frame in line.phase.take(6)] == [1, 2, 3, 4, 5, 6]
    line.balanced(6)


def test_a_second_edge_of_the_same_prefix_is_refused_and_the_first_goes_on(line: Line, tmp_path: Path) -> None:
    line.send(900, rate_hz=RATE_HZ, counts=None)
    patient = "import iocs.server; iocs.server.TWIN_TIMEOUT_S = 60"  # a slow machine answers late
    command = ioc_command("edge", line.config, patient)
    second = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
    assert second.returncode != 0
    (told,) = [text for text in second.stderr.splitlines() if "served already" in text]
    assert f"{line.prefix}Edge:Ioc:Heartbeat" in told
    assert "Traceback" not in second.stderr
    line.wait_sent()
    line.balanced(900)
    frames = line.phase.take(900)
    assert [frame.unique_id for frame in frames] == list(range(1, 901))
    assert line.value(edge.FRAMES_MISSED) == 0


def test_a_swap_while_frames_stream_loses_none_and_keeps_the_order(line: Line) -> None:
    write_scaling_model(line.folder, 2, 2 * SCALE_RAD)
    line.send(600, rate_hz=RATE_HZ, counts=10)
    line.phase.take(1)
    line.announce(2, None)
    line.shows(edge.MODEL, 2)
    line.sent(200, first=601, counts=10)  # the first may all have come before
    line.balanced(800)
    frames = line.phase.take(800)
    assert [frame.unique_id for frame in frames] == list(range(1, 801))
    versions = [frame.attributes["ModelVersion"] for frame in frames]
    assert versions == sorted(versions) and set(versions) == {1, 2}
    for frame in frames:
        expected = 10 * SCALE_RAD * int(frame.attributes["ModelVersion"])
        assert frame.array[8, 8] == pytest.approx(expected, rel=1e-5)
    line.announce(1, None)
    line.shows(edge.MODEL, 1)


def _write(folder: Path, version: int, content: bytes) -> None:
    (folder / f"{version}.onnx").write_bytes(content)
    (folder / f"{version}.json").write_text(json.dumps(card(version, content).to_json()))


def _sliced_onnx() -> bytes:
    """A network whose predictions are smaller than its frames."""
    graph = helper.make_graph(
        [helper.make_node("Slice", ["input", "starts", "ends", "axes"], ["output"])],
        "slice",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 1, 16, 8])],
        [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("starts", 0), ("ends", 8), ("axes", 3))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _refused(line: Line, version: int, reason: str) -> None:
    line.until(lambda: str(line.value(edge.REFUSED)).startswith(f"{version} "), f"version {version} is refused")
    assert reason in line.value(edge.REFUSED)
    for pv in (edge.REFUSED, edge.MODEL_STATE):
        line.shows_alarm(pv, Severity.MAJOR)
    line.shows(edge.MODEL, 1)


def test_models_that_fail_are_refused_with_the_reason_and_the_former_never_stops(line: Line) -> None:
    cases = (
        (11, scaling_onnx()[:-20], "ONNX"),
        (12, _sliced_onnx(), "is 1 x 16 x 8, but its card says 1 x 16 x 16"),
        (13, scaling_onnx(float("nan")), "not a phase"),
        (14, scaling_onnx(side_px=8), "1 x 8 x 8"),
    )
    line.send(1400, rate_hz=RATE_HZ, counts=None)
    for version, content, reason in cases:
        _write(line.folder, version, content)
        line.announce(version, None)
        _refused(line, version, reason)
    write_scaling_model(line.folder, 15)
    line.announce(15, None, lie=True)
    _refused(line, 15, "digest")
    line.wait_sent()
    line.balanced(1400)
    frames = line.phase.take(1400)
    assert [frame.unique_id for frame in frames] == list(range(1, 1401))
    assert {frame.attributes["ModelVersion"] for frame in frames} == {1}
    for version in (15, 1):
        line.announce(version, None)
        line.shows(edge.MODEL, version)
        for pv in (edge.REFUSED, edge.MODEL_STATE):
            line.shows_alarm(pv, Severity.NO_ALARM)


def test_a_file_that_was_replaced_on_the_edges_disk_does_not_serve(line: Line) -> None:
    write_scaling_model(line.folder, 3, 3 * SCALE_RAD)
    line.announce(3, None)
    line.shows(edge.MODEL, 3)
    line.announce(1, None)
    line.shows(edge.MODEL, 1)
    (kept,) = (line.folder / "data" / "edge" / "models").glob("3-*.onnx")
    kept.write_bytes(scaling_onnx(7 * SCALE_RAD))
    line.announce(3, None)
    line.shows(edge.MODEL, 3)
    line.sent(2, counts=10)
    for frame in line.phase.take(2):
        np.testing.assert_allclose(frame.array, 30 * SCALE_RAD, rtol=1e-5)
    line.announce(1, None)
    line.shows(edge.MODEL, 1)


def test_a_model_that_takes_too_long_is_refused(line: Line) -> None:
    text = line.config.read_text()
    line.edge.stop()
    line.shows(edge.MODEL, None)
    try:
        line.config.write_text(text.replace("[edge]\n", "[edge]\nmodel_timeout_s = 1e-6\n"))
        line.edge = start_ioc("edge", line.config, "from iocs import edge_succession as s; s.BUILDS_IN_TIME = 1e10")
        line.shows(edge.MODEL, 1)  # it has served before, and needs no trial
        write_scaling_model(line.folder, 4)
        line.announce(4, None)
        _refused(line, 4, "not built within 1e-06 s")
    finally:
        line.config.write_text(text)
