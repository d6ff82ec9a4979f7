"""From checkpoint to ONNX: the form in which a network travels to the edge, with its card."""

from __future__ import annotations

import hashlib
import platform
import time
import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phasing.card import ModelCard
from phasing.checkpoint import Checkpoint, load_checkpoint
from phasing.errors import MissingExtra, ModelError
from phasing.files import replaced_file

if TYPE_CHECKING:
    from phasing.network import PtychoNN

OPSET = 17
INPUT_NAME = "input"
OUTPUT_NAME = "phase_rad"
_TOLERANCE_RAD = 1e-3
_CHECKED_BATCH = 3
_SOFTWARE = ("phaseline", "torch", "onnx", "onnxruntime", "numpy")


def export_onnx(checkpoint_path: Path, onnx_path: Path, *, lineage: str, parent: int | None = None) -> ModelCard:
    """Write a checkpoint's network as ONNX and return the draft of its card (version 0 until it is registered).

    The graph takes `input` (B, 1, n, n) float32, prepared counts times the card's counts_scale, any B, and gives
    `phase_rad` of the same shape.
    Raises ModelError when the checkpoint is corrupted, or when onnxruntime's answer differs from torch's by 1 mrad.
    """
    from phasing.network import load_network

    checkpoint = load_checkpoint(checkpoint_path)
    network = load_network(checkpoint.state)
    onnx_path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(onnx_path) as part:
        _write_onnx(network, checkpoint.geometry.frame_px, part)
        onnx_bytes = part.read_bytes()
        _compare(network, onnx_bytes, checkpoint.geometry.frame_px)
    return _draft(checkpoint, hashlib.sha256(onnx_bytes).hexdigest(), lineage, parent)


def _write_onnx(network: PtychoNN, side_px: int, path: Path) -> None:
    import torch

    batch_axis = {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}}
    with warnings.catch_warnings():
        # The newer exporter needs onnxscript; the one that does not announces its retirement at every call.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(_CHECKED_BATCH, 1, side_px, side_px),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes=batch_axis,
        )


def _compare(network: PtychoNN, onnx_bytes: bytes, side_px: int) -> None:
    import torch

    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for batch in (1, _CHECKED_BATCH):
        scaled = generator.exponential(1.0, (batch, 1, side_px, side_px)).astype(np.float32)
        with torch.inference_mode():
            expected_rad = network(torch.from_numpy(scaled)).numpy()
        difference_rad = float(np.abs(session.run(None, {INPUT_NAME: scaled})[0] - expected_rad).max())
        if not difference_rad < _TOLERANCE_RAD:
            raise ModelError(f"the exported network differs from the trained one by {difference_rad:.2g} rad")


def _draft(checkpoint: Checkpoint, digest: str, lineage: str, parent: int | None) -> ModelCard:
    side_px = checkpoint.geometry.frame_px
    return ModelCard(
        version=0,
        parent=parent,
        lineage=lineage,
        digest=digest,
        scans=checkpoint.scans,
        val_loss=checkpoint.val_loss,
        incumbent_val_loss=checkpoint.incumbent_val_loss,
        losses=checkpoint.losses,
        val_losses=checkpoint.val_losses,
        input_shape=(1, side_px, side_px),
        geometry=checkpoint.geometry,
        counts_scale=checkpoint.counts_scale,
        pixel_size_m=checkpoint.pixel_size_m,
        probe_intensity=checkpoint.probe_intensity,
        created_s=time.time(),
        seconds=checkpoint.seconds,
        scan_losses=checkpoint.scan_losses,
        num_samples=checkpoint.num_samples,
        num_held_out=checkpoint.num_held_out,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """What made the network, of what is installed as a distribution."""
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
