"""Inference engines behind one protocol: prepared frames in, phase out.

Both engines release the interpreter's lock while they compute.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from phasing.card import ModelCard
from phasing.errors import MissingExtra, ModelError

FloatArray = npt.NDArray[np.float32]

_WARM_UP_COUNTS_MAX = 100.0
_PHASE_LIMIT_RAD = np.pi + 0.05
"""The network ends in tanh times pi; the rest is bfloat16's rounding."""


class Engine(Protocol):
    """A network ready to serve.

    batch_size: the only number of frames that infer takes at once; None where it takes any.
    """

    name: str
    batch_size: int | None

    def infer(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) float32 prepared counts, not scaled, to (B, 1, n, n) float32 phase in rad."""

    def close(self) -> None:
        """Give memory and threads back; infer must not be called afterwards."""


def engine_names_available() -> tuple[str, ...]:
    """The engines whose library is installed here, the fastest first."""
    return tuple(name for name in _BUILDERS if importlib.util.find_spec(name) is not None)


def build_engine(
    onnx_bytes: bytes,
    card: ModelCard,
    *,
    name: str = "auto",
    batch_size: int = 8,
    threads: int | None = None,
) -> Engine:
    """Build an engine, warm it up and try it, so that its first real frame is as fast as the others.

    name: onnxruntime, openvino, or auto for the fastest installed. batch_size: what infer will be called with most.
    threads: None leaves it to the library.
    Raises MissingExtra when the library is not installed, ModelError when the name is unknown or when the network
    cannot be built, does not fit its card, or returns anything but finite phases.
    """
    chosen = engine_names_available()[0] if name == "auto" else name
    if chosen not in _BUILDERS:
        raise ModelError(f"no inference engine is called {chosen!r}: choose auto, {', '.join(_BUILDERS)}")
    engine = _BUILDERS[chosen](onnx_bytes, card, threads)
    try:
        _warm_up(engine, card, batch_size)
    except ModelError:
        engine.close()
        raise
    return engine


def _warm_up(engine: Engine, card: ModelCard, batch_size: int) -> None:
    generator = np.random.default_rng(0)
    for size in dict.fromkeys((1, batch_size)):
        shape = (size, *card.input_shape)
        counts = generator.uniform(0.0, _WARM_UP_COUNTS_MAX, shape).astype(np.float32) / np.float32(card.counts_scale)
        phase_rad = engine.infer(counts)
        if phase_rad.shape != shape:
            raise ModelError(f"model version {card.version}: output has shape {phase_rad.shape}, expected {shape}")
        if not np.isfinite(phase_rad).all() or np.abs(phase_rad).max() > _PHASE_LIMIT_RAD:
            raise ModelError(f"model version {card.version}: output is not a phase within -pi and pi")


class _OnnxRuntime:
    name = "onnxruntime"
    batch_size: int | None = None

    def __init__(self, onnx_bytes: bytes, card: ModelCard, threads: int | None) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as failures
        except ImportError as error:
            raise MissingExtra("onnxruntime", "cpu") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Spinning threads would take the cores from the processes that stream and control beside this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._failures: tuple[type[Exception], ...] = (failures.Fail, failures.InvalidArgument, failures.InvalidGraph)
        self._failures += (failures.InvalidProtobuf, failures.RuntimeException, failures.NotImplemented)
        self._scale = np.float32(card.counts_scale)
        try:
            self._session: Any = onnxruntime.InferenceSession(onnx_bytes, options, _providers(onnxruntime))
        except self._failures as error:
            raise _cannot_build(card, self.name, error) from error
        self._input: str = self._session.get_inputs()[0].name

    def infer(self, counts: FloatArray) -> FloatArray:
        try:
            result: FloatArray = self._session.run(None, {self._input: counts * self._scale})[0]
        except self._failures as error:
            raise _cannot_infer(self.name, error) from error
        return result

    def close(self) -> None:
        self._session = None


class _OpenVino:
    name = "openvino"
    batch_size: int | None = None

    def __init__(self, onnx_bytes: bytes, card: ModelCard, threads: int | None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra("openvino", "cpu") from error
        core = openvino.Core()
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            config["INFERENCE_PRECISION_HINT"] = "bf16"
        self._scale = np.float32(card.counts_scale)
        try:
            self._compiled: Any = core.compile_model(core.read_model(onnx_bytes, b""), "CPU", config)
        except RuntimeError as error:
            raise _cannot_build(card, self.name, error) from error
        self._request: Any = self._compiled.create_infer_request()

    def infer(self, counts: FloatArray) -> FloatArray:
        # The batch stays dynamic: as fast as a fixed one, and a batch that closed early is not padded with work.
        try:
            result: FloatArray = self._request.infer(counts * self._scale)[0].copy()
        except RuntimeError as error:
            raise _cannot_infer(self.name, error) from error
        return result

    def close(self) -> None:
        self._request = None
        self._compiled = None


_BUILDERS: dict[str, Callable[[bytes, ModelCard, int | None], Engine]] = {
    "openvino": _OpenVino,
    "onnxruntime": _OnnxRuntime,
}


def _providers(onnxruntime: Any) -> list[str]:
    available = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def _cannot_build(card: ModelCard, engine: str, error: Exception) -> ModelError:
    return ModelError(f"model version {card.version} cannot be built by {engine}: {_one_line(error)}")


def _cannot_infer(engine: str, error: Exception) -> ModelError:
    return ModelError(f"{engine} cannot infer: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
