"""The engines that need a CUDA GPU, on a real one."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_networks import frames, with_batch

from phasing.engines import EngineOptions, build_engine
from phasing.engines.hardware import has_gpu

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu(), reason="there is no CUDA GPU here")]


def _has_cuda_provider() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


CASES = [
    pytest.param(
        name,
        precision,
        marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed"),
    )
    for name, precision in (
        ("tensorrt", "float32"),
        ("tensorrt", "tf32"),
        ("tensorrt", "float16"),
        ("torch", "float32"),
        ("torch", "tf32"),
        ("torch", "bfloat16"),
        ("torch", "float16"),
    )
] + [
    pytest.param(
        "onnxruntime",
        precision,
        marks=pytest.mark.skipif(not _has_cuda_provider(), reason="this onnxruntime has no CUDA"),
    )
    for precision in ("float32", "tf32", "float16")
]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_answers_as_float32_on_the_cpu_does(exported: Any, name: str, precision: str, tmp_path: Path) -> None:
    onnx_bytes = exported.onnx_path.read_bytes()
    reference = build_engine(onnx_bytes, exported.draft, EngineOptions(name="onnxruntime", providers=("cpu",)))
    inputs = [frames(num) for num in (1, 3, 8, 19)]
    expected = [reference.infer(counts) for counts in inputs]
    for content in (onnx_bytes, with_batch(onnx_bytes, 8)):
        for _ in range(2):  # the second time from the cache
            options = EngineOptions(name=name, precision=precision, parallel=2, cache=tmp_path)
            engine = build_engine(content, exported.draft, options)
            assert engine.name.split()[-1] == precision
            assert "CPU" not in engine.name
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(engine.infer, inputs * 20))
            for phase_rad, truth_rad in zip(answers, expected * 20, strict=True):
                assert np.abs(phase_rad - truth_rad).mean() < (0.04 if precision == "bfloat16" else 0.02)
            engine.close()
