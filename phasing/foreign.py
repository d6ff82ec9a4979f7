"""Networks from elsewhere: an ONNX file without a card is looked at, tried out, and given one."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phasing.card import ModelCard
from phasing.engines.reference import PHASE_LIMIT_RAD
from phasing.errors import MissingExtra, ModelError, one_line
from phasing.geometry import Geometry
from phasing.reconstruction import probe_intensity

FloatArray = npt.NDArray[np.float32]

_TENSOR = "tensor(float)"
_TRIED_BATCH = 2
_MEAN_COUNTS = 10.0


@dataclass(frozen=True, eq=False)
class ForeignNetwork:
    """An ONNX network that takes and gives (B, 1, n, n) float32.

    digest: sha256 of the file's bytes. batch_size: the only number of frames that it takes; None where it takes any.
    side_px: n; None where the file leaves it open.
    """

    digest: str
    batch_size: int | None
    side_px: int | None
    _session: Any

    def try_out(self, side_px: int, counts_scale: float) -> None:
        """Predict synthetic counts once. Raises ModelError unless that gives a phase in rad for every pixel."""
        shape = (self.batch_size or _TRIED_BATCH, 1, side_px, side_px)
        counts = np.random.default_rng(0).exponential(_MEAN_COUNTS, shape).astype(np.float32)
        inputs = {self._session.get_inputs()[0].name: counts * np.float32(counts_scale)}
        try:
            phase_rad = self._session.run(None, inputs)[0]
        except _failures() as error:
            raise ModelError(f"the network cannot predict frames of shape {shape}: {one_line(error)}") from error
        if phase_rad.shape != shape:
            raise ModelError(f"the network gives {phase_rad.shape} for frames of shape {shape}: both must be the same")
        if not np.isfinite(phase_rad).all():
            raise ModelError("the network gives numbers that are not finite for synthetic counts")
        if (largest := float(np.abs(phase_rad).max())) > PHASE_LIMIT_RAD:
            raise ModelError(
                f"the network gives numbers up to {largest:.3g}: that is no phase in rad, within -pi and pi"
            )


def read_network(path: Path) -> ForeignNetwork:
    """Look at an ONNX file of any origin. Raises ModelError naming the file unless the network can be served.

    It must have one input and one output, float32, (B, 1, n, n) with the same n; B may be open or a number.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    session = _session(path, content)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for kind, tensors in (("input", inputs), ("output", outputs)):
        if len(tensors) != 1:
            names = ", ".join(tensor.name for tensor in tensors)
            raise ModelError(f"{path}: the network must have one {kind}, not {len(tensors)} ({names})")
    batch_size, side_px = _sides(path, "input", inputs[0])
    given_batch, given_px = _sides(path, "output", outputs[0])
    if None not in (side_px, given_px) and side_px != given_px:
        raise ModelError(f"{path}: the network takes {side_px} x {side_px} and gives {given_px} x {given_px} pixels")
    if None not in (batch_size, given_batch) and batch_size != given_batch:
        raise ModelError(f"{path}: the network takes {batch_size} frames and gives {given_batch}")
    return ForeignNetwork(hashlib.sha256(content).hexdigest(), batch_size, side_px, session)


def foreign_card(
    network: ForeignNetwork,
    geometry: Geometry,
    lineage: str,
    *,
    counts_scale: float = 1.0,
    pixel_size_m: float | None = None,
    weight: FloatArray | None = None,
) -> ModelCard:
    """The draft of a card for a network from elsewhere: version 0, no parent, no scans, and no loss that is known.

    counts_scale: what prepared counts are multiplied by before they enter the network. pixel_size_m: of the prediction,
    by default the geometry's object pixel. weight: (n, n), the weight of a prediction's pixels in the stitched map, by
    default central_weight. Raises ModelError when the network does not fit the geometry, or cannot predict.
    """
    side_px = geometry.frame_px
    if network.side_px not in (None, side_px):
        raise ModelError(f"{_arithmetic(geometry)}, but the network takes {network.side_px}")
    card = ModelCard(
        version=0,
        parent=None,
        lineage=lineage,
        digest=network.digest,
        scans=(),
        val_loss=None,
        incumbent_val_loss=None,
        losses=(),
        val_losses=(),
        input_shape=(1, side_px, side_px),
        geometry=geometry,
        counts_scale=counts_scale,
        pixel_size_m=geometry.object_pixel_size_m if pixel_size_m is None else pixel_size_m,
        probe_intensity=central_weight(side_px) if weight is None else weight,
        created_s=time.time(),
        seconds=0.0,
    )
    network.try_out(side_px, counts_scale)
    return card


