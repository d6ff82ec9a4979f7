"""PVs of the simulated or replayed detector: areaDetector's names and types below its plugins' prefixes."""

from pvdb.declare import Area, gather
from pvdb.model import LARGEST_INTEGER, AlarmLimits, Kind, Severity

CAM_PREFIX, FILE_PREFIX, PVA_PREFIX, SOURCE_PREFIX = "Det:cam1:", "Det:HDF1:", "Det:Pva1:", "Det:Sim:"
LAST_ID = LAST_FILE_NUMBER = LARGEST_INTEGER
"""What an integer of 32 bits holds; an NTNDArray's uniqueId is one."""
_DATA_TYPES = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")

_cam = Area(CAM_PREFIX, message="StatusMessage_RBV")
ACQUIRE = _cam.action("Acquire", "Acquire NumImages frames", busy="Acquire")
ACQUIRE_TIME = _cam.number(
    "AcquireTime", "Exposure time of a frame", unit="s", precision=6, initial=0.01, limits=(0, 3600), setpoint=True
)
ACQUIRE_PERIOD = _cam.number(
    "AcquirePeriod",
    "Time from frame to frame",
    unit="s",
    precision=6,
    initial=0.016,
    limits=(0.0001, 3600),
    setpoint=True,
)
NUM_IMAGES = _cam.integer("NumImages", "Frames of one acquisition", initial=600, limits=(1, 1_000_000), setpoint=True)
IMAGE_MODE = _cam.state(
    "ImageMode", "How many frames an acquisition takes", ("Single", "Multiple", "Continuous"), initial=1, setpoint=True
)
ARRAY_CALLBACKS = _cam.state(
    "ArrayCallbacks", "Hand frames to the plugins", ("Disable", "Enable"), initial=1, setpoint=True
)
ARRAY_COUNTER = _cam.integer("ArrayCounter", "Id of the last frame", limits=(0, LAST_ID), setpoint=True)
NUM_IMAGES_COUNTER = _cam.integer("NumImagesCounter_RBV", "Frames taken in this acquisition")
DETECTOR_STATE = _cam.state(
    "DetectorState_RBV",
    "State of the detector",
    {
        "Idle": Severity.NO_ALARM,
        "Acquire": Severity.NO_ALARM,
        "Readout": Severity.NO_ALARM,
        "Correct": Severity.NO_ALARM,
        "Saving": Severity.NO_ALARM,
        "Aborting": Severity.NO_ALARM,
        "Error": Severity.MAJOR,
        "Waiting": Severity.NO_ALARM,
        "Initializing": Severity.NO_ALARM,
        "Disconnected": Severity.INVALID,
        "Aborted": Severity.MINOR,
    },
)
STATUS_MESSAGE = _cam.text("StatusMessage_RBV", "What the detector says", kind=Kind.CHARACTERS)
ARRAY_RATE = _cam.number("ArrayRate_RBV", "Frames a second", unit="Hz", precision=1)
TIME_REMAINING = _cam.number("TimeRemaining_RBV", "Time left of the acquisition", unit="s", precision=1)
MAX_SIZE_X = _cam.integer("MaxSizeX_RBV", "Columns of the sensor", unit="px")
MAX_SIZE_Y = _cam.integer("MaxSizeY_RBV", "Rows of the sensor", unit="px")
ARRAY_SIZE_X = _cam.integer("ArraySizeX_RBV", "Columns of a frame", unit="px")
ARRAY_SIZE_Y = _cam.integer("ArraySizeY_RBV", "Rows of a frame", unit="px")
DATA_TYPE = _cam.state("DataType_RBV", "Type of a pixel", _DATA_TYPES, initial=3)
MANUFACTURER = _cam.text("Manufacturer_RBV", "Maker of the detector", kind=Kind.STRING, initial="phaseline")
MODEL = _cam.text("Model_RBV", "Kind of detector", kind=Kind.STRING)

