"""TensorRT by its native API: named tensors, one CUDA graph a batch, engine and timing cache on disk.

Written for TensorRT 10 and 11, whose networks are strongly typed: float16 comes from the types in the ONNX file
(`half_network`), and TF32 is the only switch. Sources: NVIDIA's "Migrating from TensorRT 10.x to 11.x" and the Python
API reference of 11.4.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from phasing.card import ModelCard
from phasing.engines.cache import cache_path, digest_of, read_cached, write_cached
from phasing.engines.cuda_memory import Lane, called, cuda_runtime
from phasing.engines.half import half_network
from phasing.engines.ports import Port, fixed_batch
from phasing.engines.protocol import (
    AUTO,
    FLOAT16,
    FLOAT32,
    TF32,
    EngineOptions,
    FloatArray,
    cannot_build,
    cannot_infer,
)
from phasing.engines.served import Turns
from phasing.engines.torch_engine import graph_sizes
from phasing.errors import MissingExtra, ModelError

_LIBRARY = "tensorrt"
_PRECISIONS = (FLOAT16, TF32, FLOAT32)


class TensorRtNetwork:
    """A network in TensorRT; each parallel caller has contexts, buffers, graphs and a stream of its own.

    Raises MissingExtra without TensorRT or cuda-bindings (or onnx, for float16); ModelError without a GPU, for a
    precision that TensorRT does not compute in, or when the network cannot be built or served.
    """

    def __init__(self, onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> None:
        self.precision = tensorrt_precision(options.precision)
        self.name = f"{_LIBRARY} {self.precision}"
        self.parallel = options.parallel
        trt = tensorrt_library()
        runtime = cuda_runtime()
        self.version = str(trt.__version__)
        self._scale = np.float32(card.counts_scale)
        plan = Plan(digest_of(onnx_bytes), device_name(runtime), self.version, self.precision, options.batch_size)
        logger = trt.Logger(trt.Logger.ERROR)
        self._engine: Any = _engine(trt, logger, onnx_bytes, card, options, plan)
        self.batch_size = fixed_batch(*_engine_ports(trt, self._engine), card)
        self.largest: int | None = self.batch_size or options.batch_size
        sizes = (self.batch_size,) if self.batch_size else graph_sizes(options.batch_size)
        shape = (self.largest, *card.input_shape)
        lanes: list[Lane] = []
        self._contexts: list[Any] = []
        try:
            for _ in range(options.parallel):
                lanes.append(Lane(runtime, shape))
                self._contexts += _capture(trt, self._engine, lanes[-1], sizes, card)
        except BaseException:  # whatever ends it: nobody else knows of the lanes
            for lane in lanes:
                lane.close()
            raise
        self._lanes: Turns[Lane] = Turns(lanes)

    def run(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) prepared counts, at most largest, to phase in rad. Raises ModelError when CUDA fails."""
        with self._lanes.one() as lane:
            return lane.run(counts, self._scale)

    def close(self) -> None:
        """Free graphs and buffers, then contexts, then the engine, once those at work are done."""
        for lane in self._lanes.take_all():
            lane.close()
        self._contexts.clear()
        self._engine = None


@dataclass(frozen=True)
class Plan:
    """Everything that makes another engine. digest: of the ONNX file. device: its name, architecture and driver."""

    digest: str
    device: str
    version: str
    precision: str
    batch_size: int

    def engine_facts(self) -> tuple[object, ...]:
        """What a compiled engine depends on."""
        return self.digest, self.device, self.version, self.precision, self.batch_size

    def timing_facts(self) -> tuple[object, ...]:
        """What kernel timings depend on; models of one architecture share them, so the second one builds faster."""
        return self.device, self.version


def tensorrt_precision(precision: str) -> str:
    """What TensorRT is to compute in; float16 by itself. ModelError for what it is not built for here."""
    if precision == AUTO:
        return FLOAT16
    if precision not in _PRECISIONS:
        raise ModelError(f"{_LIBRARY} computes in {' or '.join(_PRECISIONS)}, not in {precision}")
    return precision


def tensorrt_library() -> Any:
    """TensorRT's Python package. Raises MissingExtra when it, or a library that it loads, is not there."""
    try:
        import tensorrt
    except ImportError as error:
        raise MissingExtra(_LIBRARY, _LIBRARY) from error
    return tensorrt


def device_name(runtime: Any) -> str:
    """The current GPU's name, architecture and driver: an engine that was built on another one is not for it."""
    properties = called(runtime.cudaGetDeviceProperties(called(runtime.cudaGetDevice())))
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return f"{name} sm_{properties.major}{properties.minor} driver {called(runtime.cudaDriverGetVersion())}"


