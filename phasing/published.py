"""Weights that were trained elsewhere, as PyTorch saves them, become a checkpoint that training can start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phasing.checkpoint import Checkpoint, bare_checkpoint, load_tensors
from phasing.errors import ModelError
from phasing.geometry import Geometry

_WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Under which names training scripts keep the weights among other things."""
_PARALLEL = "module."
"""What DistributedDataParallel and DataParallel put before every key."""


def published_checkpoint(
    path: Path,
    geometry: Geometry,
    *,
    counts_scale: float,
    pixel_size_m: float,
    probe_intensity: npt.NDArray[np.float32],
) -> Checkpoint:
    """A state dict of PtychoNN in a .pth file, saved on whatever device, as a checkpoint without scans and losses.

    No code that might lie in the file is run. Raises ModelError naming the file when it holds anything else.
    """
    from phasing.network import load_network

    content = load_tensors(path)
    try:
        state = _state(content)
        load_network(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return bare_checkpoint(
        state,
        geometry,
        counts_scale=counts_scale,
        pixel_size_m=pixel_size_m,
        probe_intensity=probe_intensity,
    )


def _state(content: Any) -> dict[str, Any]:
    for name in _WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise ModelError(f"a state dict is wanted, not {type(content).__name__}")
    return {str(key).removeprefix(_PARALLEL): value for key, value in content.items()}
