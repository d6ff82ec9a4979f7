"""What a whole edge computes, and in what: engines, fixed batches, the card's preparation, and too many frames."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from edge_line import SCALE_RAD, Line, a_line, scaling_onnx
from frame_publisher import pattern
from made_models import SIDE_PX, card
from onnx import TensorProto, helper

from iocs.config import parse
from phasing.geometry import Geometry
from pvdb import Severity, edge

RAW_PX, SATURATION = 37, 90
MASKED = (slice(10, 12), slice(20, 30))


def publish(line: Line, version: int, content: bytes, **changes: object) -> None:
    """Announce a network with a card of its own, and wait until it is live."""
    made = replace(card(version, content), **changes)  # type: ignore[arg-type]
    (line.folder / f"{version}.onnx").write_bytes(content)
    (line.folder / f"{version}.json").write_text(json.dumps(made.to_json()))
    line.announce(version, None)
    line.shows(edge.MODEL, version)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """An edge that computes with OpenVINO and begins with setpoints of its own."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    setpoints = "max_wait_ms = 2.0\nbatch_size = 4\n"
    with a_line(tmp_path_factory.mktemp("engines"), setpoints, engine="openvino") as line:
        yield line


@pytest.fixture
def line(started: Line) -> Line:
    started.begin()
    return started


def test_the_engine_in_use_is_shown_with_what_its_precision_costs(started: Line) -> None:
    import openvino

    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert started.client.get(edge.ENGINE) == f"openvino CPU {'bfloat16' if capable else 'float32'}"
    difference_rad = started.client.get(edge.ENGINE_DIFFERENCE)
    # of a network this small a processor may compute everything exactly, in bfloat16, too
    assert 0.0 <= difference_rad < (0.02 if capable else 1e-9)


def test_setpoints_start_where_the_configuration_says(started: Line) -> None:
    get = started.client.get
    assert (get(edge.BATCH_SIZE), get(edge.MAX_WAIT), get(edge.CONSUMERS)) == (4, 2.0, 0)
    assert get(edge.MIN_COUNTS) == parse({}).edge.min_counts


def test_a_network_of_a_fixed_batch_serves_any_number_of_frames(line: Line) -> None:
    network = onnx.load_from_string(scaling_onnx(2 * SCALE_RAD))
    for port in (*network.graph.input, *network.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 8
    network.graph.input[0].name = network.graph.node[0].input[0] = "input.1"
    publish(line, 2, network.SerializeToString())
    line.sent(3, counts=None)
    line.sent(8, first=4, counts=None, rate_hz=5000)
    line.balanced(11)
    for frame in line.phase.take(11):
        expected = pattern(frame.unique_id, SIDE_PX, "f4") * 2 * SCALE_RAD
        np.testing.assert_allclose(frame.array, expected, rtol=1e-2)


def by_hand(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What the card below makes of a frame, pixel by pixel."""
    good = raw < SATURATION
    good[MASKED] = False
    upright, upright_good = raw.T[::-1], good.T[::-1]  # transposed, then its rows flipped
    row, column = RAW_PX - 1 - 18, 17  # where the pixel (17, 18) of zero frequency has gone
    made = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    for i, j in np.ndindex(made.shape):
        rows = slice(row - SIDE_PX + 2 * i, row - SIDE_PX + 2 * i + 2)
        columns = slice(column - SIDE_PX + 2 * j, column - SIDE_PX + 2 * j + 2)
        kept = upright[rows, columns][upright_good[rows, columns]]
        made[i, j] = kept.mean() if kept.size else 0.0
    return made


def test_frames_are_prepared_as_the_card_says(line: Line) -> None:
    mask = np.zeros((RAW_PX, RAW_PX), np.bool_)
    mask[MASKED] = True
    geometry = Geometry(
        energy_ev=10_400.0, distance_m=1.55, pixel_size_m=55e-6, detector_shape_px=(RAW_PX, RAW_PX),
        crop_px=2 * SIDE_PX, crop_center_px=(17, 18), bin_px=2, transpose=True, flip_rows=True,
        saturation_counts=float(SATURATION), mask=mask,
    )  # fmt: skip
    publish(line, 3, scaling_onnx(3 * SCALE_RAD), geometry=geometry, pixel_size_m=geometry.object_pixel_size_m)
    line.sent(5, counts=None, side_px=RAW_PX)
    line.balanced(5)
    for frame in line.phase.take(5):
        expected = by_hand(pattern(frame.unique_id, RAW_PX, "f4")) * 3 * SCALE_RAD
        np.testing.assert_allclose(frame.array, expected, rtol=1e-2)
        assert frame.attributes["PixelSize"] == pytest.approx(geometry.object_pixel_size_m)


def slow_onnx(layers: int) -> bytes:
    """A network that takes its time: convolutions one after the other, each of which changes nothing to speak of."""
    rng = np.random.default_rng(0)
    shape = ["batch", 1, SIDE_PX, SIDE_PX]
    widths = [1, *[64] * layers, 1]
    nodes, constants = [], []
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        weights = rng.normal(0.0, 1e-2, (after, before, 3, 3)).astype(np.float32)
        constants.append(onnx.numpy_helper.from_array(weights, f"w{k}"))
        given, made = "input" if k == 0 else f"x{k}", "output" if k == layers else f"x{k + 1}"
        nodes.append(helper.make_node("Conv", [given, f"w{k}"], [made], pads=[1, 1, 1, 1]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "slow", ends[:1], ends[1:], constants)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )


def test_frames_that_the_edge_cannot_hold_are_dropped_and_counted(tmp_path: Path) -> None:
    with a_line(tmp_path, "queue_frames = 20\nparallel = 1\n") as line:
        content = slow_onnx(120)
        line.client.watch(edge.SCAN_DROPPED, edge.QUEUE_USED)
        publish(line, 2, content)
        line.begin()
        line.sent(600, rate_hz=3000, scan_id="flood")
        line.until(lambda: line.value(edge.FRAMES_DROPPED) > 0, "frames are dropped")
        line.until(lambda: line.value(edge.FRAMES_IN) + line.value(edge.FRAMES_MISSED) == 600, "each is accounted for")
        line.balanced(line.value(edge.FRAMES_IN))
        assert line.value(edge.SCAN_DROPPED) == line.value(edge.FRAMES_DROPPED)
        for pv in (edge.FRAMES_DROPPED, edge.SCAN_DROPPED):
            line.shows_alarm(pv, Severity.MAJOR)
        found = line.phase.until(lambda frames: len(frames) == line.value(edge.FRAMES_OUT), "what was not dropped")
        assert [frame.unique_id for frame in found] == sorted({frame.unique_id for frame in found})
        line.sent(5, first=601, scan_id="calm")
        line.shows(edge.SCAN_DROPPED, 0)
        line.shows_alarm(edge.FRAMES_DROPPED, Severity.NO_ALARM)
