"""The one configuration file: TOML, read once at start and checked as a whole."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from iocs.config_bridge import BridgeSection, Count, Positive, Section
from phasing.errors import GeometryError, PhaselineError
from phasing.geometry import Geometry
from pvdb import Pv
from pvdb import detector as declared
from pvdb import edge as edge_pvs
from pvdb import workflow as workflow_pvs

_NAME_CHARACTERS = r"[A-Za-z0-9_\-:\[\]{}<>;]+"
"""What EPICS allows in a record's name, but for the dot, where the name ends and a field's begins."""
CHANNEL_ACCESS = "ca://"
"""What the name of a PV begins with that is read over Channel Access."""
Name = Annotated[str, Field(max_length=39)]
Prefix = Annotated[str, Field(min_length=1, max_length=30, pattern=f"^{_NAME_CHARACTERS}$")]
Suffix = Annotated[str, Field(max_length=20, pattern=f"^{_NAME_CHARACTERS}:$")]


class ConfigError(PhaselineError):
    """A configuration that cannot be used; every line of the text names a key."""


class Experiment(Section):
    """Who measures what: the words that set the lineage of models."""

    proposal: Name = "demo"
    sample: Name = "W pattern"
    optics: str = "26-ID zone plate"


class GeometryBlock(Section):
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


class DetectorSection(Section):
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


class AxesSection(Section):
    """What holds a frame's position, and how its numbers become (y, x) in the sample plane.

    First the axes are swapped if so configured, then each is multiplied by its sign and by unit_m, then the pair is
    turned by rotation_deg (from x towards y). unique_id: the column or dataset of frame ids in a file; empty for the
    usual names.
    """

    x: str = "PositionX"
    y: str = "PositionY"
    unique_id: str = ""
    unit_m: Positive = 1e-6
    sign_x: Literal[1, -1] = 1
    sign_y: Literal[1, -1] = 1
    swap: bool = False
    rotation_deg: float = 0.0


class PositionSection(AxesSection):
    """Where the position of a frame comes from while it is streamed.

    source: NDAttributes of the frame itself; a file by frame id (CSV, where a last line counts once it ends, HDF5 or
    MDA); or a stream: either one PV that holds a table of samples, or one PV for each axis. x and y name accordingly
    attributes, columns, paths within the file, columns of the table, or the PVs. Samples of a stream are matched by
    time, over the window of `exposure_s` that begins `offset_s` after the frame's time stamp.
    """

    source: Literal["attributes", "file", "stream"] = "attributes"
    file: Path | None = None
    stream: str | None = None
    stream_time: str = "time"
    offset_s: float = 0.0
    exposure_s: Annotated[float, Field(ge=0)] = 0.0
    tolerance_s: Positive = 0.1
    wait_s: Positive = 5.0
    waiting_frames: Count = 2000

    @model_validator(mode="after")
    def _source_is_complete(self) -> Self:
        if self.source == "file" and self.file is None:
            raise ValueError("a source of positions that is a file needs the key file")
        if self.source == "stream":
            if (self.stream or "").startswith(CHANNEL_ACCESS):
                raise ValueError(f"a table of positions is on pvAccess only: stream cannot begin with {CHANNEL_ACCESS}")
            if self.stream is None and not {"x", "y"} <= self.model_fields_set:
                raise ValueError("a source of positions that is a stream needs the key stream, or x and y as PVs")
        return self


def _within(pv: Pv) -> Any:
    """The limits of a setpoint, for the key that says where it starts."""
    assert pv.limits is not None, "a setpoint with limits"
    return Field(ge=pv.limits.low, le=pv.limits.high)


class RecordSection(Section):
    """Where predictions are recorded, and how much room they may take; the oldest recordings make way for new ones."""

    folder: Path | None = None
    quota_gb: Positive = 50.0
    queue_frames: Count = 2000


class EdgeSection(Section):
    """Where frames come from and how they are predicted.

    threads: CPU threads of the engine, by default all cores that the process may use; parallel: batches that are
    predicted at the same time, by default as many as threads, four at most; batch_size, max_wait_ms and min_counts:
    where the setpoints start; max_map_px: the longest side of a stitched map, which takes 12 bytes a pixel while it is
    made. `scan_pv` tells where a scan begins for detectors whose frames carry no scan id: a text (the id), or a number
    that is 0 while no scan runs, such as the file plugin's Capture_RBV; `expected_pv` says how many frames it will
    have. Empty turns either off. Both, and the stream of positions where it is two PVs, may begin with `ca://`.
    """

    stream: str | None = None
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"] = "auto"
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    providers: tuple[Literal["cpu", "cuda", "tensorrt"], ...] = ()
    max_difference_rad: Positive = 0.02
    threads: Count | None = None
    parallel: Count | None = None
    consumers: Annotated[int, Field(ge=0, le=64)] = 0
    batch_size: Annotated[int, _within(edge_pvs.BATCH_SIZE)] = edge_pvs.BATCH_SIZE.initial
    max_wait_ms: Annotated[float, _within(edge_pvs.MAX_WAIT)] = edge_pvs.MAX_WAIT.initial
    min_counts: Annotated[float, _within(edge_pvs.MIN_COUNTS)] = edge_pvs.MIN_COUNTS.initial
    queue_frames: Count = 4000
    scan_id_attribute: str = "ScanId"
    scan_pv: str | None = None
    expected_pv: str | None = None
    energy_attribute: str = "Energy"
    energy_unit_ev: Positive = 1.0
    distance_attribute: str = "DetectorDistance"
    distance_unit_m: Positive = 1.0
    geometry_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    positions: PositionSection = PositionSection()
    record: RecordSection = RecordSection()
    stitch_weight: Literal["probe", "flat", "center"] = "probe"
    align_offsets: bool = False
    max_map_px: Annotated[int, Field(ge=1024, le=16384)] = 4096
    stitch_period_s: Positive = 0.5
    input_period_s: Positive = 0.1
    fetch_timeout_s: Positive = 15.0
    model_timeout_s: Positive = 120.0


class AutoSection(Section):
    """Which scans submit themselves while Scan:Auto is on, and when their files are complete.

    trigger_pv: says by `when` that a scan has ended: it falls to 0 (the file plugin's Capture_RBV, an sscan's data
    state AWAIT), rises from 0, or changes (a text that a plan writes). file_pv: the file's name, a text or characters;
    where it is the trigger itself, the text is the name. quiet_pvs: must be 0 before a file can be complete. All three
    are by default those of the detector's file plugin, and may begin with `ca://`. replace_prefix: what the names begin
    with on the detector's computer, and what that is here. patterns: files that are looked for at start, below
    workflow.scans, if they came while this IOC was down. wait_s: after that, a file that is not complete is given up,
    with an alarm. min_frames: a scan of fewer is not submitted.
    """

    on: bool = False
    trigger_pv: str | None = None
    when: Literal["falls", "rises", "changes"] = "falls"
    file_pv: str | None = None
    quiet_pvs: tuple[str, ...] | None = None
    replace_prefix: tuple[str, str] = ("", "")
    patterns: tuple[str, ...] = ("*.h5", "*.hdf5", "*.cxi", "*.nxs")
    wait_s: Positive = 300.0
    min_frames: Count = 10


class ScanFilesSection(Section):
    """How scan files are read that phaseline did not write: those of areaDetector's HDF5 plugin.

    data, attributes: the dataset of frames and the group of NDAttributes. numbered: how further files of the same scan
    are called, `{stem}` being the first one's name without suffix and `*` their number. position_file: where a scan's
    position file lies, from the scan file's folder on, `{stem}` again; Scan:PositionFile goes before it. positions:
    what holds x and y there or among the attributes; by default as in edge.positions. max_missing: where
    Scan:MaxMissing starts. Energy and distance are read from the attributes that the edge section names.
    """

    data: Annotated[str, Field(pattern="^/.*[^/]$")] = "/entry/data/data"
    attributes: Annotated[str, Field(pattern="^/.*[^/]$")] = "/entry/instrument/NDAttributes"
    numbered: Annotated[str, Field(pattern=r"^$|^[^*/]*\*[^*/]*$")] = ""
    position_file: str = ""
    positions: AxesSection | None = None
    max_missing: Annotated[int, _within(workflow_pvs.MAX_MISSING)] = workflow_pvs.MAX_MISSING.initial


class RetentionSection(Section):
    """How much room what is computed may take below the root, in GB, and how long it stays, in days.

    Copies of scans, training pairs, and the checkpoints of rounds (the registry has its own) are removed beyond that,
    the oldest first, never those of open runs; what the beamline keeps, results and registry, is never touched.
    Recordings have their quota in edge.record.
    """

    copies_gb: Positive | None = 500.0
    copies_days: Positive | None = None
    pairs_gb: Positive | None = 500.0
    pairs_days: Positive | None = None
    checkpoints_gb: Positive | None = 100.0
    checkpoints_days: Positive | None = None


class ReconstructSection(Section):
    """Phase retrieval: where the setpoints start, and what has no PV.

    num_gpus: GPUs that share one scan, with tike. half_scans: reconstruct two halves of each scan as well, to know
    how well it is resolved; takes as long again. Reconstructions beyond max_fourier_error or below
    min_ring_correlation are not trained on; 0 for no limit.
    """

    engine: Literal["ptychi", "tike"] = "ptychi"
    num_epochs: Count = 30
    num_modes: Count = 1
    batch_size: Count = 50
    defocus_m: float | None = -150e-6
    preview_every: Count = 5
    num_gpus: Count = 1
    seed: int = 0
    half_scans: bool = True
    max_fourier_error: Annotated[float, _within(workflow_pvs.MAX_FOURIER_ERROR)] = 0.0
    min_ring_correlation: Annotated[float, _within(workflow_pvs.MIN_RING_CORRELATION)] = 0.0


class PairsSection(Section):
    """Training pairs: which pixels the network learns, and where the phase counts as known.

    pixel_size_m: of the phase; by default the reconstruction's, which follows from the geometry. min_illumination,
    min_probe: shares below which a pixel is masked: of the light that all frames brought, of the probe's amplitude.
    """

    pixel_size_m: Positive | None = None
    min_illumination: Annotated[float, Field(ge=0, lt=1)] = 0.01
    min_probe: Annotated[float, Field(ge=0, lt=1)] = 0.02


class TrainSection(Section):
    """Training, by default as in the paper (arXiv 2304.04297), and the gate.

    training_set: all frames of all scans, those of the last `last_scans`, or `reservoir_frames` drawn from all scans;
    where the setpoints start. batch_size is that of each GPU; processes: that share a round, 0 for one on each GPU.
    half_cycle_epochs: by default 6 of 50. min_counts: frames with fewer counts are left out. augment_overlap: turn and
    mirror pairs by the symmetries under which the probe is itself to at least this share; 0 for none. A round ends
    early when patience_epochs bring nothing better, or max_seconds are spent; 0 for neither. judged_frames: held-out
    frames that every epoch is judged by; all of them are in the end. shown_frames: those of Train:Image.
    target_rad, target_scans: training goes to standby when the live model's loss on so many new scans in a row is that
    or less, 0 for never; trust_factor: how much the live figure of trust must rise to wake it; where the setpoints
    start.
    gate_margin: how much better than the incumbent a candidate must be, 0.05 for five per cent; gate_scan_margin: how
    much worse it may be on any single scan, unless empty.
    """

    num_epochs: Count = 50
    batch_size: Count = 64
    learning_rate_min: Positive = 1e-4
    learning_rate_max: Positive = 5e-4
    half_cycle_epochs: Positive | None = None
    plain_loss: bool = False
    training_set: Literal["all", "last", "reservoir"] = "all"
    last_scans: Annotated[int, _within(workflow_pvs.LAST_SCANS)] = workflow_pvs.LAST_SCANS.initial
    reservoir_frames: Annotated[int, _within(workflow_pvs.RESERVOIR)] = workflow_pvs.RESERVOIR.initial
    min_counts: Annotated[float, Field(ge=0)] = 0.0
    augment_overlap: Annotated[float, Field(ge=0, le=1)] = 0.0
    patience_epochs: Annotated[int, Field(ge=0)] = 0
    max_seconds: Annotated[float, Field(ge=0)] = 0.0
    judged_frames: Count = 2048
    shown_frames: Annotated[int, Field(ge=0, le=16)] = 4
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    processes: Annotated[int, Field(ge=0, le=64)] = 0
    seed: int = 0
    target_rad: Annotated[float, _within(workflow_pvs.TARGET)] = 0.0
    target_scans: Annotated[int, _within(workflow_pvs.TARGET_SCANS)] = workflow_pvs.TARGET_SCANS.initial
    trust_factor: Annotated[float, _within(workflow_pvs.TRUST_FACTOR)] = workflow_pvs.TRUST_FACTOR.initial
    gate_margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gate_scan_margin: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _rates_rise(self) -> Self:
        if self.learning_rate_min >= self.learning_rate_max:
            raise ValueError("learning_rate_min is not below learning_rate_max")
        return self

    def settings(self) -> dict[str, Any]:
        """What a round is told, but for what has a PV: TrainSettings' fields."""
        return self.model_dump(
            exclude={
                *("training_set", "last_scans", "reservoir_frames", "num_epochs", "gate_margin", "gate_scan_margin"),
                *("target_rad", "target_scans", "trust_factor"),
            }
        )


