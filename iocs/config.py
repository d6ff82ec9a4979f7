"""The one configuration file: TOML, read once at start and checked as a whole."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phasing.errors import GeometryError, PhaselineError
from phasing.geometry import Geometry
from pvdb import detector as declared

_NAME_CHARACTERS = r"[A-Za-z0-9_\-:\[\]{}<>;]+"
"""What EPICS allows in a record's name, but for the dot, where the name ends and a field's begins."""
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(max_length=39)]
Prefix = Annotated[str, Field(min_length=1, max_length=30, pattern=f"^{_NAME_CHARACTERS}$")]
Suffix = Annotated[str, Field(max_length=20, pattern=f"^{_NAME_CHARACTERS}:$")]


class ConfigError(PhaselineError):
    """A configuration that cannot be used; every line of the text names a key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Experiment(_Section):
    """Who measures what: the words that set the lineage of models."""

    proposal: Name = "demo"
    sample: Name = "W pattern"
    optics: str = "26-ID zone plate"


class GeometryBlock(_Section):
    """How frames are measured and prepared; the defaults are 26-ID's optics seen on 64 x 64 pixels."""

    energy_ev: Positive = 10_400.0
    distance_m: Positive = 1.55
    pixel_size_m: Positive = 110e-6
    detector_shape_px: tuple[int, int] = (64, 64)
    crop_px: Count = 64
    crop_center_px: tuple[int, int] | None = None
    bin_px: Count = 1
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    saturation_counts: Positive | None = None
    mask_file: Path | None = None
    dark_file: Path | None = None
    flat_file: Path | None = None

    def geometry(self) -> Geometry:
        """The geometry block with its arrays read from .npy files; ConfigError names the key."""
        values = self.model_dump(exclude={"mask_file", "dark_file", "flat_file"})
        files = {"mask": "mask_file", "dark_counts": "dark_file", "flat": "flat_file"}
        arrays: dict[str, Any] = {name: _read_array(key, getattr(self, key)) for name, key in files.items()}
        try:
            return Geometry(**values, **arrays)
        except GeometryError as error:
            raise ConfigError(str(error).replace("geometry: ", "geometry.", 1)) from error


def _read_array(key: str, path: Path | None) -> NDArray[Any] | None:
    try:
        return None if path is None else np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ConfigError(f"geometry.{key}: {path} is no .npy file that can be read: {error}") from error


class DetectorSection(_Section):
    """Suffixes of areaDetector's plugins, and the simulated optics."""

    camera: Suffix = "Det:cam1:"
    file: Suffix = "Det:HDF1:"
    pva: Suffix = "Det:Pva1:"
    defocus_m: float = -150e-6
    queue_frames: Count = 1000

    @property
    def renames(self) -> dict[str, str]:
        """What the declared prefixes of areaDetector's plugins are called here."""
        return {
            declared.CAM_PREFIX: self.camera,
            declared.FILE_PREFIX: self.file,
            declared.PVA_PREFIX: self.pva,
        }

    @model_validator(mode="after")
    def _suffixes_differ(self) -> Self:
        if len({self.camera, self.file, self.pva}) < 3:
            raise ValueError("camera, file and pva need three different suffixes")
        return self


class EdgeSection(_Section):
    """Where frames come from and how they are predicted."""

    stream: str | None = None
    engine: Literal["auto", "onnxruntime", "openvino"] = "auto"
    threads: Count = 1
    queue_frames: Count = 4000
    scan_id_attribute: str = "ScanId"
    position_x_attribute: str = "PositionX"
    position_y_attribute: str = "PositionY"
    position_unit_m: Positive = 1e-6
    stitch_period_s: Positive = 0.5
    input_period_s: Positive = 0.1
    fetch_timeout_s: Positive = 15.0


class ReconstructSection(_Section):
    """Phase retrieval: where the setpoints start, and what has no PV."""

    num_epochs: Count = 30
    num_modes: Count = 1
    batch_size: Count = 50
    defocus_m: float | None = -150e-6
    preview_every: Count = 5
    seed: int = 0


