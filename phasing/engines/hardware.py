"""What can compute here, found out without importing any of it."""

import importlib.util
import os
from importlib.machinery import ModuleSpec
from pathlib import Path

_DEVICE_NODES = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg")
"""Of a discrete GPU, of Jetsons of two generations, and of Windows' Linux."""


def engine_names_available() -> tuple[str, ...]:
    """The engines that are installed and work on this hardware, the fastest first; their libraries are not imported.

    torch is among them only where there is a GPU: on a CPU it has to be asked for.
    """
    gpu = has_gpu()
    order = (
        ("tensorrt", gpu),
        ("torch", gpu),
        ("onnxruntime", gpu and _onnxruntime_has_cuda()),
        ("openvino", True),
        ("onnxruntime", True),
    )
    names = [name for name, works in order if works and _find(name) is not None]
    return tuple(dict.fromkeys(names))


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether a CUDA device is visible to this process, as far as device nodes and CUDA_VISIBLE_DEVICES say."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):
        return False
    return any(True for pattern in _DEVICE_NODES for _ in devices.glob(pattern))


def cpu_count() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _onnxruntime_has_cuda() -> bool:
    found = _find("onnxruntime")
    if found is None or found.origin is None:
        return False
    return Path(found.origin).with_name("capi").joinpath("libonnxruntime_providers_cuda.so").exists()


def _find(name: str) -> ModuleSpec | None:
    return importlib.util.find_spec(name)
