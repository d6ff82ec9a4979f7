"""Stand-ins for the CUDA runtime and TensorRT, as far as an engine calls them: memory is host memory, graphs are lists.

They show that buffers, sizes, graphs and caches are handled rightly; what the libraries do with them needs a GPU.
"""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np


class Status(int):
    name = "cudaSuccess"


class FakeRuntime:
    """cuda.bindings.runtime with one device. `alive` holds what has not been freed."""

    cudaError_t = SimpleNamespace(cudaSuccess=Status(0))  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, name: str = "Fake GPU", driver: int = 13000) -> None:
        self.alive: dict[int, Any] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.launches: list[int] = []
        self._name, self._driver, self._next = name, driver, 1

    def cudaGetDevice(self) -> tuple[Status, int]:  # noqa: N802
        return Status(0), 0

    def cudaDriverGetVersion(self) -> tuple[Status, int]:  # noqa: N802
        return Status(0), self._driver

    def cudaGetDeviceProperties(self, device: int) -> tuple[Status, Any]:  # noqa: N802
        return Status(0), SimpleNamespace(name=self._name.encode(), major=9, minor=0)

    def cudaMalloc(self, size: int) -> tuple[Status, int]:  # noqa: N802
        memory = ctypes.create_string_buffer(size)
        self.alive[ctypes.addressof(memory)] = memory
        return Status(0), ctypes.addressof(memory)

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaFree(self, handle: int) -> tuple[Status]:  # noqa: N802
        del self.alive[handle]
        return (Status(0),)

    cudaFreeHost = cudaStreamDestroy = cudaGraphDestroy = cudaGraphExecDestroy = cudaFree  # noqa: N815

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, int]:  # noqa: N802
        return Status(0), self._handle("stream")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Status]:  # noqa: N802
        return (Status(0),)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Status]:  # noqa: N802
        self.enqueue(lambda: ctypes.memmove(target, source, size))
        return (Status(0),)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Status]:  # noqa: N802
        self.captured = []
        return (Status(0),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Status, int]:  # noqa: N802
        work, self.captured = self.captured, None
        return Status(0), self._handle(work)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Status, int]:  # noqa: N802
        return Status(0), self._handle(self.alive[graph])

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Status]:  # noqa: N802
        self.launches.append(graph)
        for work in self.alive[graph]:
            work()
        return (Status(0),)

    def enqueue(self, work: Callable[[], Any]) -> None:
        """Do it now, or put it into the graph that is being captured."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def _handle(self, thing: Any) -> int:
        self._next += 1
        self.alive[self._next] = thing
        return self._next


@dataclass
class FakeTensor:
    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class FakeContext:
    """Computes tanh times pi from one address to the other."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime
        self._address: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self._runtime.alive[address]) >= size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._address[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream in self._runtime.alive
        self._runtime.enqueue(self._compute)
        return True

    def _compute(self) -> None:
        floats = ctypes.c_float * math.prod(self._shape)
        given, gained = (
            np.ctypeslib.as_array(floats.from_address(self._address[name])) for name in ("given", "gained")
        )
        gained[:] = np.pi * np.tanh(given)


class FakeEngine:
    num_io_tensors = 2
    device_memory_size_v2 = 1000

    def __init__(self, runtime: FakeRuntime, tensors: tuple[FakeTensor, FakeTensor]) -> None:
        self._runtime, self._tensors = runtime, {tensor.name: tensor for tensor in tensors}

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == "given" else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def create_execution_context(self, strategy: int) -> FakeContext:
        assert strategy == FakeTensorRt.ExecutionContextAllocationStrategy.USER_MANAGED
        return FakeContext(self._runtime)


class FakeTensorRt:
    """The package, and the builder, the parser and the configuration that it makes, in one.

    Its every network is tanh times pi, from `given` to `gained`, both of one shape (-1 for any). What a build was asked
    for is kept in its attributes.
    """

    Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    BuilderFlag = SimpleNamespace(TF32="tf32")
    DataType = SimpleNamespace(FLOAT="float32")
    TensorIOMode = Mode
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    num_errors = num_inputs = num_outputs = 1

    def __init__(self, runtime: FakeRuntime, shape: tuple[int, ...], version: str) -> None:
        self.__version__ = version
        self.builds, self.tf32 = 0, True
        self.profile: tuple[Any, ...] = ()
        self.timings_given: bytes | None = None
        self.parsed = b""
        self._runtime = runtime
        self._tensors = FakeTensor("given", shape), FakeTensor("gained", shape)

    def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
        return FakeEngine(self._runtime, self._tensors) if content == b"engine" else None

    def parse(self, content: bytes) -> bool:
        self.parsed = content
        return content != b"no network"

    def set_flag(self, flag: str) -> None:
        self.tf32 = True

    def clear_flag(self, flag: str) -> None:
        self.tf32 = False

    def create_timing_cache(self, content: bytes) -> bytes:
        self.timings_given = content
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        return not ignore_mismatch

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"timings")

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.profile = (name, *shapes)

    def add_optimization_profile(self, profile: Any) -> int:
        return 0

    def get_input(self, index: int) -> FakeTensor:
        return self._tensors[0]

    def get_output(self, index: int) -> FakeTensor:
        return self._tensors[1]

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "not ONNX\nat all")

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        self.builds += 1
        return b"engine"

    def _itself(self, *given: Any) -> "FakeTensorRt":
        return self

    Builder = OnnxParser = Runtime = _itself
    create_network = create_builder_config = create_optimization_profile = _itself
