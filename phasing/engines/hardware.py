"""What can compute here, found out without importing any of it."""

import importlib.util
import os
from importlib.machinery import ModuleSpec
from itertools import takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which CUDA is told which GPUs there are for a process."""
_NUMBERED_NODES = "nvidia[0-9]*"
"""Of discrete GPUs."""
_OTHER_NODES = ("nvhost-gpu", "nvgpu", "dxg")
"""Of Jetsons of two generations, and of Windows' Linux."""


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
    return bool(visible_gpus(devices))


def visible_gpus(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """The CUDA devices that are visible to this process, as CUDA_VISIBLE_DEVICES names them: numbers or UUIDs."""
    count = sum(1 for _ in devices.glob(_NUMBERED_NODES))
    if not count and not any((devices / name).exists() for name in _OTHER_NODES):
        return ()
    named = os.environ.get(VISIBLE)
    if named is None:
        return tuple(map(str, range(max(1, count))))
    words = (word.strip() for word in named.split(","))
    # As CUDA reads it: what follows a device that cannot be is not visible.
    return tuple(takewhile(lambda word: word not in ("", "-1", "NoDevFiles"), words))


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
