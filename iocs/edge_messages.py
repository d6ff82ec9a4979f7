"""What the edge's control process and its stream process tell each other; all of it frozen and small."""

from dataclasses import dataclass

from iocs.edge_models import KeptModel
from pvdb import Severity

FrameMark = tuple[int, int]
"""Tells a frame from every other: its id, and its Unix time in nanoseconds."""


@dataclass(frozen=True)
class StreamConfig:
    """All that the stream process needs at start: names of streams, how frames are read, how often maps are shown.

    `last_frame` is the one that a former process handled last: the stream sends it again to the next.
    """

    source: str
    phase: str
    stitched: str
    input: str
    queue_frames: int
    engine: str
    threads: int
    scan_id_attribute: str
    position_x_attribute: str
    position_y_attribute: str
    position_unit_m: float
    stitch_period_s: float
    input_period_s: float
    last_frame: FrameMark | None


@dataclass(frozen=True)
class Settings:
    """Setpoints of the running stream; `max_wait_s` bounds how long a frame waits for its batch."""

    batch_size: int
    max_wait_s: float
    min_counts: float
    enabled: bool


@dataclass(frozen=True)
class LoadModel:
    """Build, try and swap in a model."""

    model: KeptModel


@dataclass(frozen=True)
class Reset:
    """Begin a new map and count from zero."""


@dataclass(frozen=True)
class Stop:
    """End the stream process."""


Command = Settings | LoadModel | Reset | Stop


@dataclass(frozen=True)
class Counters:
    """Frames since the last reset, by what became of them; `missed` never arrived."""

    received: int = 0
    published: int = 0
    missed: int = 0
    dropped: int = 0
    rejected: int = 0
    no_model: int = 0
    empty: int = 0
    unplaced: int = 0


@dataclass(frozen=True)
class Status:
    """State of the stream, a few times a second."""

    counters: Counters
    scan_id: str
    rate_hz: float
    latency_median_s: float
    latency_99_s: float
    latency_from_arrival: bool
    queue_used: float
    consistency_rad: float | None
    consistency_ratio: float | None
    streaming: bool
    last_frame: FrameMark | None


@dataclass(frozen=True)
class Swapped:
    """A model went live between two frames."""

    model: KeptModel
    engine: str


@dataclass(frozen=True)
class ModelRefused:
    """A model was not taken; the former one serves on."""

    model: KeptModel
    reason: str


@dataclass(frozen=True)
class WasReset:
    """The counters stand at zero and the map is new."""


@dataclass(frozen=True)
class Note:
    """Something the operator should read."""

    text: str
    severity: Severity


Event = Status | Swapped | ModelRefused | WasReset | Note
