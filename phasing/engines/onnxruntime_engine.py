"""ONNX Runtime: the CPU everywhere, CUDA and TensorRT by its execution providers."""

import threading
from typing import Any

import numpy as np

from phasing.card import ModelCard
from phasing.engines.cache import cache_path, digest_of, kept_folder
from phasing.engines.half import half_network
from phasing.engines.hardware import cpu_count, has_gpu
from phasing.engines.ports import Port, fixed_batch
from phasing.engines.protocol import (
    AUTO,
    FLOAT16,
    FLOAT32,
    TF32,
    EngineOptions,
    FloatArray,
)
from phasing.errors import MissingExtra, ModelError

_LIBRARY = "onnxruntime"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SHOWN = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_PRECISIONS = {"cpu": (FLOAT32,), "cuda": (TF32, FLOAT32, FLOAT16), "tensorrt": (FLOAT16, TF32, FLOAT32)}
"""Of each provider, the one that it takes by itself first."""


class OnnxRuntimeNetwork:
    """A network in ONNX Runtime; calls from several threads share one session and its threads.

    Raises MissingExtra without the library; ModelError when a provider that was asked for is not there or does not
    start, when the precision is none of its, or when the network cannot be served.
    """

    def __init__(self, onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra(_LIBRARY, "cpu") from error
        wanted = chosen_providers(options.providers, onnxruntime.get_available_providers())
        self.precision = provider_precision(wanted[0], options.precision)
        network = half_network(onnx_bytes) if self.precision == FLOAT16 else onnx_bytes
        settings = [(_PROVIDERS[name], _settings(name, digest_of(network), self.precision, options)) for name in wanted]
        if wanted[0] == "tensorrt":
            settings[0][1].update(_profile(onnxruntime, network, card, options))
        # Left to itself the session would fall back to the CPU, print about it, and go on.
        self._session: Any = onnxruntime.InferenceSession(
            network, _session_options(onnxruntime, options), settings, enable_fallback=False
        )
        used = self._provider_in_use(wanted, asked=bool(options.providers))
        if used == "cpu":
            self.precision = FLOAT32
        self.name = f"{_LIBRARY} {_SHOWN[used]} {self.precision}"
        self.version = str(onnxruntime.__version__)
        self.batch_size = fixed_batch(_ports(self._session.get_inputs()), _ports(self._session.get_outputs()), card)
        self.largest: int | None = options.batch_size if used == "tensorrt" else None
        self.parallel = options.parallel
        # A caller computes on its own thread: without turns there would be more at work than the threads asked for.
        self._turns = threading.Semaphore(min(options.parallel, options.threads or options.parallel))
        self._scale = np.float32(card.counts_scale)
        self._input: str = self._session.get_inputs()[0].name

    def run(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) prepared counts to phase in rad."""
        scaled = counts * self._scale
        with self._turns:
            result: FloatArray = self._session.run(None, {self._input: scaled})[0]
        return result

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _provider_in_use(self, wanted: list[str], *, asked: bool) -> str:
        used = self._session.get_providers()
        for name in wanted:
            if _PROVIDERS[name] in used:
                return name
        if asked:
            raise ModelError(f"{_LIBRARY} cannot start {', '.join(wanted)} here; it runs on {', '.join(used)}")
        return "cpu"


def chosen_providers(asked: tuple[str, ...], available: list[str]) -> list[str]:
    """The providers to build with, in order. Raises ModelError naming what is there when one asked for is not."""
    if not asked:
        return ["cuda", "cpu"] if _PROVIDERS["cuda"] in available and has_gpu() else ["cpu"]
    for name in asked:
        if _PROVIDERS[name] not in available:
            there = ", ".join(key for key, provider in _PROVIDERS.items() if provider in available)
            raise ModelError(f"{_LIBRARY} has no execution provider {name!r} here: it has {there}")
    return list(asked)


def provider_precision(provider: str, precision: str) -> str:
    """What a provider computes in. Raises ModelError when it cannot compute in what is asked for."""
    offered = _PRECISIONS[provider]
    if precision == AUTO:
        return offered[0]
    if precision not in offered:
        raise ModelError(f"{_LIBRARY} on {provider} computes in {' or '.join(offered)}, not in {precision}")
    return precision


def session_threads(threads: int | None, parallel: int) -> int:
    """The session's thread count; 0 leaves it to the library.

    Of these, one is the calling thread; the others are shared by all calls. So `parallel` callers and the rest of the
    session's threads together are as many as are asked for.
    """
    if parallel == 1:
        return threads or 0
    return max(1, (threads or cpu_count()) - parallel + 1)


def _session_options(onnxruntime: Any, options: EngineOptions) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = session_threads(options.threads, options.parallel)
    # Spinning threads would take the cores from the processes that stream and control beside this one.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    return settings


def _settings(provider: str, digest: str, precision: str, options: EngineOptions) -> dict[str, str]:
    if provider == "cuda":
        # A search for the fastest algorithm at every new number of frames would stop the stream for it.
        return {"use_tf32": str(int(precision != FLOAT32)), "cudnn_conv_algo_search": "HEURISTIC"}
    if provider != "tensorrt":
        return {}
    folder = kept_folder(cache_path(options.cache, "ort-tensorrt", digest, precision, options.batch_size))
    if folder is None:
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


def _profile(onnxruntime: Any, network: bytes, card: ModelCard, options: EngineOptions) -> dict[str, str]:
    """Sizes from 1 to batch_size for the TensorRT provider, which else builds anew at every size it has not seen."""
    plain = onnxruntime.InferenceSession(network, providers=[_PROVIDERS["cpu"]])
    port = _ports(plain.get_inputs())[0]
    if port.shape is None or None not in port.shape:
        return {}
    side = "x".join(str(size) for size in card.input_shape)
    least, most = f"{port.name}:1x{side}", f"{port.name}:{options.batch_size}x{side}"
    return {"trt_profile_min_shapes": least, "trt_profile_opt_shapes": most, "trt_profile_max_shapes": most}


def _ports(nodes: Any) -> list[Port]:
    return [Port(node.name, node.type == "tensor(float)", _shape(node.shape)) for node in nodes]


def _shape(sizes: list[Any]) -> tuple[int | None, ...] | None:
    # A rank that is not declared comes as an empty list, an open size as a name or nothing.
    return tuple(size if isinstance(size, int) else None for size in sizes) or None