_file = Area(FILE_PREFIX, message="WriteMessage")
CAPTURE = _file.action("Capture", "Write the frames of the acquisition", busy="Capture")
FILE_PATH = _file.text("FilePath", "Folder of scan files", setpoint=True, kind=Kind.CHARACTERS)
FILE_NAME = _file.text("FileName", "Stem of scan files", setpoint=True, initial="scan", kind=Kind.CHARACTERS)
FILE_TEMPLATE = _file.text(
    "FileTemplate", "printf format: path, name, number", setpoint=True, initial="%s%s_%4.4d.h5", kind=Kind.CHARACTERS
)
FILE_NUMBER = _file.integer(
    "FileNumber", "Number of the next file", initial=1, limits=(0, LAST_FILE_NUMBER), setpoint=True
)
AUTO_INCREMENT = _file.state("AutoIncrement", "Count FileNumber up by itself", ("No", "Yes"), initial=1, setpoint=True)
FILE_PATH_EXISTS = _file.state(
    "FilePathExists_RBV", "Whether the folder is there", {"No": Severity.MINOR, "Yes": Severity.NO_ALARM}
)
FULL_FILE_NAME = _file.text(
    "FullFileName_RBV", "File being written or written last", max_length=1024, kind=Kind.CHARACTERS
)
NUM_CAPTURE = _file.integer("NumCapture", "Frames to write, 0 is all", limits=(0, 1_000_000), setpoint=True)
NUM_CAPTURED = _file.integer("NumCaptured_RBV", "Frames written")
WRITE_FILE = _file.state("WriteFile_RBV", "Whether a file is open", ("Done", "Write"))
WRITE_STATUS = _file.state(
    "WriteStatus", "Whether the last write went well", {"Write OK": Severity.NO_ALARM, "Write error": Severity.MAJOR}
)
WRITE_MESSAGE = _file.text("WriteMessage", "Why the last write failed", kind=Kind.CHARACTERS)
FILE_DROPPED = _file.integer("DroppedArrays_RBV", "Frames that could not be written", alarms=AlarmLimits(hihi=1))

_pva = Area(PVA_PREFIX)
IMAGE = _pva.image("Image", "Every frame as it is taken", unit="counts")
PVA_ENABLE = _pva.state("EnableCallbacks", "Stream the frames", ("Disable", "Enable"), initial=1, setpoint=True)
PV_NAME = _pva.text("PvName_RBV", "Name of the stream", kind=Kind.CHARACTERS)

_source = Area(SOURCE_PREFIX, message="Message")
SOURCE = _source.state("Source", "Where frames come from", ("Simulated", "Replay"), setpoint=True)
SCAN_ID = _source.text("ScanId", "Id for the next scan, empty makes one", max_length=80, setpoint=True)
SCAN_ID_USED = _source.text("ScanIdUsed", "Id of the running or last scan", max_length=80)
SAMPLE = _source.integer("Sample", "Seed of the simulated sample", limits=(0, LARGEST_INTEGER), setpoint=True)
REGION_X = _source.number("RegionX", "Centre of the scan on the sample", unit="um", setpoint=True, limits=(-1000, 1000))
REGION_Y = _source.number("RegionY", "Centre of the scan on the sample", unit="um", setpoint=True, limits=(-1000, 1000))
STEP = _source.number(
    "Step", "Mean distance of scan positions", unit="nm", precision=1, initial=100.0, limits=(1, 100_000), setpoint=True
)
PHOTONS = _source.number(
    "Photons", "Photons in a frame", unit="counts", precision=0, initial=1e6, limits=(1, 1e12), setpoint=True
)
REPLAY_FILE = _source.text("ReplayFile", "Scan file to replay", max_length=1024, setpoint=True)
REPLAY_PART = _source.state(
    "ReplayPart", "Which positions to replay", ("Whole", "Left half", "Right half"), setpoint=True
)
MESSAGE = _source.text("Message", "Last event or error", max_length=512)

PVS = gather(_cam, _file, _pva, _source)