def _engine(trt: Any, logger: Any, onnx_bytes: bytes, card: ModelCard, options: EngineOptions, plan: Plan) -> Any:
    path = cache_path(options.cache, "tensorrt", *plan.engine_facts())
    kept = read_cached(path)
    engine = trt.Runtime(logger).deserialize_cuda_engine(kept) if kept is not None else None
    if engine is not None:
        return engine
    network = half_network(onnx_bytes) if plan.precision == FLOAT16 else onnx_bytes
    serialized = _built(trt, logger, network, card, options, plan)
    write_cached(path, serialized)
    engine = trt.Runtime(logger).deserialize_cuda_engine(serialized)
    if engine is None:
        raise cannot_build(card.version, _LIBRARY, "it cannot load what it has built")
    return engine


def _built(trt: Any, logger: Any, network: bytes, card: ModelCard, options: EngineOptions, plan: Plan) -> bytes:
    builder = trt.Builder(logger)
    # Explicit batch is the only mode since TensorRT 10; strongly typed since 11, which ignores the flag.
    graph = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(graph, logger)
    if not parser.parse(network):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise cannot_build(card.version, _LIBRARY, "; ".join(reasons) or "no reason given")
    config = builder.create_builder_config()
    set_tf32 = config.set_flag if plan.precision == TF32 else config.clear_flag  # on unless it is cleared
    set_tf32(trt.BuilderFlag.TF32)
    _add_profile(trt, builder, graph, config, card, options.batch_size)
    timings_path = cache_path(options.cache, "tensorrt-timings", *plan.timing_facts())
    timings = config.create_timing_cache(read_cached(timings_path) or b"")
    config.set_timing_cache(timings, False)  # False: one of another device or version is refused, not used
    serialized = builder.build_serialized_network(graph, config)
    if serialized is None:
        raise cannot_build(card.version, _LIBRARY, "no reason given; see its log")
    write_cached(timings_path, lambda: bytes(config.get_timing_cache().serialize()))
    return bytes(serialized)


def _add_profile(trt: Any, builder: Any, graph: Any, config: Any, card: ModelCard, batch_size: int) -> None:
    """Any number of frames up to batch_size, the fastest at batch_size, where the network leaves it open."""
    inputs = [_port(trt, graph.get_input(index)) for index in range(graph.num_inputs)]
    outputs = [_port(trt, graph.get_output(index)) for index in range(graph.num_outputs)]
    fixed = fixed_batch(inputs, outputs, card)
    if inputs[0].shape is not None and None not in inputs[0].shape:
        return
    profile = builder.create_optimization_profile()
    least, most = (fixed or 1, *card.input_shape), (fixed or batch_size, *card.input_shape)
    profile.set_shape(inputs[0].name, least, most, most)
    config.add_optimization_profile(profile)


def _port(trt: Any, tensor: Any) -> Port:
    return Port(tensor.name, tensor.dtype == trt.DataType.FLOAT, _shape(tensor.shape))


def _engine_ports(trt: Any, engine: Any) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a compiled engine."""
    ports: tuple[list[Port], list[Port]] = ([], [])
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_output = engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        is_float32 = engine.get_tensor_dtype(name) == trt.DataType.FLOAT
        ports[is_output].append(Port(name, is_float32, _shape(engine.get_tensor_shape(name))))
    return ports


def _shape(dims: Any) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else int(size) for size in dims)


def _capture(trt: Any, engine: Any, lane: Lane, sizes: tuple[int, ...], card: ModelCard) -> list[Any]:
    """Capture one graph for each size; the contexts must live as long as the graphs.

    A context must not change after its graph was captured, so each size has one. They share their working memory,
    for a lane's launches never overlap.
    """
    inputs, outputs = _engine_ports(trt, engine)
    num_bytes = int(engine.device_memory_size_v2)
    memory = lane.device_memory(num_bytes)
    contexts = []
    for size in sizes:
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise ModelError(f"{_LIBRARY} has no memory for another context")
        context.set_device_memory(memory, num_bytes)
        done = context.set_input_shape(inputs[0].name, (size, *card.input_shape))
        done = done and context.set_tensor_address(inputs[0].name, lane.device_given)
        if not (done and context.set_tensor_address(outputs[0].name, lane.device_gained)):
            raise ModelError(f"{_LIBRARY} takes no batch of {size} frames")
        lane.capture(size, functools.partial(_enqueue, context, lane))
        contexts.append(context)
    return contexts


def _enqueue(context: Any, lane: Lane) -> None:
    if not context.execute_async_v3(int(lane.stream)):
        raise cannot_infer(_LIBRARY, "it does not take the work")
