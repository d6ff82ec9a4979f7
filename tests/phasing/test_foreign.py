"""Networks from elsewhere: what is taken, what is refused and why, and the card that is made."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from phasing.errors import ModelError
from phasing.foreign import central_weight, foreign_card, read_network, read_weight
from phasing.geometry import Geometry

SIDE_PX = 16
Shape = list[int | str]


def network(
    path: Path,
    *,
    taken: Shape | None = None,
    given: Shape | None = None,
    inputs: int = 1,
    outputs: int = 1,
    dtype: int = TensorProto.FLOAT,
    amplitude: float = 1.0,
    opset: int = 12,
) -> Path:
    """amplitude * tanh(sum of the inputs) as an ONNX file, `outputs` times; its input is called input.1."""
    taken = ["batch", 1, SIDE_PX, SIDE_PX] if taken is None else taken
    names = [f"input.{i + 1}" for i in range(inputs)]
    nodes = [helper.make_node("Sum", names, ["sum"]), helper.make_node("Tanh", ["sum"], ["bounded"])]
    nodes += [helper.make_node("Mul", ["bounded", "amplitude"], [f"out.{i}"]) for i in range(outputs)]
    constant = helper.make_tensor("amplitude", dtype, [1], [amplitude])
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(name, dtype, taken) for name in names],
        [helper.make_tensor_value_info(f"out.{i}", dtype, given or taken) for i in range(outputs)],
        [constant],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """As the authors published theirs: opset 12, a fixed batch of 8, input `input.1`, a convolution."""
    shape = [8, 1, SIDE_PX, SIDE_PX]
    weight = np.random.default_rng(0).normal(0.0, 0.1, (1, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input.1", "weight"], ["45"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["45"], ["46"]),
        helper.make_node("Mul", ["46", "pi"], ["47"]),
    ]
    graph = helper.make_graph(
        nodes,
        "torch-jit-export",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("47", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.ravel()),
            helper.make_tensor("pi", TensorProto.FLOAT, [1], [np.pi]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=6)
    onnx.checker.check_model(model)
    path = tmp_path / "best_model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_as_the_authors_published_theirs_gets_a_card(published: Path) -> None:
    geometry = Geometry(
        energy_ev=10e3, distance_m=1.55, pixel_size_m=55e-6, detector_shape_px=(68, 68), crop_px=64, bin_px=4
    )
    read = read_network(published)
    assert (read.batch_size, read.side_px) == (8, SIDE_PX)
    card = foreign_card(read, geometry, "siemens-0123456789", counts_scale=0.5, pixel_size_m=10e-9)
    assert card.digest == hashlib.sha256(published.read_bytes()).hexdigest()
    assert card.input_shape == (1, SIDE_PX, SIDE_PX)
    assert (card.version, card.parent, card.scans) == (0, None, ())
    assert (card.val_loss, card.losses, card.val_losses) == (None, (), ())
    assert (card.counts_scale, card.pixel_size_m) == (0.5, 10e-9)
    assert foreign_card(read, geometry, "siemens").pixel_size_m == geometry.object_pixel_size_m


@pytest.mark.parametrize("taken", [["batch", 1, SIDE_PX, SIDE_PX], [1, 1, SIDE_PX, SIDE_PX], ["n", 1, "h", "w"]])
def test_any_batch_and_open_sides_are_taken(tmp_path: Path, tiny_geometry: Geometry, taken: Shape) -> None:
    card = foreign_card(read_network(network(tmp_path / "a.onnx", taken=taken)), tiny_geometry, "any")
    assert card.input_shape == (1, SIDE_PX, SIDE_PX)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"inputs": 2}, r"one input, not 2 \(input.1, input.2\)"),
        ({"outputs": 2}, r"one output, not 2 \(out.0, out.1\)"),
        ({"dtype": TensorProto.DOUBLE}, r"input.1 must be float32, not tensor\(double\)"),
        ({"taken": ["batch", SIDE_PX, SIDE_PX]}, r"must be \(B, 1, n, n\), not \(batch, 16, 16\)"),
        ({"taken": ["batch", 2, SIDE_PX, SIDE_PX]}, r"must be \(B, 1, n, n\), not \(batch, 2, 16, 16\)"),
        ({"taken": ["batch", 1, SIDE_PX, 8]}, r"must be square, not \(batch, 1, 16, 8\)"),
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, how: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelError, match=rf"a\.onnx: .*{reason}"):
        read_network(network(tmp_path / "a.onnx", **how))  # type: ignore[arg-type]


def test_another_shape_given_than_taken_is_refused(tmp_path: Path) -> None:
    pooled = helper.make_model(
        helper.make_graph(
            [helper.make_node("MaxPool", ["in"], ["out"], kernel_shape=[2, 2], strides=[2, 2])],
            "pooled",
            [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 1, 16, 16])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, 8, 8])],
        ),
        opset_imports=[helper.make_opsetid("", 12)],
        ir_version=7,
    )
    path = tmp_path / "pooled.onnx"
    path.write_bytes(pooled.SerializeToString())
    with pytest.raises(ModelError, match="takes 16 x 16 and gives 8 x 8 pixels"):
        read_network(path)


def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path: Path, published: Path) -> None:
    whole = published.read_bytes()
    for name, content in (("empty", b""), ("text", b"not a network\n" * 100), ("cut", whole[: len(whole) // 2])):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name}\.onnx is no ONNX file that can be used: ") as caught:
            read_network(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        read_network(tmp_path)
    with pytest.raises(ModelError, match=r"missing\.onnx cannot be read: No such file"):
        read_network(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("raw_px", "crop_px", "bin_px", "arithmetic"),
    [(516, 512, 4, "516 - 2 x 2 = 512, / 4 = 128"), (64, 64, 1, "64, / 1 = 64"), (65, 64, 2, "64, / 2 = 32")],
)
def test_numbers_that_do_not_fit_are_all_named(
    published: Path, raw_px: int, crop_px: int, bin_px: int, arithmetic: str
) -> None:
    geometry = Geometry(
        energy_ev=10e3,
        distance_m=1.55,
        pixel_size_m=55e-6,
        detector_shape_px=(raw_px, raw_px),
        crop_px=crop_px,
        bin_px=bin_px,
    )
    with pytest.raises(ModelError) as caught:
        foreign_card(read_network(published), geometry, "any")
    assert str(caught.value) == f"{arithmetic}, but the network takes 16"


@pytest.mark.parametrize(("amplitude", "reason"), [(np.nan, "not finite"), (10.0, "no phase in rad")])
def test_a_network_that_predicts_no_phase_is_refused(
    tmp_path: Path, tiny_geometry: Geometry, amplitude: float, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        foreign_card(read_network(network(tmp_path / "a.onnx", amplitude=amplitude)), tiny_geometry, "any")


def test_the_weight_of_an_unknown_probe_is_central_smooth_and_nowhere_zero() -> None:
    weight = central_weight(128)
    assert weight.dtype == np.float32
    assert weight.shape == (128, 128)
    assert weight.min() > 0
    assert weight.max() == 1
    assert np.allclose(weight, weight[::-1, ::-1])
    assert np.allclose(weight, weight.T)
    assert np.all(np.diff(weight[64, :64]) > 0)
    assert weight[64, 0] < 1e-3


def test_a_probe_is_read_as_weight_or_as_complex_modes(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    modes = generator.normal(size=(2, 16, 16)) + 1j * generator.normal(size=(2, 16, 16))
    intensity = (np.abs(modes) ** 2).sum(axis=0)
    for name, array in (("probe", modes), ("deep", modes[None]), ("weight", intensity)):
        np.save(tmp_path / f"{name}.npy", array)
        read = read_weight(tmp_path / f"{name}.npy", 16)
        assert read.dtype == np.float32
        assert np.allclose(read, intensity / intensity.max())


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((8, 8)), r"must be \(16, 16\), or a complex probe .* not \(8, 8\)"),
        (np.ones((2, 16, 16)), "must be"),
        (np.zeros((16, 16)), "somewhere above 0"),
        (-np.ones((16, 16)), "not negative"),
        (np.full((16, 16), np.nan), "finite"),
        (np.zeros((0, 16, 16), complex), "somewhere above 0"),
    ],
)
def test_a_weight_that_cannot_be_is_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    path = tmp_path / "probe.npy"
    np.save(path, array)
    with pytest.raises(ModelError, match=rf"probe\.npy.*{reason}"):
        read_weight(path, 16)


def test_a_probe_that_is_no_npy_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "probe.npy"
    path.write_text("hello")
    for wrong in (path, tmp_path, tmp_path / "missing.npy"):
        with pytest.raises(ModelError, match="can be read"):
            read_weight(wrong, 16)
