"""PVs of the edge IOC: frames in, phase out."""

from pvdb.declare import Area, gather
from pvdb.model import AlarmLimits, Kind, Pv, Severity

_edge = Area("Edge:", message="Message")

PHASE = _edge.image("Phase", "Predicted phase of every frame", unit="rad")
STITCHED = _edge.image("Stitched", "Stitched phase map of the scan", unit="rad")
MAP = _edge.rpc("Map", "Live map of a scan, by its id")
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
RESTARTS = _edge.integer("StreamRestarts", "Stream process died, was started anew", alarms=AlarmLimits(hihi=1))
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
ENGINE_DIFFERENCE = _edge.number("EngineDifference", "Its mean absolute error against float32", unit="rad", precision=5)
CONSUMERS = _edge.integer("Consumers", "Consumer processes; 0: one does all")
RATE = _edge.number("Rate", "Predictions published a second", unit="fps", precision=1)
LATENCY_MEDIAN = _edge.number("LatencyMedian", "Frame time stamp to publication, median", unit="ms")
LATENCY_99 = _edge.number("Latency99", "Same, 99th percentile", unit="ms")
LATENCY_FROM = _edge.state("LatencyFrom", "What latency counts from", ("Frame time stamp", "Arrival"))
SCAN_ID = _edge.text("ScanId", "Scan that the frames belong to now", kind=Kind.LONG_STRING, max_length=80)
SCAN_STATE = _edge.state(
    "ScanState",
    "How that scan goes",
    {
        "Waiting": Severity.NO_ALARM,
        "Running": Severity.NO_ALARM,
        "Complete": Severity.NO_ALARM,
        "Aborted": Severity.MINOR,
    },
)


_LOST, _UNPLACED = AlarmLimits(hihi=1), AlarmLimits(high=1)


def _counter(name: str, description: str, *, alarms: AlarmLimits = AlarmLimits()) -> tuple[Pv, Pv]:
    """A count since the last reset, and the same of the present scan, by whose limits both are in alarm."""
    total = _edge.integer(f"Frames{name}", description)
    return total, _edge.integer(f"Scan{name}", f"This scan: {description[0].lower()}{description[1:]}", alarms=alarms)


FRAMES_IN, SCAN_IN = _counter("In", "Frames received")
FRAMES_OUT, SCAN_OUT = _counter("Out", "Predictions published")
FRAMES_MISSED, SCAN_MISSED = _counter("Missed", "Gaps in ids, never arrived", alarms=_LOST)
FRAMES_DROPPED, SCAN_DROPPED = _counter("Dropped", "Not held by our queue", alarms=_LOST)
FRAMES_REJECTED, SCAN_REJECTED = _counter("Rejected", "Could not be predicted", alarms=_LOST)
FRAMES_NO_MODEL, SCAN_NO_MODEL = _counter("NoModel", "Came without a model")
FRAMES_EMPTY, SCAN_EMPTY = _counter("Empty", "Below MinCounts, unpredicted")
FRAMES_UNPLACED, SCAN_UNPLACED = _counter("Unplaced", "Out, but not on the map", alarms=_UNPLACED)
FRAMES_MISMATCHED, SCAN_MISMATCHED = _counter("Mismatched", "Out, but INVALID geometry", alarms=_LOST)
FRAMES_WAITING = _edge.integer("FramesWaiting", "Predictions that wait for their position")
REJECTED_BECAUSE = _edge.text("RejectedBecause", "Why the last rejected frame was")
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
    initial=1.0,
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
RECORD = _edge.state("Record", "Write predictions and map to files", ("Off", "On"), setpoint=True)
RECORD_STATE = _edge.state(
    "RecordState",
    "What the recorder does",
    {
        "Off": Severity.NO_ALARM,
        "Recording": Severity.NO_ALARM,
        "Waiting for disk": Severity.MAJOR,
        "Stopped": Severity.MAJOR,
        "Waiting for scan": Severity.NO_ALARM,
    },
)
RECORD_FILE = _edge.text("RecordFile", "File of this recording")
RECORD_FRAMES = _edge.integer("RecordFrames", "Predictions in it")
RECORD_DROPPED = _edge.integer("RecordDropped", "Not recorded: disk full or slow", alarms=AlarmLimits(hihi=1))
RECORD_USED = _edge.number("RecordUsed", "Room that all recordings take", unit="GB")
ENABLE = _edge.state("Enable", "Predict and publish", ("Off", "On"), initial=1, setpoint=True)
RESET = _edge.action("Reset", "Begin a new map and count from zero")
MESSAGE = _edge.text("Message", "Last event or error", max_length=512)

PVS = gather(_edge)
