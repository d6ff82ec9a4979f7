"""PVs of the edge IOC: frames in, phase out."""

from pvdb.declare import Area, gather
from pvdb.model import AlarmLimits, Kind, Severity

_edge = Area("Edge:", message="Message")

PHASE = _edge.image("Phase", "Predicted phase of every frame", unit="rad")
STITCHED = _edge.image("Stitched", "Stitched phase map of the scan", unit="rad")
INPUT = _edge.image("Input", "Prepared frame, decimated for screens", unit="counts")
STATE = _edge.state(
    "State",
    "What the edge does now",
    {
        "No model": Severity.MINOR,
        "Idle": Severity.NO_ALARM,
        "Streaming": Severity.NO_ALARM,
        "Disabled": Severity.NO_ALARM,
        "Fault": Severity.MAJOR,
    },
)
MODEL = _edge.integer("Model", "Version of the model in use, 0 is none")
MODEL_STATE = _edge.state(
    "ModelState",
    "What happens to the next model",
    {
        "Idle": Severity.NO_ALARM,
        "Fetching": Severity.NO_ALARM,
        "Warming": Severity.NO_ALARM,
        "Refused": Severity.MAJOR,
    },
)
REFUSED = _edge.text("ModelRefused", "Model refused last, and why")
ENGINE = _edge.text("Engine", "Inference engine in use", kind=Kind.STRING, initial="none")
RATE = _edge.number("Rate", "Predictions published a second", unit="fps", precision=1)
LATENCY_MEDIAN = _edge.number("LatencyMedian", "Frame time stamp to publication, median", unit="ms")
LATENCY_99 = _edge.number("Latency99", "Same, 99th percentile", unit="ms")
LATENCY_FROM = _edge.state("LatencyFrom", "What latency counts from", ("Frame time stamp", "Arrival"))
SCAN_ID = _edge.text("ScanId", "Scan that the frames belong to now", kind=Kind.LONG_STRING, max_length=80)
FRAMES_IN = _edge.integer("FramesIn", "Frames received", unit="1")
FRAMES_OUT = _edge.integer("FramesOut", "Predictions published", unit="1")
FRAMES_MISSED = _edge.integer("FramesMissed", "Gaps in frame ids: never arrived", alarms=AlarmLimits(hihi=1))
FRAMES_DROPPED = _edge.integer("FramesDropped", "Frames our own queue could not hold", alarms=AlarmLimits(hihi=1))
FRAMES_REJECTED = _edge.integer("FramesRejected", "Frames that could not be predicted", alarms=AlarmLimits(hihi=1))
FRAMES_NO_MODEL = _edge.integer("FramesNoModel", "Frames that came without a model")
FRAMES_EMPTY = _edge.integer("FramesEmpty", "Frames below MinCounts: not predicted")
FRAMES_UNPLACED = _edge.integer("FramesUnplaced", "Predictions that have no position")
QUEUE_USED = _edge.number(
    "QueueUsed",
    "Share of the frame queue in use",
    unit="%",
    precision=0,
    limits=(0, 100),
    alarms=AlarmLimits(high=50, hihi=90),
)
CONSISTENCY = _edge.number("Consistency", "Spread of overlapping predictions", unit="rad")
CONSISTENCY_RATIO = _edge.number("ConsistencyRatio", "That over the spread of the map", unit="1")
BATCH_SIZE = _edge.integer("BatchSize", "Frames in a full batch", initial=8, limits=(1, 256), setpoint=True)
MAX_WAIT = _edge.number(
    "MaxWait",
    "Longest wait of a frame for its batch",
    unit="ms",
    precision=1,
    initial=5.0,
    limits=(0, 1000),
    setpoint=True,
)
MIN_COUNTS = _edge.number(
    "MinCounts",
    "Frames with fewer counts are empty",
    unit="counts",
    precision=0,
    initial=1.0,
    limits=(0, 1e12),
    setpoint=True,
)
ENABLE = _edge.state("Enable", "Predict and publish", ("Off", "On"), initial=1, setpoint=True)
RESET = _edge.action("Reset", "Begin a new map and count from zero")
MESSAGE = _edge.text("Message", "Last event or error", max_length=512)

PVS = gather(_edge)
