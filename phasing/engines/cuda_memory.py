"""The little of the CUDA runtime that an engine needs: pinned and device memory, a stream, graphs."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from phasing.engines.protocol import FloatArray
from phasing.errors import MissingExtra, ModelError


def cuda_runtime() -> Any:
    """The CUDA runtime's bindings. Raises MissingExtra without cuda-bindings, ModelError without a device."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtra("cuda-bindings", "tensorrt") from error
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess or not count:
        raise ModelError(f"no CUDA device here: {status.name}")
    return runtime


def called(result: tuple[Any, ...]) -> Any:
    """What a call of the runtime returns besides its status. Raises ModelError when that is not success."""
    status, *values = result
    if int(status) != 0:
        raise ModelError(f"CUDA: {status.name}")
    return values[0] if values else None


class Lane:
    """Pinned host buffers, device buffers and a stream, and the graphs that were captured on them.

    shape: (B, 1, n, n) of the largest batch. Every call of CUDA releases the interpreter's lock.
    """

    def __init__(self, runtime: Any, shape: tuple[int, ...]) -> None:
        self._runtime = runtime
        self._undo: list[Callable[[], Any]] = []
        self._graphs: dict[int, Any] = {}
        self._frame_bytes = 4 * int(np.prod(shape[1:]))
        try:
            self.stream = self._owned(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamDestroy, 1)  # non-blocking
            self.given, self._given_address = self._pinned(shape)
            self.gained, self._gained_address = self._pinned(shape)
            self.device_given = self.device_memory(shape[0] * self._frame_bytes)
            self.device_gained = self.device_memory(shape[0] * self._frame_bytes)
        except BaseException:  # whatever ends it: nobody else knows of what is owned already
            self.close()
            raise

    def device_memory(self, num_bytes: int) -> int:
        """The address of device memory that lives as long as the lane."""
        return int(self._owned(self._runtime.cudaMalloc, self._runtime.cudaFree, max(1, num_bytes)))

    def capture(self, size: int, enqueue: Callable[[], None]) -> None:
        """Make a graph of `size` frames from pinned buffer to pinned buffer; enqueue puts the work on the stream."""
        runtime = self._runtime
        enqueue()  # what a library sets up at the first call with a shape must not be part of the graph
        self.wait()
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        called(runtime.cudaStreamBeginCapture(self.stream, mode))
        try:
            self._copy(self.device_given, self._given_address, size, runtime.cudaMemcpyKind.cudaMemcpyHostToDevice)
            enqueue()
            self._copy(self._gained_address, self.device_gained, size, runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        except BaseException:  # whatever ends it: the stream must not go on capturing
            runtime.cudaStreamEndCapture(self.stream)
            raise
        graph = called(runtime.cudaStreamEndCapture(self.stream))
        try:
            self._graphs[size] = called(runtime.cudaGraphInstantiate(graph, 0))
        finally:
            runtime.cudaGraphDestroy(graph)
        self._undo.append(lambda: runtime.cudaGraphExecDestroy(self._graphs.pop(size)))

    def run(self, counts: FloatArray, scale: np.float32) -> FloatArray:
        """(B, 1, n, n) counts, scaled on their way, to phase in rad, by the smallest graph that holds them."""
        size = min(size for size in self._graphs if size >= len(counts))
        np.multiply(counts, scale, out=self.given[: len(counts)])
        called(self._runtime.cudaGraphLaunch(self._graphs[size], self.stream))
        self.wait()
        return self.gained[: len(counts)].copy()

    def wait(self) -> None:
        """Until the stream's work is done."""
        called(self._runtime.cudaStreamSynchronize(self.stream))

    def close(self) -> None:
        """Free everything, last things first."""
        while self._undo:
            self._undo.pop()()

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        called(self._runtime.cudaMemcpyAsync(target, source, size * self._frame_bytes, kind, self.stream))

    def _pinned(self, shape: tuple[int, ...]) -> tuple[FloatArray, int]:
        num_bytes = shape[0] * self._frame_bytes
        address = int(self._owned(self._runtime.cudaMallocHost, self._runtime.cudaFreeHost, num_bytes))
        array: FloatArray = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(address))
        array = array.reshape(shape)
        array[:] = 0.0
        return array, address

    def _owned(self, make: Callable[[int], tuple[Any, ...]], undo: Callable[[Any], Any], argument: int) -> Any:
        thing = called(make(argument))
        self._undo.append(lambda: undo(thing))
        return thing