class WorkflowSection(Section):
    """Where scans come from, and the limits of the work done off the beamline's path.

    roots: folders besides `root` that Exp:Root may name, or folders below them. The numbers `at_once` are where the
    setpoints start; reconstructions by default as many as workers.
    """

    scans: Path | None = None
    roots: tuple[Path, ...] = ()
    runs_at_once: Annotated[int, _within(workflow_pvs.MAX_RUNS)] = workflow_pvs.MAX_RUNS.initial
    transfers_at_once: Annotated[int, _within(workflow_pvs.MAX_TRANSFERS)] = workflow_pvs.MAX_TRANSFERS.initial
    reconstructions_at_once: Annotated[int, _within(workflow_pvs.MAX_RECONSTRUCTIONS)] | None = None
    reconstruct_workers: Count = 1
    threads_per_worker: Count | None = None
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    job_timeout_s: Positive = 86_400.0
    edge_timeout_s: Positive = 60.0


class Network(Section):
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


class Config(Section):
    """Everything that an installation of phaseline decides."""

    prefix: Prefix = "PTY:"
    root: Path = Path("phaseline-data")
    experiment: Experiment = Experiment()
    network: Network = Network()
    geometry: GeometryBlock = GeometryBlock()
    detector: DetectorSection = DetectorSection()
    edge: EdgeSection = EdgeSection()
    reconstruct: ReconstructSection = ReconstructSection()
    pairs: PairsSection = PairsSection()
    train: TrainSection = TrainSection()
    workflow: WorkflowSection = WorkflowSection()
    auto: AutoSection = AutoSection()
    scan_files: ScanFilesSection = ScanFilesSection()
    retention: RetentionSection = RetentionSection()
    bridge: BridgeSection = BridgeSection()

    @property
    def scans(self) -> Path:
        """The folder below which scan files lie that may be submitted."""
        return (self.workflow.scans or self.root / "scans").resolve()

    @property
    def stream(self) -> str:
        """The PV that the edge reads frames from."""
        return self.edge.stream or f"{self.prefix}{self.detector.pva}Image"

    @property
    def scan_pv(self) -> str:
        """The PV that tells where a scan begins; empty for none."""
        return self.file_plugin("Capture_RBV") if self.edge.scan_pv is None else self.edge.scan_pv

    @property
    def expected_pv(self) -> str:
        """The PV that tells how many frames a scan will have; empty for none."""
        return self.file_plugin("NumCapture_RBV") if self.edge.expected_pv is None else self.edge.expected_pv

    def file_plugin(self, name: str) -> str:
        """A PV of the detector's file plugin."""
        return f"{self.prefix}{self.detector.file}{name}"

    @property
    def auto_pvs(self) -> tuple[str, str, tuple[str, ...]]:
        """What Scan:Auto follows: the trigger, the file's name, and what must be 0 before a file can be complete."""
        auto = self.auto
        quiet = tuple(self.file_plugin(name) for name in ("Capture_RBV", "WriteFile_RBV", "WriteStatus"))
        return (
            auto.trigger_pv or self.file_plugin("Capture_RBV"),
            auto.file_pv or self.file_plugin("FullFileName_RBV"),
            quiet if auto.quiet_pvs is None else auto.quiet_pvs,
        )

    @property
    def recordings(self) -> Path:
        """The folder of the edge's recordings."""
        return (self.edge.record.folder or self.root / "edge" / "recordings").resolve()

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