class TrainSection(_Section):
    """The training schedule of the paper (arXiv 2304.04297), and the gate's margin."""

    num_epochs: Count = 50
    batch_size: Count = 64
    learning_rate_min: Positive = 1e-4
    learning_rate_max: Positive = 5e-4
    half_cycle_epochs: Positive | None = None
    plain_loss: bool = False
    seed: int = 0
    gate_margin: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _rates_rise(self) -> Self:
        if self.learning_rate_min >= self.learning_rate_max:
            raise ValueError("learning_rate_min is not below learning_rate_max")
        return self


class WorkflowSection(_Section):
    """Where scans come from, and the limits of the work done off the beamline's path."""

    scans: Path | None = None
    runs_at_once: Count = 2
    reconstruct_workers: Count = 1
    threads_per_worker: Count | None = None
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    job_timeout_s: Positive = 86_400.0
    edge_timeout_s: Positive = 60.0


class Network(_Section):
    """Which addresses the IOCs serve; on loopback alone unless said otherwise."""

    loopback: bool = True
    ca_port: Annotated[int, Field(ge=1024, le=65534)] = 5064  # the next one is the repeater's
    pva_port: Annotated[int, Field(ge=1024, le=65535)] = 5075
    pva_broadcast_port: Annotated[int, Field(ge=1024, le=65535)] = 5076

    def environment(self) -> dict[str, str]:
        """EPICS variables that clients and servers need (several IOCs on one host are found by broadcast)."""
        ports = {
            "EPICS_CA_SERVER_PORT": str(self.ca_port),
            "EPICS_CA_REPEATER_PORT": str(self.ca_port + 1),
            "EPICS_PVA_SERVER_PORT": str(self.pva_port),
            "EPICS_PVA_BROADCAST_PORT": str(self.pva_broadcast_port),
            "EPICS_PVAS_BROADCAST_PORT": str(self.pva_broadcast_port),
            "EPICS_CA_MAX_ARRAY_BYTES": "100000000",
        }
        if not self.loopback:
            return ports
        return ports | {
            "EPICS_CA_ADDR_LIST": "127.255.255.255",
            "EPICS_CA_AUTO_ADDR_LIST": "NO",
            "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1 127.255.255.255",
            "EPICS_CAS_BEACON_ADDR_LIST": "127.255.255.255",
            "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
            "EPICS_PVA_ADDR_LIST": "127.0.0.1",
            "EPICS_PVA_AUTO_ADDR_LIST": "NO",
            "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        }


class Config(_Section):
    """Everything that an installation of phaseline decides."""

    prefix: Prefix = "PTY:"
    root: Path = Path("phaseline-data")
    experiment: Experiment = Experiment()
    network: Network = Network()
    geometry: GeometryBlock = GeometryBlock()
    detector: DetectorSection = DetectorSection()
    edge: EdgeSection = EdgeSection()
    reconstruct: ReconstructSection = ReconstructSection()
    train: TrainSection = TrainSection()
    workflow: WorkflowSection = WorkflowSection()

    @property
    def scans(self) -> Path:
        """The folder below which scan files lie that may be submitted."""
        return (self.workflow.scans or self.root / "scans").resolve()

    @property
    def stream(self) -> str:
        """The PV that the edge reads frames from."""
        return self.edge.stream or f"{self.prefix}{self.detector.pva}Image"

    def apply_environment(self) -> None:
        """Set the EPICS variables of this process and its children; what the user has set stays."""
        for name, value in self.network.environment().items():
            os.environ.setdefault(name, value)


def load(path: Path | None) -> Config:
    """The configuration in a TOML file, or the defaults; ConfigError with one line for each wrong key."""
    if path is None:
        return Config()
    try:
        text = path.read_bytes()
        values = tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse(values, where=str(path))


def parse(values: Mapping[str, Any], *, where: str = "configuration") -> Config:
    """Check a whole configuration; ConfigError with one line for each wrong key."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {'.'.join(map(str, e['loc'])) or 'configuration'}: {_reason(e)}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    try:
        config.geometry.geometry()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return config


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    if error["type"] == "string_pattern_mismatch":
        text = "must be letters, digits and _-:[]{}<>; alone" + (" and end in a colon" if len(error["loc"]) > 1 else "")
    else:
        text = str(error["msg"]).removeprefix("Value error, ")
    return text if isinstance(error["input"], dict) else f"{text}, not {error['input']!r}"
