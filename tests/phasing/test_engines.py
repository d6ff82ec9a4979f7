import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from engine_networks import NAMES, SIDE_PX, card_of_side, frames, small_network, with_batch, with_weights
from onnx import TensorProto

from phasing.checkpoint import load_checkpoint
from phasing.engines import Engine, EngineOptions, FloatArray, build, build_engine, engine_names_available, libraries
from phasing.engines.onnxruntime_engine import OnnxRuntimeNetwork
from phasing.errors import MissingExtra, ModelError
from phasing.network import load_network

TOLERANCE_RAD = {"float32": 1e-4, "bfloat16": 0.04}
"""bfloat16 has 8 bits of precision, and there are 17 layers."""


def built(exported: Any, onnx_bytes: bytes | None = None, **options: Any) -> Engine:
    content = exported.onnx_path.read_bytes() if onnx_bytes is None else onnx_bytes
    return build_engine(content, exported.draft, EngineOptions(**{"threads": 1, **options}))


def expected_rad(exported: Any, counts: FloatArray) -> FloatArray:
    scaled = torch.from_numpy(counts * np.float32(exported.draft.counts_scale))
    with torch.inference_mode():
        phase_rad: FloatArray = load_network(load_checkpoint(exported.checkpoint_path).state)(scaled).numpy()
    return phase_rad


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_as_the_trained_network_does_whatever_the_number_of_frames(
    exported: Any, name: str, precision: str
) -> None:
    engine = built(exported, name=name, precision=precision)
    assert engine.name.split()[0] == name
    assert engine.batch_size is None
    computed_in = engine.name.split()[2]
    assert precision in ("auto", computed_in)
    for num in (1, 3, 8, 19):
        phase_rad = engine.infer(frames(num))
        assert phase_rad.shape == (num, 1, SIDE_PX, SIDE_PX)
        assert phase_rad.dtype == np.float32
        difference_rad = np.abs(phase_rad - expected_rad(exported, frames(num)))
        # What is promised of reduced precision is the mean; how far a single pixel is off depends on the processor.
        off_rad = difference_rad.max() if computed_in == "float32" else difference_rad.mean()
        assert off_rad < TOLERANCE_RAD[computed_in]
    engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_difference_to_float32_is_measured_on_the_frames_given(exported: Any, name: str) -> None:
    if name == "onnxruntime":
        pytest.skip("it computes in float32 on a CPU")
    onnx_bytes, counts = exported.onnx_path.read_bytes(), frames(12)
    options = EngineOptions(name=name, precision="bfloat16", threads=1, max_difference_rad=1.0)
    try:
        engine = build_engine(onnx_bytes, exported.draft, options, counts)
    except ModelError as error:
        assert "no bfloat16" in str(error)
        pytest.skip("this processor has no bfloat16")
    truth_rad = build_engine(onnx_bytes, exported.draft, EngineOptions(name="onnxruntime")).infer(counts)
    assert engine.difference_rad is not None
    assert 0.0 < engine.difference_rad < TOLERANCE_RAD["bfloat16"]
    assert engine.difference_rad == pytest.approx(float(np.abs(engine.infer(counts) - truth_rad).mean()), rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_too_large_a_difference_brings_float32(exported: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    precision = "auto" if name != "torch" else "bfloat16"
    reduced = "float32" not in built(exported, name=name, precision=precision, max_difference_rad=1.0).name
    engine = built(exported, name=name, precision=precision, max_difference_rad=1e-9)
    assert engine.name == f"{name} CPU float32"
    assert engine.difference_rad is None
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert any("float32 takes the place of bfloat16" in text for text in said) == reduced


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_bfloat16_spoils_is_served_in_float32(exported: Any, name: str) -> None:
    # A signal of about 0.1 on a level of 1000, which the last layer takes away again: bfloat16's step is 8 there.
    onnx_bytes = exported.onnx_path.read_bytes()
    weights = {tensor.name: tensor for tensor in onnx.load_model_from_string(onnx_bytes).graph.initializer}
    level = 1000.0 * onnx.numpy_helper.to_array(weights["decoder2.20.weight"]).sum()
    raised = {"decoder2.17.bias": lambda bias: bias + 1000.0, "decoder2.20.bias": lambda bias: bias - level}
    spoiled = with_weights(onnx_bytes, raised)
    precision = "auto" if name != "torch" else "bfloat16"
    engine = built(exported, spoiled, name=name, precision=precision)
    assert engine.name == f"{name} CPU float32"


def test_a_network_that_overflows_float16_is_served_in_float32(exported: Any) -> None:
    changes = {
        "encoder.0.weight": lambda weight: weight * 1e6,
        "encoder.0.bias": lambda bias: bias * 1e6,
        "encoder.2.weight": lambda weight: weight / 1e6,
    }
    overflowing = with_weights(exported.onnx_path.read_bytes(), changes)
    assert built(exported, name="torch", precision="float16", max_difference_rad=1.0).name == "torch CPU float16"
    engine = built(exported, overflowing, name="torch", precision="float16")
    assert engine.name == "torch CPU float32"
    assert np.abs(engine.infer(frames(3)) - expected_rad(exported, frames(3))).max() < 1e-3


@pytest.mark.parametrize("parallel", [1, 2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_parallel_callers_get_their_own_answers(exported: Any, name: str, parallel: int) -> None:
    engine = built(exported, name=name, precision="float32", threads=2, parallel=parallel)
    assert engine.parallel == parallel
    inputs = [frames(1 + caller % 3, seed=caller) * (1.0 + caller) for caller in range(4)]
    expected = [expected_rad(exported, counts) for counts in inputs]
    assert np.abs(expected[0][0] - expected[3][0]).max() > 0.01

    def call(caller: int) -> list[FloatArray]:
        return [engine.infer(inputs[caller]) for _ in range(50)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(call, range(4)))
    for caller in range(4):
        # Looked at when all are done: an answer that a later call overwrites is nobody's own.
        assert max(np.abs(answer - expected[caller]).max() for answer in answers[caller]) < 1e-4
    engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_fixed_number_of_frames_is_padded_and_split(exported: Any, name: str) -> None:
    fixed = with_batch(exported.onnx_path.read_bytes(), 8)
    engine = built(exported, fixed, name=name, precision="float32", parallel=2)
    assert engine.batch_size == (None if name == "torch" else 8)
    for num in (1, 5, 8, 13, 16):
        assert np.abs(engine.infer(frames(num)) - expected_rad(exported, frames(num))).max() < 1e-4


@pytest.mark.parametrize("name", [name for name in NAMES if name != "torch"])
def test_sizes_that_the_network_leaves_open_are_the_cards(exported: Any, name: str) -> None:
    open_sizes = small_network([("b", 1, "h", "w")], [("b", 1, "h", "w")])
    card = card_of_side(exported.draft, 24)
    engine = build_engine(open_sizes, card, EngineOptions(name=name, precision="float32"))
    counts = np.random.default_rng(0).uniform(0.0, 2.0, (5, 1, 24, 24)).astype(np.float32)
    assert np.abs(engine.infer(counts) - np.pi * np.tanh(counts * card.counts_scale)).max() < 1e-5


REFUSED = {
    "2 inputs": small_network([("b", 1, 16, 16), ("b", 1, 16, 16)]),
    "2 outputs": small_network(gained=[("b", 1, 16, 16), ("b", 1, 16, 16)]),
    "not float32": small_network(dtype=TensorProto.DOUBLE),
    "3 axes": small_network([("b", 16, 16)], [("b", 16, 16)]),
    "is 1 x 32 x 16, but its card says 1 x 16 x 16": small_network([("b", 1, 32, 16)], [("b", 1, 32, 16)]),
    "is 2 x 16 x 16": small_network([("b", 2, 16, 16)], [("b", 2, 16, 16)]),
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "torch"])
def test_refuses_a_network_that_it_cannot_serve_and_says_why(exported: Any, name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        built(exported, REFUSED[reason], name=name)


def test_torch_serves_ptychonn_alone(exported: Any) -> None:
    with pytest.raises(ModelError, match="torch serves PtychoNN only"):
        built(exported, small_network(), name="torch")
    other = with_weights(exported.onnx_path.read_bytes(), {"encoder.0.weight": lambda weight: weight[:, :, :2, :2]})
    with pytest.raises(ModelError):
        built(exported, other, name="torch")


@pytest.mark.parametrize("name", NAMES)
def test_refuses_bytes_that_are_no_network(exported: Any, name: str) -> None:
    for content in (b"", b"no network", exported.onnx_path.read_bytes()[:5000]):
        with pytest.raises(ModelError):
            built(exported, content, name=name)


@pytest.mark.parametrize("name", ["auto", *NAMES])
def test_refuses_a_network_that_answers_not_a_number(exported: Any, name: str) -> None:
    onnx_bytes = exported.onnx_path.read_bytes()
    for value in (np.nan, np.inf):
        bad = with_weights(onnx_bytes, {"encoder.2.bias": lambda bias, value=value: np.full_like(bias, value)})
        bad = with_weights(bad, {"decoder2.20.bias": lambda bias: np.full_like(bias, np.nan)})
        with pytest.raises(ModelError, match="not a phase"):
            built(exported, bad, name=name)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_network_that_does_not_fit_its_card(exported: Any, name: str) -> None:
    with pytest.raises(ModelError):
        build_engine(
            exported.onnx_path.read_bytes(), card_of_side(exported.draft, 24), EngineOptions(name=name, threads=1)
        )


@pytest.mark.parametrize("name", NAMES)
def test_infer_refuses_frames_of_another_size(exported: Any, name: str) -> None:
    engine = built(exported, name=name)
    with pytest.raises(ModelError, match="takes frames of shape"):
        engine.infer(np.zeros((2, 1, 32, 32), np.float32))


def test_auto_takes_the_first_that_works(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(exported).name.split()[0] == engine_names_available()[0]
    monkeypatch.setattr(build, "engine_names_available", lambda: ("tensorrt", "onnxruntime"))
    assert built(exported).name == "onnxruntime CPU float32"
    monkeypatch.setattr(build, "engine_names_available", lambda: ("tensorrt",))
    with pytest.raises(MissingExtra, match="tensorrt"):
        built(exported)


@pytest.mark.parametrize("failure", [AttributeError("no such call"), OSError("libcuda.so.1"), KeyError("driver")])
def test_whatever_a_library_raises_at_building_leaves_the_model_to_the_next(
    exported: Any, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setitem(libraries.BUILDERS, "tensorrt", fail)
    monkeypatch.setattr(build, "engine_names_available", lambda: ("tensorrt", "onnxruntime"))
    assert built(exported).name == "onnxruntime CPU float32"
    with pytest.raises(ModelError, match="cannot be built by tensorrt") as refused:
        built(exported, name="tensorrt")
    assert refused.value.__cause__ is failure


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_library_raises_at_inference_is_a_model_error(
    exported: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: Any) -> None:
        raise IndexError("no such tensor")

    engine = built(exported, name=name)
    monkeypatch.setattr(type(engine.network), "run", fail)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=rf"^{name}.* cannot infer: no such tensor$"):
        engine.infer(frames(1))


def test_a_library_that_cannot_be_loaded_leaves_the_model_to_the_next(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "torch":
                raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(build, "engine_names_available", lambda: ("torch", "onnxruntime"))
    assert built(exported).name == "onnxruntime CPU float32"


@pytest.mark.parametrize(("largest", "sizes"), [(None, {1}), (1, {1}), (20, {1, 20})])
def test_each_caller_predicts_one_frame_before_it_is_real_and_the_most_where_there_is_a_most(
    exported: Any, monkeypatch: pytest.MonkeyPatch, largest: int | None, sizes: set[int]
) -> None:
    found: list[int] = []
    init, run = OnnxRuntimeNetwork.__init__, OnnxRuntimeNetwork.run

    def made(network: OnnxRuntimeNetwork, *arguments: Any) -> None:
        init(network, *arguments)
        network.largest = largest

    def seen(network: OnnxRuntimeNetwork, counts: FloatArray) -> FloatArray:
        found.append(len(counts))
        return run(network, counts)

    monkeypatch.setattr(OnnxRuntimeNetwork, "__init__", made)
    monkeypatch.setattr(OnnxRuntimeNetwork, "run", seen)
    engine = built(exported, name="onnxruntime", batch_size=20, parallel=2, threads=2)
    compared = Counter([16]) if largest != 1 else Counter({1: 16})
    assert Counter(found) - compared == Counter(dict.fromkeys(sizes, 2))
    engine.close()


def test_defaults_are_valid(exported: Any) -> None:
    engine = build_engine(exported.onnx_path.read_bytes(), exported.draft)
    assert len(engine.name) <= 39
    engine.close()


def test_refuses_unknown_engines_and_options_and_names_a_missing_library(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"'abacus'.*openvino"):
        built(exported, name="abacus")
    for wrong in ({"precision": "float64"}, {"providers": ("rocm",)}, {"batch_size": 0}, {"parallel": 0}):
        with pytest.raises(ModelError):
            EngineOptions(**wrong)  # type: ignore[arg-type]
    for library, name, extra in (("openvino", "openvino", "cpu"), ("torch", "torch", "hpc"), ("onnx", "torch", "hpc")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            with pytest.raises(MissingExtra, match=rf"{library} .*phaseline\[{extra}\]"):
                built(exported, name=name)


@pytest.mark.parametrize("name", NAMES)
def test_the_interpreter_runs_on_while_an_engine_computes(exported: Any, name: str) -> None:
    engine = built(exported, name=name, batch_size=64)
    deadline_s = time.monotonic() + 60.0
    while _turns_beside(engine, frames(64 * 8)) <= 1000:  # as may be once where the machine gives us no core
        assert time.monotonic() < deadline_s


def _turns_beside(engine: Engine, many: FloatArray) -> int:
    """How often this thread gets round a loop while another is in an engine."""
    done = threading.Event()
    worker = threading.Thread(target=lambda: (engine.infer(many), done.set()))
    turns = 0
    worker.start()
    while not done.is_set():
        turns += 1
    worker.join()
    return turns


def test_names_are_found_without_importing_libraries() -> None:
    script = """
import sys
from phasing.engines import EngineOptions, build_engine, engine_names_available
print(engine_names_available())
heavy = {"torch", "openvino", "onnxruntime", "tensorrt", "onnx", "cuda"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)
