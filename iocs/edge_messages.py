"""What the edge's control process and its stream process tell each other; all of it frozen and small."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from iocs.config import EdgeSection
from iocs.edge_models import KeptModel
from pvdb import Severity

FrameMark = tuple[int, int]
"""Tells a frame from every other: its id, and its Unix time in nanoseconds."""


@dataclass(frozen=True)
class Counters:
    """Frames by what became of them.

    `missed` never arrived; of the published ones `unplaced` are not on the map and `mismatched` are marked invalid,
    for their geometry is not the model's.
    """

    received: int = 0
    published: int = 0
    missed: int = 0
    dropped: int = 0
    rejected: int = 0
    no_model: int = 0
    empty: int = 0
    unplaced: int = 0
    mismatched: int = 0

    @property
    def in_hand(self) -> int:
        """Frames received of which nothing else has become yet."""
        return self.received - self.published - self.dropped - self.rejected - self.no_model - self.empty


@dataclass(frozen=True)
class Mark:
    """How far a stream process came: from here the next goes on counting, so that what is lost between them shows.

    `scan_id` and `number` (the frame's id, or its sequence number) are those that ids are followed by; None before the
    first frame. `first_frame_ns` is the Unix time at which the scan began.
    """

    last_frame: FrameMark | None = None
    scan_id: str | None = None
    number: int | None = None
    first_frame_ns: int = 0
    total: Counters = Counters()
    scan: Counters = Counters()


@dataclass(frozen=True)
class StreamConfig:
    """All that the stream process needs at start: its part of the configuration, names of streams, folders.

    `former` is how far the process before this one came, if there was one and nobody has reset the counters since.
    """

    edge: EdgeSection
    source: str
    phase: str
    stitched: str
    input: str
    scan_pv: str
    expected_pv: str
    engine_cache: Path
    recordings: Path
    maps: Path
    former: Mark = Mark()


@dataclass(frozen=True)
class Settings:
    """Setpoints of the running stream; `max_wait_s` bounds how long a frame waits for its batch."""

    batch_size: int
    max_wait_s: float
    min_counts: float
    enabled: bool
    record: bool


@dataclass(frozen=True)
class LoadModel:
    """Build, try and swap in a model; `proven` if it has served here before, and needs no trial."""

    model: KeptModel
    proven: bool


@dataclass(frozen=True)
class DropModel:
    """A model on its way is not wanted any more: once built it is given back, and never serves."""

    model: KeptModel


@dataclass(frozen=True)
class Reset:
    """Begin a new map and count from zero."""


@dataclass(frozen=True)
class Stop:
    """End the stream process."""


Command = Settings | LoadModel | DropModel | Reset | Stop


class ScanState(IntEnum):
    """How the scan goes that the frames belong to, as far as anyone has said how many frames it will have."""

    WAITING = 0
    RUNNING = 1
    COMPLETE = 2
    ABORTED = 3


@dataclass(frozen=True)
class RecordState:
    """How the recording of the latest scan stands.

    `recording` until its file is whole, or it was given up; `file` is the name that the file will have; `frames`
    (written) and `dropped` (not recorded, for whatever reason) count its predictions; `used_bytes` is what all
    recordings take; `waiting_for_disk` says why nothing is written, empty when nothing is amiss; `stopped` while the
    scan goes on but its recording was given up.
    """

    recording: bool = False
    file: str = ""
    frames: int = 0
    dropped: int = 0
    used_bytes: int = 0
    waiting_for_disk: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class Status:
    """State of the stream, a few times a second; `mark` has the counters, since the last reset and of the scan."""

    mark: Mark
    scan_id: str
    scan_state: ScanState
    rate_hz: float
    latency_median_s: float
    latency_99_s: float
    latency_from_arrival: bool
    queue_used: float
    waiting: int
    consistency_rad: float | None
    consistency_ratio: float | None
    rejected_because: str
    recording: RecordState
    streaming: bool


@dataclass(frozen=True)
class Swapped:
    """A model went live between two frames.

    `difference_rad` to float32 where the engine computes with less; `remark` says why no faster engine does.
    """

    model: KeptModel
    engine: str
    difference_rad: float | None
    remark: str = ""


@dataclass(frozen=True)
class ModelRefused:
    """A model was not taken; the former one serves on."""

    model: KeptModel
    reason: str


@dataclass(frozen=True)
class ModelDropped:
    """A model that was not wanted any more was given back; the former one serves on."""

    model: KeptModel


@dataclass(frozen=True)
class Failed:
    """The stream process ends, and why."""

    reason: str


@dataclass(frozen=True)
class WasReset:
    """The counters stand at zero and the map is new."""


@dataclass(frozen=True)
class Note:
    """Something the operator should read."""

    text: str
    severity: Severity


Event = Status | Swapped | ModelRefused | ModelDropped | WasReset | Note | Failed
