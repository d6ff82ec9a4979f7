import threading
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from phasing import engines
from phasing.checkpoint import load_checkpoint
from phasing.engines import build_engine, engine_names_available
from phasing.errors import MissingExtra, ModelError
from phasing.network import load_network

NAMES = engine_names_available()


def frames(num: int) -> np.ndarray:
    return np.random.default_rng(num).uniform(0.0, 120.0, (num, 1, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num", [1, 3, 8, 19])
def test_answers_as_torch_does_whatever_the_number_of_frames(exported: Any, name: str, num: int) -> None:
    engine = build_engine(exported.onnx_path.read_bytes(), exported.draft, name=name, batch_size=8, threads=1)
    scaled = torch.from_numpy(frames(num) * np.float32(exported.draft.counts_scale))
    with torch.inference_mode():
        expected_rad = load_network(load_checkpoint(exported.checkpoint_path).state)(scaled).numpy()
    phase_rad = engine.infer(frames(num))
    assert engine.name == name
    assert phase_rad.shape == (num, 1, 16, 16)
    assert phase_rad.dtype == np.float32
    # OpenVINO computes in bfloat16 where it can: 8 bits of precision through 17 layers.
    assert np.abs(phase_rad - expected_rad).max() < (0.1 if name == "openvino" else 1e-3)
    engine.close()


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_not_overwritten_by_the_next_one(exported: Any, name: str) -> None:
    engine = build_engine(exported.onnx_path.read_bytes(), exported.draft, name=name, batch_size=4, threads=1)
    first = engine.infer(frames(4))
    kept = first.copy()
    engine.infer(frames(3))
    assert np.array_equal(first, kept)


def test_auto_takes_openvino_where_it_is_installed(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_engine(exported.onnx_path.read_bytes(), exported.draft, threads=1).name == NAMES[0]
    monkeypatch.setattr(engines, "engine_names_available", lambda: ("onnxruntime",))
    assert build_engine(exported.onnx_path.read_bytes(), exported.draft, threads=1).name == "onnxruntime"


@pytest.mark.parametrize("name", NAMES)
def test_refuses_bytes_that_are_no_network(exported: Any, name: str) -> None:
    for content in (b"", b"no network", exported.onnx_path.read_bytes()[:5000]):
        with pytest.raises(ModelError, match="cannot be built"):
            build_engine(content, exported.draft, name=name, threads=1)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_network_that_answers_not_a_number(exported: Any, name: str) -> None:
    model = onnx.load(exported.onnx_path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "decoder2.20.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), bias.name))
    with pytest.raises(ModelError, match="not a phase"):
        build_engine(model.SerializeToString(), exported.draft, name=name, threads=1)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_a_network_that_does_not_fit_its_card(exported: Any, name: str) -> None:
    geometry = replace(exported.draft.geometry, detector_shape_px=(24, 24), crop_px=24)
    weight = np.ones((24, 24), np.float32)
    odd = replace(exported.draft, input_shape=(1, 24, 24), geometry=geometry, probe_intensity=weight)
    with pytest.raises(ModelError):
        build_engine(exported.onnx_path.read_bytes(), odd, name=name, threads=1)


def test_refuses_an_unknown_engine_and_names_a_missing_library(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"'abacus'.*openvino"):
        build_engine(exported.onnx_path.read_bytes(), exported.draft, name="abacus")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"phaseline\[cpu\]"):
        build_engine(exported.onnx_path.read_bytes(), exported.draft, name="openvino")


@pytest.mark.parametrize("name", NAMES)
def test_the_interpreter_runs_on_while_an_engine_computes(exported: Any, name: str) -> None:
    engine = build_engine(exported.onnx_path.read_bytes(), exported.draft, name=name, batch_size=64, threads=1)
    done = threading.Event()
    many = frames(64 * 8)
    worker = threading.Thread(target=lambda: (engine.infer(many), done.set()))
    turns = 0
    worker.start()
    while not done.is_set():
        turns += 1
    worker.join()
    assert turns > 1000
