"""The file between two training rounds: the best weights, and all that the next round and the card need to know."""

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phasing.errors import GeometryError, ModelError
from phasing.files import replaced_file
from phasing.geometry import Geometry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights of PtychoNN with where they come from; losses in rad, by epoch of the last round.

    counts_scale: prepared counts are multiplied by it before they enter the network; kept through a lineage.
    probe_intensity: (n, n) float32, mean over the scans, maximum 1.
    """

    state: "dict[str, torch.Tensor]"
    scans: tuple[str, ...]
    val_loss: float
    incumbent_val_loss: float | None
    losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    counts_scale: float
    pixel_size_m: float
    geometry: Geometry
    probe_intensity: npt.NDArray[np.float32]
    seconds: float


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file as a whole or not at all."""
    import torch

    facts = {name: getattr(checkpoint, name) for name in _PLAIN}
    content = {
        "state": checkpoint.state,
        "facts": json.dumps({**facts, "geometry": checkpoint.geometry.to_json()}),
        "probe_intensity": torch.from_numpy(checkpoint.probe_intensity),
    }
    with replaced_file(path) as part:
        torch.save(content, part)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, without running any code that might lie in it.

    Raises ModelError naming the file when it is missing, truncated or not one of ours.
    """
    import torch

    try:
        content = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ModelError(f"checkpoint {path} is corrupted: {' '.join(str(error).split())[:120]}") from error
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError, GeometryError) as error:
        raise ModelError(f"checkpoint {path} is not one of phaseline's: {error}") from error


_PLAIN = (
    "scans",
    "val_loss",
    "incumbent_val_loss",
    "losses",
    "val_losses",
    "counts_scale",
    "pixel_size_m",
    "seconds",
)


def _parse(content: dict[str, Any]) -> Checkpoint:
    facts = json.loads(content["facts"])
    return Checkpoint(
        state=content["state"],
        scans=tuple(facts["scans"]),
        val_loss=facts["val_loss"],
        incumbent_val_loss=facts["incumbent_val_loss"],
        losses=tuple(facts["losses"]),
        val_losses=tuple(facts["val_losses"]),
        counts_scale=facts["counts_scale"],
        pixel_size_m=facts["pixel_size_m"],
        geometry=Geometry.from_json(facts["geometry"]),
        probe_intensity=content["probe_intensity"].numpy(),
        seconds=facts["seconds"],
    )