def central_weight(side_px: int) -> FloatArray:
    """A weight for predictions whose probe is not known, (side_px, side_px) float32, maximum 1.

    The product of two squared sines (Hann's window) over rows and columns: a patch's rim, where a network sees least of
    the sample, counts least, and no patch leaves an edge in the map.
    """
    line = np.sin(np.pi * (np.arange(side_px) + 0.5) / side_px) ** 2
    window = np.outer(line, line)
    return np.asarray(window / window.max(), np.float32)


def read_weight(path: Path, side_px: int) -> FloatArray:
    """The weight in a .npy file: real (n, n), or a complex probe (..., n, n), of which all modes' intensity is taken.

    Returns (n, n) float32, maximum 1. Raises ModelError naming the file.
    """
    try:
        array = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} is no .npy file that can be read: {one_line(error)}") from error
    shape = (side_px, side_px)
    if array.dtype.kind not in "iufc" or array.shape[-2:] != shape or (array.dtype.kind != "c" and array.ndim != 2):
        wanted = f"{shape}, or a complex probe (..., {side_px}, {side_px})"
        raise ModelError(f"{path}: the weight must be {wanted}, not {array.shape} {array.dtype}")
    weight = probe_intensity(array.reshape(-1, *shape)) if array.dtype.kind == "c" else array.astype(np.float32)
    if not np.isfinite(weight).all() or not weight.min() >= 0.0 < weight.max():
        raise ModelError(f"{path}: the weight must be finite, not negative, and somewhere above 0")
    return np.asarray(weight / weight.max(), np.float32)


def _session(path: Path, content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "cpu") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised; what is only odd is not for an operator
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _failures() as error:
        raise ModelError(f"{path} is no ONNX file that can be used: {one_line(error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "RuntimeException", "NotImplemented")
    return tuple(getattr(failures, name) for name in (*names, "NoSuchFile"))


def _sides(path: Path, kind: str, tensor: Any) -> tuple[int | None, int | None]:
    """Batch and side of an input or output, None where the file leaves them open (a name, or nothing)."""
    if tensor.type != _TENSOR:
        raise ModelError(f"{path}: {kind} {tensor.name} must be float32, not {tensor.type}")
    shape = [side if isinstance(side, int) else None for side in tensor.shape]
    if len(shape) != 4 or shape[1] not in (None, 1):
        raise ModelError(f"{path}: {kind} {tensor.name} must be (B, 1, n, n), not {_written(tensor.shape)}")
    batch, _, height, width = shape
    if None not in (height, width) and height != width:
        raise ModelError(f"{path}: {kind} {tensor.name} must be square, not {_written(tensor.shape)}")
    return batch, height if height is not None else width


def _written(shape: list[Any]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in shape)})"


def _arithmetic(geometry: Geometry) -> str:
    """How a frame's side becomes a prepared frame's: `516 - 2 x 2 = 512, / 4 = 128`."""
    raw, crop = min(geometry.detector_shape_px), geometry.crop_px
    cut = raw - crop
    start = f"{raw} - 2 x {cut // 2} = {crop}" if cut and cut % 2 == 0 else str(crop)
    return f"{start}, / {geometry.bin_px} = {geometry.frame_px}"
