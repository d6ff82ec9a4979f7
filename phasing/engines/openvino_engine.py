"""OpenVINO on the CPU, in bfloat16 where the processor has it."""

import io
from typing import Any

import numpy as np

from phasing.card import ModelCard
from phasing.engines.cache import cache_path, digest_of, read_cached, write_cached
from phasing.engines.ports import Port, fixed_batch
from phasing.engines.protocol import (
    AUTO,
    BFLOAT16,
    FLOAT32,
    EngineOptions,
    FloatArray,
)
from phasing.engines.served import Turns
from phasing.errors import MissingExtra, ModelError

_LIBRARY = "openvino"
_HINTS = {FLOAT32: "f32", BFLOAT16: "bf16"}


class OpenVinoNetwork:
    """A network in OpenVINO: one stream of threads and one infer request for each parallel caller.

    The batch stays dynamic: as fast as a fixed one, and a batch that closed early is not padded with work.
    Raises MissingExtra without the library, ModelError when the network cannot be served.
    """

    def __init__(self, onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra(_LIBRARY, "cpu") from error
        core = openvino.Core()
        has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = cpu_precision(options.precision, has_bfloat16=has_bfloat16)
        self.name = f"{_LIBRARY} CPU {self.precision}"
        self.version = str(openvino.__version__)
        self.largest: int | None = None
        self.parallel = options.parallel
        self._scale = np.float32(card.counts_scale)
        config = _config(self.precision, options)
        facts = (digest_of(onnx_bytes), self.version, core.get_property("CPU", "FULL_DEVICE_NAME"))
        path = cache_path(options.cache, _LIBRARY, *facts, *sorted(config.items()), card.input_shape)
        self._compiled: Any = _imported(core, path, config)
        if self._compiled is None:
            self._compiled = core.compile_model(_read(core, openvino, onnx_bytes, card), "CPU", config)
            write_cached(path, lambda: _exported(self._compiled))
        requests = [self._compiled.create_infer_request() for _ in range(options.parallel)]
        self.batch_size = fixed_batch(_ports(self._compiled.inputs), _ports(self._compiled.outputs), card)
        self._requests: Turns[Any] = Turns(requests)

    def run(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) prepared counts to phase in rad."""
        scaled = counts * self._scale
        with self._requests.one() as request:
            result: FloatArray = request.infer(scaled, share_inputs=True)[0]  # a copy of the request's own
        return result

    def close(self) -> None:
        """Free the compiled network once those at work are done."""
        self._requests.take_all()
        self._compiled = None


def cpu_precision(precision: str, *, has_bfloat16: bool) -> str:
    """What OpenVINO computes in; bfloat16 where the processor has it. ModelError when it cannot as asked."""
    if precision == AUTO:
        return BFLOAT16 if has_bfloat16 else FLOAT32
    if precision not in _HINTS:
        raise ModelError(f"{_LIBRARY} computes in {' or '.join(_HINTS)}, not in {precision}")
    if precision == BFLOAT16 and not has_bfloat16:
        raise ModelError("this processor has no bfloat16")
    return precision


def _config(precision: str, options: EngineOptions) -> dict[str, Any]:
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": options.parallel,
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # Threads bound to a core wait there while another process, bound or not, has it.
        "ENABLE_CPU_PINNING": False,
    }
    if options.threads:
        config["INFERENCE_NUM_THREADS"] = options.threads
    return config


def _read(core: Any, openvino: Any, onnx_bytes: bytes, card: ModelCard) -> Any:
    model = core.read_model(onnx_bytes, b"")
    batch = fixed_batch(_ports(model.inputs), _ports(model.outputs), card)
    model.reshape(openvino.PartialShape([-1 if batch is None else batch, *card.input_shape]))
    return model


def _imported(core: Any, path: Any, config: dict[str, Any]) -> Any:
    blob = read_cached(path)
    if blob is None:
        return None
    try:
        return core.import_model(io.BytesIO(blob), "CPU", config)
    except RuntimeError:  # written by another build of the library: compile as if there were none
        return None


def _exported(compiled: Any) -> bytes:
    blob = compiled.export_model()
    return bytes(blob.read() if hasattr(blob, "read") else blob)


def _ports(nodes: Any) -> list[Port]:
    return [
        Port(node.any_name, node.element_type.get_type_name() == "f32", _shape(node.partial_shape)) for node in nodes
    ]


def _shape(shape: Any) -> tuple[int | None, ...] | None:
    if shape.rank.is_dynamic:
        return None
    return tuple(None if size.is_dynamic else size.get_length() for size in shape)
