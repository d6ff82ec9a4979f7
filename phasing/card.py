"""The model card: everything that must travel with a network so that another machine can use it rightly."""

import base64
import binascii
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from phasing.errors import GeometryError, ModelError
from phasing.geometry import SIGNIFICANT_DIGITS, Geometry
from phasing.rounds import ScanLoss

FloatArray = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ModelCard:
    """One model: where it comes from, how good it is, and how frames are prepared for it.

    version: assigned by the registry; 0 until then. parent: the version it was started from.
    digest: sha256 of the ONNX bytes, 64 hexadecimal digits.
    scans: ids of all scans it has learned from. losses, val_losses: by epoch, mean absolute error in rad.
    val_loss: None for a network from elsewhere, of which no loss is known. incumbent_val_loss: the parent's loss on the
    same held-out frames. scan_losses: both, scan by scan. num_samples, num_held_out: frames of the round that made it.
    input_shape: (1, n, n) of one prepared frame. geometry: the preparation (phasing.frames.prepare).
    counts_scale: what prepared counts are multiplied by before they enter the network (the engines do it).
    probe_intensity: (n, n) float32, the weight of a prediction's pixels in the stitched map, maximum 1.
    created_s: Unix time. seconds: how long the training took. versions: of the software that made it, by name.
    """

    version: int
    parent: int | None
    lineage: str
    digest: str
    scans: tuple[str, ...]
    val_loss: float | None
    incumbent_val_loss: float | None
    losses: tuple[float, ...]
    val_losses: tuple[float, ...]
    input_shape: tuple[int, int, int]
    geometry: Geometry
    counts_scale: float
    pixel_size_m: float
    probe_intensity: FloatArray
    created_s: float
    seconds: float
    scan_losses: tuple[ScanLoss, ...] = ()
    num_samples: int = 0
    num_held_out: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with one key for every field; the probe's intensity as zlib in base64."""
        return {
            "version": self.version,
            "parent": self.parent,
            "lineage": self.lineage,
            "digest": self.digest,
            "scans": list(self.scans),
            "val_loss": self.val_loss,
            "incumbent_val_loss": self.incumbent_val_loss,
            "losses": list(self.losses),
            "val_losses": list(self.val_losses),
            "input_shape": list(self.input_shape),
            "geometry": self.geometry.to_json(),
            "counts_scale": self.counts_scale,
            "pixel_size_m": self.pixel_size_m,
            "probe_intensity": base64.b64encode(zlib.compress(self.probe_intensity.astype("<f4").tobytes())).decode(),
            "created_s": self.created_s,
            "seconds": self.seconds,
            "scan_losses": [asdict(loss) for loss in self.scan_losses],
            "num_samples": self.num_samples,
            "num_held_out": self.num_held_out,
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, data: Any) -> "ModelCard":
        """The card in a JSON object. Raises ModelError for anything else, or naming the key that is wrong."""
        if not isinstance(data, Mapping):
            raise ModelError(f"model card: it is no JSON object but {type(data).__name__}")
        shape = _read(data, "input_shape", _shape)
        return cls(
            version=_read(data, "version", int),
            parent=_read(data, "parent", _optional_int),
            lineage=_read(data, "lineage", str),
            digest=_read(data, "digest", str),
            scans=_read(data, "scans", lambda scans: tuple(str(scan) for scan in scans)),
            val_loss=_read(data, "val_loss", _optional_float),
            incumbent_val_loss=_read(data, "incumbent_val_loss", _optional_float),
            losses=_read(data, "losses", _floats),
            val_losses=_read(data, "val_losses", _floats),
            input_shape=shape,
            geometry=_read(data, "geometry", Geometry.from_json),
            counts_scale=_read(data, "counts_scale", float),
            pixel_size_m=_read(data, "pixel_size_m", float),
            probe_intensity=_read(data, "probe_intensity", lambda text: _unpack(text, shape)),
            created_s=_read(data, "created_s", float),
            seconds=_read(data, "seconds", float),
            scan_losses=_read(data, "scan_losses", _scan_losses),
            num_samples=_read(data, "num_samples", int),
            num_held_out=_read(data, "num_held_out", int),
            versions=_read(data, "versions", lambda found: {str(key): str(value) for key, value in found.items()}),
        )


def lineage_key(experiment: str, geometry: Geometry, optics_label: str = "") -> str:
    """The name of the family of models that may follow one another: same experiment, optics and detector set-up.

    A readable start from the experiment's name, then ten hexadecimal digits over all that must agree: energy,
    distance, detector, crop, binning, orientation and the optics' label. Floats count to SIGNIFICANT_DIGITS, so that
    scans of one lineage always train together.
    """
    center = geometry.crop_center_px or tuple(side // 2 for side in geometry.detector_shape_px)
    facts = {
        "experiment": experiment,
        "optics": optics_label,
        "energy_ev": _digits(geometry.energy_ev),
        "distance_m": _digits(geometry.distance_m),
        "detector": [_digits(geometry.pixel_size_m), *geometry.detector_shape_px],
        "crop": [geometry.crop_px, *center, geometry.bin_px],
        "orientation": [geometry.transpose, geometry.flip_rows, geometry.flip_columns],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^a-z0-9]+", "-", experiment.lower()).strip("-")[:20] or "experiment"
    return f"{name}-{digest[:10]}"


def _digits(value: float) -> str:
    return f"{value:.{SIGNIFICANT_DIGITS}g}"


def _check(card: ModelCard) -> None:
    wanted = {
        "version": card.version >= 0,
        "digest": re.fullmatch(r"[0-9a-f]{64}", card.digest) is not None,
        "lineage": bool(card.lineage),
        "input_shape": card.input_shape == (1, card.geometry.frame_px, card.geometry.frame_px),
        "counts_scale": 0.0 < card.counts_scale < float("inf"),
        "pixel_size_m": 0.0 < card.pixel_size_m < float("inf"),
        "probe_intensity": card.probe_intensity.shape == card.input_shape[1:]
        and bool(np.isfinite(card.probe_intensity).all())
        and card.probe_intensity.min() >= 0.0 < card.probe_intensity.max(),
    }
    for key, good in wanted.items():
        if not good:
            raise ModelError(f"model card: {key} is wrong")


def _read(data: Mapping[str, Any], key: str, convert: Callable[[Any], T]) -> T:
    if key not in data:
        raise ModelError(f"model card: {key} is missing")
    try:
        return convert(data[key])
    except (TypeError, ValueError, AttributeError, GeometryError) as error:
        raise ModelError(f"model card: {key} is wrong: {error}") from error


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _scan_losses(values: Any) -> tuple[ScanLoss, ...]:
    return tuple(ScanLoss(**loss) for loss in values)


def _shape(values: Any) -> tuple[int, int, int]:
    channels, height, width = (int(value) for value in values)
    return channels, height, width


def _unpack(text: str, shape: tuple[int, int, int]) -> FloatArray:
    try:
        packed = zlib.decompress(base64.b64decode(text, validate=True))
    except (binascii.Error, zlib.error) as error:
        raise ValueError(str(error)) from error
    return np.frombuffer(packed, dtype="<f4").reshape(shape[1:]).astype(np.float32)
