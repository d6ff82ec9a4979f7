"""What is chosen where, without the hardware: providers, precisions, threads, and what counts as available."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from phasing.engines import EngineOptions, build_engine, engine_names_available, hardware
from phasing.engines.half import half_network
from phasing.engines.onnxruntime_engine import _settings, chosen_providers, provider_precision, session_threads
from phasing.engines.openvino_engine import cpu_precision
from phasing.engines.tensorrt_engine import tensorrt_precision
from phasing.engines.torch_engine import _precision, graph_sizes
from phasing.errors import ModelError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_providers_are_those_asked_for_or_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phasing.engines.onnxruntime_engine.has_gpu", lambda: True)
    assert chosen_providers((), [CUDA, CPU]) == ["cuda", "cpu"]
    assert chosen_providers(("cpu",), [CUDA, CPU]) == ["cpu"]
    monkeypatch.setattr("phasing.engines.onnxruntime_engine.has_gpu", lambda: False)
    assert chosen_providers((), [CUDA, CPU]) == ["cpu"]
    with pytest.raises(ModelError, match="no execution provider 'tensorrt' here: it has cpu, cuda"):
        chosen_providers(("cuda", "tensorrt"), [CUDA, CPU])


def test_precision_is_what_the_device_can() -> None:
    assert provider_precision("cpu", "auto") == "float32"
    assert provider_precision("cuda", "auto") == "tf32"
    assert provider_precision("tensorrt", "float16") == "float16"
    assert cpu_precision("auto", has_bfloat16=True) == "bfloat16"
    assert cpu_precision("auto", has_bfloat16=False) == "float32"
    assert tensorrt_precision("auto") == "float16"
    assert tensorrt_precision("tf32") == "tf32"
    for choose in (
        lambda: provider_precision("cpu", "float16"),
        lambda: cpu_precision("float16", has_bfloat16=True),
        lambda: cpu_precision("bfloat16", has_bfloat16=False),
        lambda: tensorrt_precision("bfloat16"),
    ):
        with pytest.raises(ModelError):
            choose()


def test_callers_and_session_together_have_the_threads_asked_for() -> None:
    assert session_threads(None, 1) == 0
    assert session_threads(2, 1) == 2
    assert session_threads(2, 2) == 1
    assert session_threads(6, 2) == 5  # the pool has 4 beside its 2 callers
    assert session_threads(2, 8) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 12, 64])
def test_graph_sizes_hold_every_batch_with_little_padding(batch_size: int) -> None:
    sizes = graph_sizes(batch_size)
    assert sizes[-1] == batch_size
    assert list(sizes) == sorted(set(sizes))
    for num in range(1, batch_size + 1):
        assert min(size for size in sizes if size >= num) < 2 * num


def test_a_gpu_is_what_the_device_nodes_and_the_environment_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not hardware.has_gpu(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not hardware.has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert hardware.has_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not hardware.has_gpu(tmp_path)


def test_visible_gpus_are_those_of_the_environment_else_of_the_device_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware.visible_gpus(tmp_path) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert hardware.visible_gpus(tmp_path) == ()
    for name in ("nvidia2", "nvidia5", "nvidia-uvm", "nvidiactl"):
        (tmp_path / name).touch()
    for named, visible in {
        "0,1": ("0", "1"),
        " GPU-8932f937 , GPU-d1ac": ("GPU-8932f937", "GPU-d1ac"),
        "1,-1,0": ("1",),
        "": (),
        "NoDevFiles": (),
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert hardware.visible_gpus(tmp_path) == visible
    # A container has some of the host's nodes, and CUDA counts those that are there.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert hardware.visible_gpus(tmp_path) == ("0", "1")
    jetson = tmp_path / "jetson"
    jetson.mkdir()
    (jetson / "nvhost-gpu").touch()
    assert hardware.visible_gpus(jetson) == ("0",)


def test_gpu_engines_are_named_only_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("library", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(hardware, "_find", lambda name: spec)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    assert engine_names_available() == ("openvino", "onnxruntime")
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    assert engine_names_available() == ("tensorrt", "torch", "openvino", "onnxruntime")
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    assert engine_names_available() == ("tensorrt", "torch", "onnxruntime", "openvino")


def test_the_tensorrt_providers_folder_refuses_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    kept = _settings("tensorrt", "digest", "float16", EngineOptions(cache=folder))
    assert Path(kept["trt_engine_cache_path"]).is_dir()
    assert _settings("tensorrt", "digest", "float16", EngineOptions()) == {}
    (tmp_path / "file").write_text("no folder")
    assert _settings("tensorrt", "digest", "float16", EngineOptions(cache=tmp_path / "file")) == {}


@pytest.mark.parametrize("native", [True, False])
def test_torch_takes_bfloat16_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert _precision("CUDA", "auto") == ("bfloat16" if native else "float16")
    assert _precision("CPU", "bfloat16") == "bfloat16"
    if not native:
        with pytest.raises(ModelError, match="computes in float16 or tf32 or float32, not in bfloat16"):
            _precision("CUDA", "bfloat16")


def test_a_provider_that_is_not_there_is_named(exported: object) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    options = EngineOptions(name="onnxruntime", providers=("cuda", "cpu"))
    with pytest.raises(ModelError, match="it has cpu"):
        build_engine(exported.onnx_path.read_bytes(), exported.draft, options)


def test_a_half_network_takes_and_gives_float32_and_differs_little(exported: object) -> None:
    onnx_bytes = exported.onnx_path.read_bytes()
    half = half_network(onnx_bytes)
    assert len(half) < 0.6 * len(onnx_bytes)
    scaled = np.random.default_rng(0).uniform(0.0, 1.0, (4, 1, 16, 16)).astype(np.float32)
    answers = []
    for content in (onnx_bytes, half):
        session = onnxruntime.InferenceSession(content, providers=[CPU])
        assert {port.type for port in (*session.get_inputs(), *session.get_outputs())} == {"tensor(float)"}
        answers.append(session.run(None, {session.get_inputs()[0].name: scaled})[0])
    assert 0.0 < np.abs(answers[0] - answers[1]).max() < 0.02
    with pytest.raises(ModelError, match="cannot be made float16"):
        half_network(onnx_bytes[:5000])
