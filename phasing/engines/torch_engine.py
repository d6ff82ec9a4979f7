"""PyTorch: CUDA graphs on GPU hosts that have nothing faster; on a CPU only when asked for."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from phasing.card import ModelCard
from phasing.engines.protocol import (
    AUTO,
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    TF32,
    EngineOptions,
    FloatArray,
    Network,
)
from phasing.engines.served import Turns
from phasing.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    import torch

_LIBRARY = "torch"
_PRECISIONS = {"CPU": (FLOAT32, BFLOAT16, FLOAT16), "CUDA": (BFLOAT16, FLOAT16, TF32, FLOAT32)}
"""Of each device, the one that it takes by itself first; bfloat16 before float16, for it has float32's range.

A GPU that only emulates bfloat16 is slow in it: it has not got that.
"""


def torch_network(onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> Network:
    """PtychoNN in PyTorch, on the GPU where there is one.

    Raises MissingExtra without torch or onnx; ModelError when the network is not PtychoNN or the device lacks the
    precision.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(_LIBRARY, "hpc") from error
    network = CudaNetwork if torch.cuda.is_available() else CpuNetwork
    return network(onnx_bytes, card, options)


def graph_sizes(batch_size: int) -> tuple[int, ...]:
    """The numbers of frames for which a graph is captured: powers of two, and batch_size itself at the end.

    A batch that closed early takes the next larger one, so less than half of what is computed is padding.
    """
    sizes = [1]
    while sizes[-1] * 2 < batch_size:
        sizes.append(sizes[-1] * 2)
    return tuple(dict.fromkeys((*sizes, batch_size)))


class CpuNetwork:
    """PtychoNN on the CPU, for comparison and for tests.

    PyTorch's number of threads is the process's: the last engine built decides on it.
    """

    def __init__(self, onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> None:
        import torch

        self.precision = _precision("CPU", options.precision)
        self.name = f"{_LIBRARY} CPU {self.precision}"
        self.version = str(torch.__version__)
        self.batch_size: int | None = None
        self.largest: int | None = None
        self.parallel = options.parallel
        self._module: Any = _module(onnx_bytes, card, self.precision, "cpu")
        self._dtype = _dtype(self.precision)
        self._scale = np.float32(card.counts_scale)
        if options.threads:
            torch.set_num_threads(max(1, options.threads // options.parallel))

    def run(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) prepared counts to phase in rad."""
        import torch

        with torch.inference_mode():
            scaled = torch.from_numpy(counts * self._scale).to(self._dtype, memory_format=torch.channels_last)
            phase_rad: FloatArray = self._module(scaled).float().contiguous().numpy()
        return phase_rad

    def close(self) -> None:
        """Free the weights."""
        self._module = None


class CudaNetwork:
    """PtychoNN as CUDA graphs, one for each of a few numbers of frames, with pinned host buffers.

    Each parallel caller has buffers, graphs and a stream of its own.
    """

    def __init__(self, onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> None:
        import torch

        self.precision = _precision("CUDA", options.precision)
        self.name = f"{_LIBRARY} CUDA {self.precision}"
        self.version = str(torch.__version__)
        self.batch_size: int | None = None
        self.largest: int | None = options.batch_size
        self.parallel = options.parallel
        self._scale = np.float32(card.counts_scale)
        shape = (options.batch_size, *card.input_shape)
        # Graphs know the addresses of the weights, and nothing but this keeps what lies there.
        self._module: Any = _module(onnx_bytes, card, self.precision, "cuda")
        self._lanes: Turns[_Lane] = Turns([_Lane(self._module, self.precision, shape) for _ in range(options.parallel)])

    def run(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) prepared counts, at most batch_size, to phase in rad."""
        with self._lanes.one() as lane:
            return lane.run(counts, self._scale)

    def close(self) -> None:
        """Free graphs, buffers and weights once those at work are done."""
        import torch

        self._lanes.take_all()
        self._module = None
        torch.cuda.empty_cache()


class _Lane:
    """Pinned buffers, a stream, and the graphs that work on them; from host to host, one launch a batch."""

    def __init__(self, module: Any, precision: str, shape: tuple[int, ...]) -> None:
        import torch

        self._given = torch.zeros(shape, pin_memory=True)
        self._gained = torch.zeros(shape, pin_memory=True)
        self._given_array, self._gained_array = self._given.numpy(), self._gained.numpy()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graphs: dict[int, Any] = {}
        pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode(), _tf32(precision):
            # The largest first, so that the smaller ones find room in its memory; launches never overlap in a lane.
            for size in reversed(graph_sizes(shape[0])):
                self._graphs[size] = self._captured(module, _dtype(precision), size, pool)
        self._graphs = dict(sorted(self._graphs.items()))

    def run(self, counts: FloatArray, scale: np.float32) -> FloatArray:
        import torch

        size = next(size for size in self._graphs if size >= len(counts))
        np.multiply(counts, scale, out=self._given_array[: len(counts)])
        with torch.cuda.stream(self._stream):
            self._graphs[size].replay()
        self._stream.synchronize()
        return self._gained_array[: len(counts)].copy()

    def _captured(self, module: Any, dtype: "torch.dtype", size: int, pool: Any) -> Any:
        import torch

        def step() -> None:
            counts = self._given[:size].to("cuda", non_blocking=True)
            phase_rad = module(counts.to(dtype, memory_format=torch.channels_last)).float()
            self._gained[:size].copy_(phase_rad.contiguous(), non_blocking=True)

        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(3):  # libraries choose their kernels and take their memory, which a graph must not
                step()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Another engine may serve in this process meanwhile: only this thread's calls are bound by the capture's rules.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            step()
        return graph


def _precision(device: str, precision: str) -> str:
    offered = _offered(device)
    if precision == AUTO:
        return offered[0]
    if precision not in offered:
        raise ModelError(f"{_LIBRARY} on {device} computes in {' or '.join(offered)}, not in {precision}")
    return precision


def _offered(device: str) -> tuple[str, ...]:
    import torch

    offered = _PRECISIONS[device]
    if device == "CUDA" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return tuple(precision for precision in offered if precision != BFLOAT16)
    return offered


def _dtype(precision: str) -> "torch.dtype":
    import torch

    return {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}.get(precision, torch.float32)


def _module(onnx_bytes: bytes, card: ModelCard, precision: str, device: str) -> Any:
    import torch

    from phasing.engines.torch_weights import network_of
    from phasing.network import SIDE_STEP_PX

    if card.input_shape[1] % SIDE_STEP_PX:
        raise ModelError(f"PtychoNN takes frames whose side {SIDE_STEP_PX} divides, not {card.input_shape[1]} px")
    network = network_of(onnx_bytes).to(device=device, dtype=_dtype(precision))
    return network.to(memory_format=torch.channels_last).requires_grad_(False)


def _tf32(precision: str) -> AbstractContextManager[None]:
    import torch

    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=precision == TF32)
    return flags
