"""The file between two training rounds: the best weights, and all that the next round and the card need to know."""

import io
import json
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from phasing.errors import GeometryError, ModelError, TrainingError, one_line
from phasing.files import replaced_file
from phasing.geometry import Geometry
from phasing.rounds import ScanLoss

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights of PtychoNN with where they come from; losses in rad, by epoch of the last round.

    scans: all that the weights have learned from. val_loss: on all held-out frames; None for weights from elsewhere.
    num_samples, num_held_out: frames of the last round. counts_scale: prepared counts are multiplied by it before they
    enter the network; kept through a lineage. probe_intensity: (n, n) float32, mean over the scans, maximum 1.
    """

    state: "dict[str, torch.Tensor]"
    scans: tuple[str, ...]
    val_loss: float | None
    incumbent_val_loss: float | None
    scan_losses: tuple[ScanLoss, ...]
    num_samples: int
    num_held_out: int
    losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    counts_scale: float
    pixel_size_m: float
    geometry: Geometry
    probe_intensity: npt.NDArray[np.float32]
    seconds: float


def bare_checkpoint(
    state: "dict[str, torch.Tensor]",
    geometry: Geometry,
    *,
    counts_scale: float,
    pixel_size_m: float,
    probe_intensity: npt.NDArray[np.float32],
) -> Checkpoint:
    """Weights of which nothing is known but what they are for: no scans, no losses."""
    return Checkpoint(
        state=state,
        scans=(),
        val_loss=None,
        incumbent_val_loss=None,
        scan_losses=(),
        num_samples=0,
        num_held_out=0,
        losses=(),
        val_losses=(),
        counts_scale=counts_scale,
        pixel_size_m=pixel_size_m,
        geometry=geometry,
        probe_intensity=probe_intensity,
        seconds=0.0,
    )


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write the file as a whole or not at all."""
    import torch

    facts = {name: getattr(checkpoint, name) for name in _PLAIN}
    facts |= {"geometry": checkpoint.geometry.to_json(), "scan_losses": list(map(asdict, checkpoint.scan_losses))}
    content = {
        "state": checkpoint.state,
        "facts": json.dumps(facts),
        "probe_intensity": torch.from_numpy(checkpoint.probe_intensity),
    }
    save_tensors(content, path)


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """Write what torch.load reads with weights_only, as a whole or not at all.

    Made in memory first: torch's own writer cannot bear a full disk. Raises TrainingError when the disk does not take
    it; what was there before stays.
    """
    import torch

    made = io.BytesIO()
    torch.save(content, made)
    try:
        with replaced_file(path) as part:
            part.write_bytes(made.getbuffer())
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error


def load_tensors(path: Path) -> Any:
    """Read what torch.save wrote onto the CPU, without running any code that might lie in it.

    Raises ModelError naming the file when it is missing or damaged, or holds anything but tensors and plain values.
    """
    import torch

    try:
        return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} is corrupted, or holds more than weights: {one_line(error)}") from error
    except (RuntimeError, EOFError, ValueError, LookupError) as error:
        raise ModelError(f"{path} is corrupted: {one_line(error)}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises ModelError naming the file when it is missing, truncated or not one of ours."""
    content = load_tensors(path)
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError, GeometryError) as error:
        raise ModelError(f"checkpoint {path} is not one of phaseline's: {error}") from error


_PLAIN = (
    "scans",
    "val_loss",
    "incumbent_val_loss",
    "num_samples",
    "num_held_out",
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
        scan_losses=tuple(ScanLoss(**loss) for loss in facts["scan_losses"]),
        num_samples=facts["num_samples"],
        num_held_out=facts["num_held_out"],
        losses=tuple(facts["losses"]),
        val_losses=tuple(facts["val_losses"]),
        counts_scale=facts["counts_scale"],
        pixel_size_m=facts["pixel_size_m"],
        geometry=Geometry.from_json(facts["geometry"]),
        probe_intensity=content["probe_intensity"].numpy(),
        seconds=facts["seconds"],
    )
