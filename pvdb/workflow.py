"""PVs of the workflow IOC: scans, runs, transfers, phase retrieval, training rounds and the models they make."""

from pvdb.declare import Area, gather
from pvdb.model import AlarmLimits, Kind, Severity

_OK, _MINOR, _MAJOR = Severity.NO_ALARM, Severity.MINOR, Severity.MAJOR
_STAGE = {"Idle": _OK, "Running": _OK, "Done": _OK, "Failed": _MAJOR}

_exp = Area("Exp:", message="Message")
PROPOSAL = _exp.text("Proposal", "Proposal that the scans belong to", kind=Kind.STRING, setpoint=True)
SAMPLE = _exp.text("Sample", "Sample of the scans", kind=Kind.STRING, setpoint=True)
ROOT = _exp.text("Root", "Folder of everything that is computed", max_length=1024, setpoint=True)
SHARE = _exp.state("Share", "Train with scans of other proposals", ("Off", "On"), setpoint=True)
LINEAGE = _exp.text("Lineage", "Lineage of the models trained now", max_length=120)
EXP_MESSAGE = _exp.text("Message", "Last event or error", max_length=512)

_scan = Area("Scan:", message="Message")
FILE = _scan.text("File", "Scan file to submit", max_length=1024, setpoint=True)
POSITION_FILE = _scan.text("PositionFile", "Position file of the next scan", max_length=1024, setpoint=True)
MAX_MISSING = _scan.integer(
    "MaxMissing", "Frames that may lack a position", initial=0, limits=(0, 1_000_000), setpoint=True
)
SUBMIT = _scan.action("Submit", "Accept the scan file and queue its run")
EXCLUDE = _scan.text("Exclude", "Scan that is never trained on again", max_length=80, setpoint=True)
INCLUDE = _scan.text("Include", "Excluded scan that may be trained on", max_length=80, setpoint=True)
EXCLUDED = _scan.text("Excluded", "Scans that are not trained on", max_length=65_536)
AUTO = _scan.state("Auto", "Submit scans by themselves when they end", ("Off", "On"), setpoint=True)
AUTO_STATE = _scan.state(
    "AutoState", "Whether the ends of scans are seen", {"Off": _OK, "Watching": _OK, "Disconnected": _MAJOR}
)
WAITING_SCANS = _scan.integer("Waiting", "Ended scans whose files are not complete")
SCAN_ID = _scan.text("Id", "Id of the scan accepted last", max_length=80)
LAST_ACCEPTED = _scan.text("LastAccepted", "Scan file accepted last", max_length=1024)
SCAN_MESSAGE = _scan.text("Message", "Last event or error", max_length=512)

_flow = Area("Flow:", message="Message")
FLOW_STATE = _flow.state(
    "State", "What the workflow does", {"Idle": _OK, "Active": _OK, "Hold": _MINOR, "Failed": _MAJOR}
)
FLOW_STEP = _flow.text("Step", "Step of the run moved last", kind=Kind.STRING)
FLOW_PROGRESS = _flow.number("Progress", "Progress of the run moved last", unit="%", precision=0, limits=(0, 100))
RUN = _flow.action("Run", "Submit the scan file, wait for the run")
SELECTED_RUN = _flow.text("Selected", "Run of Cancel and Retry; empty is all", max_length=80, setpoint=True)
CANCEL = _flow.action("Cancel", "Cancel the selected run, or all")
RETRY = _flow.action("Retry", "Run the selected, or all failed, again")
MAX_RUNS = _flow.integer("MaxRuns", "Runs at work at once", initial=16, limits=(1, 10_000), setpoint=True)
HOLD = _flow.state("Hold", "Begin no new work", ("Off", "On"), setpoint=True)
ACTIVE_RUNS = _flow.integer("Active", "Runs at work")
QUEUED_RUNS = _flow.integer("Queued", "Runs waiting")
SUCCEEDED_RUNS = _flow.integer("Succeeded", "Runs that succeeded")
FAILED_RUNS = _flow.integer("Failed", "Runs that failed")
FLOW_TABLE = _flow.table(
    "Table",
    "Runs and rounds, the newest first",
    {"run": "as", "kind": "as", "scan": "as", "state": "as", "started": "ad", "duration": "ad", "message": "as"},
)
CONSENT_URL = _flow.text("ConsentUrl", "Where to grant a consent that is missing", max_length=1024)
FLOW_MESSAGE = _flow.text("Message", "Last event or error", max_length=512)

_transfer = Area("Transfer:", message="Message")
TRANSFER_STATE = _transfer.state("State", "State of the latest transfer", _STAGE)
BYTES_DONE = _transfer.number("BytesDone", "Bytes copied", unit="B", precision=0)
BYTES_TOTAL = _transfer.number("BytesTotal", "Bytes to copy", unit="B", precision=0)
TRANSFER_RATE = _transfer.number("Rate", "Speed of the latest transfer", unit="MB/s", precision=1)
FILES_DONE = _transfer.integer("FilesDone", "Files copied")
MAX_TRANSFERS = _transfer.integer("MaxActive", "Copies of scans at once", initial=2, limits=(0, 10_000), setpoint=True)
DISK_FREE = _transfer.number(
    "DiskFree", "Free disk below the root", unit="GB", precision=1, alarms=AlarmLimits(lolo=1, low=5)
)
TRANSFER_MESSAGE = _transfer.text("Message", "Last event or error", max_length=512)

_recon = Area("Recon:", message="Message")
RECON_STATE = _recon.state("State", "State of the latest reconstruction", _STAGE)
RECON_ENGINE = _recon.state("Engine", "Phase retrieval engine", ("ptychi", "tike"), setpoint=True)
NUM_EPOCHS = _recon.integer("NumEpochs", "Epochs of a reconstruction", initial=30, limits=(1, 10_000), setpoint=True)
NUM_MODES = _recon.integer("NumModes", "Incoherent probe modes", initial=1, limits=(1, 32), setpoint=True)
RECON_BATCH = _recon.integer("Batch", "Frames in an update", initial=40, limits=(1, 100_000), setpoint=True)
FORMER_RUN = _recon.text("StartFrom", "Run that the next scan starts from", max_length=80, setpoint=True)
MAX_RECONSTRUCTIONS = _recon.integer(
    "MaxActive", "Reconstructions at once", initial=1, limits=(0, 10_000), setpoint=True
)
RECON_EPOCH = _recon.integer("Epoch", "Epochs done")
RECON_ERROR = _recon.number("Error", "Error of the latest epoch", unit="1", precision=5)
FOURIER_ERROR = _recon.number("FourierError", "Relative error of the amplitudes", unit="1", precision=4)
RING_CORRELATION = _recon.number("RingCorrelation", "Of two halves of the scan, mean", unit="1", precision=3)
RESOLUTION = _recon.number("Resolution", "Period to which the halves agree", unit="nm", precision=1)
MAX_FOURIER_ERROR = _recon.number(
    "MaxFourierError", "Worse is not trained on; 0: no limit", unit="1", precision=3, limits=(0, 10), setpoint=True
)
MIN_RING_CORRELATION = _recon.number(
    "MinRingCorrelation", "Less is not trained on; 0: no limit", unit="1", precision=3, limits=(0, 1), setpoint=True
)
KEPT_OUT = _recon.text("KeptOut", "Scans too bad to be trained on, and why", max_length=65_536)
RECON_IMAGE = _recon.image("Image", "Phase of the latest reconstruction", unit="rad")
DIFFERENCE = _recon.image("Difference", "Live map minus latest reconstruction", unit="rad")
LIVE_CORRELATION = _recon.number("LiveCorrelation", "Of live map and reconstruction", unit="1", precision=3)
RECON_MESSAGE = _recon.text("Message", "Last event or error", max_length=512)

_train = Area("Train:", message="Message")
TRAIN_STATE = _train.state(
    "State", "State of training",
    {"Idle": _OK, "Training": _OK, "Exporting": _OK, "Standby": _OK, "Failed": _MAJOR},
)  # fmt: skip
EPOCHS = _train.integer("Epochs", "Epochs of a round", initial=50, limits=(1, 10_000), setpoint=True)
TRAINING_SET = _train.state("Set", "Frames that a round trains on", ("All", "Last scans", "Reservoir"), setpoint=True)
LAST_SCANS = _train.integer("LastScans", "Scans of the set Last scans", initial=8, limits=(1, 100_000), setpoint=True)
RESERVOIR = _train.integer(
    "Reservoir", "Frames of the set Reservoir", initial=20_000, limits=(10, 100_000_000), setpoint=True
)
EPOCH = _train.integer("Epoch", "Epochs done in this round")
LOSS = _train.number("Loss", "Training loss of the latest epoch", unit="rad", precision=4)
VAL_LOSS = _train.number("ValLoss", "Loss on held-out frames", unit="rad", precision=4)
BEST_VAL_LOSS = _train.number("BestValLoss", "Lowest loss on held-out frames", unit="rad", precision=4)
LEARNING_RATE = _train.number("LearningRate", "Learning rate of the latest epoch", unit="1", precision=6)
LOSS_HISTORY = _train.waveform("LossHistory", "Training loss by epoch", unit="rad", max_length=10_000, precision=4)
VAL_LOSS_HISTORY = _train.waveform(
    "ValLossHistory", "Held-out loss by epoch", unit="rad", max_length=10_000, precision=4
)
RATE_HISTORY = _train.waveform("RateHistory", "Learning rate by epoch", unit="1", max_length=10_000, precision=6)
TRAIN_IMAGE = _train.image("Image", "Held-out labels above predictions", unit="rad")
LEFT_OUT = _train.text("LeftOut", "Scans left out of training, and why", max_length=4096)
NUM_SCANS = _train.integer("NumScans", "Scans in the training set")
NUM_SAMPLES = _train.integer("NumSamples", "Frames in the training set")
SAMPLE_RATE = _train.number("SampleRate", "Frames trained on a second", unit="1/s", precision=1)
TIME_LEFT = _train.number("TimeLeft", "Time left of the round", unit="s", precision=0)
STANDBY = _train.state("Standby", "Begin no round by itself", ("Off", "On"), setpoint=True)
STANDBY_REASON = _train.text("StandbyReason", "Why training is in standby, if it is", max_length=256)
TARGET = _train.number(
    "Target", "Loss of new scans that is enough", unit="rad", precision=4, limits=(0, 10), setpoint=True
)
TARGET_SCANS = _train.integer(
    "TargetScans", "Scans in a row that must meet Target", initial=3, limits=(1, 1000), setpoint=True
)
TRUST_FACTOR = _train.number(
    "TrustFactor", "Rise of the trust figure that wakes it", unit="1", precision=2, initial=1.5, limits=(1, 100),
    setpoint=True,
)  # fmt: skip
NEW_SCAN_LOSS = _train.number("NewScanLoss", "Live model's, on the newest scan", unit="rad", precision=4)
GOOD_SCANS = _train.integer("GoodScans", "New scans in a row that met the target")
START = _train.action("Start", "Train a round now on all pairs there are")
ABORT = _train.action("Abort", "Stop the running round")
TRAIN_MESSAGE = _train.text("Message", "Last event or error", max_length=512)

_model = Area("Model:", message="Message")
SELECT = _model.integer("Select", "Put this version live on the edge", limits=(0, 1_000_000), setpoint=True)
ACTIVE_MODEL = _model.integer("Active", "Version the edge runs, 0 is none")
CANDIDATE = _model.integer("Candidate", "Version made last, 0 is none")
CANDIDATE_VAL_LOSS = _model.number("CandidateValLoss", "Its loss on held-out frames", unit="rad", precision=4)
ACTIVE_VAL_LOSS = _model.number("ActiveValLoss", "The incumbent's, on the same frames", unit="rad", precision=4)
GATE = _model.state("Gate", "Which candidates go live", ("Better only", "Always", "Manual"), setpoint=True)
VERDICT = _model.text("Verdict", "What the gate said of the candidate")
ACCEPT = _model.action("Accept", "Put the candidate live")
ROLLBACK = _model.action("Rollback", "Put the active model's parent live")
ANNOUNCED = _model.text("Announced", "Version and digest that should be live", max_length=200)
MODEL_TABLE = _model.table(
    "Table",
    "Models, the newest first",
    {
        "version": "ai",
        "parent": "ai",
        "state": "as",
        "valLoss": "ad",
        "incumbentValLoss": "ad",
        "scans": "ai",
        "created": "ad",
    },
)
MODEL_VERSION = _model.integer("Version", "Version of Card, Export, Delete", limits=(0, 1_000_000), setpoint=True)
CARD = _model.text("Card", "Card of that version as JSON", max_length=65_536)
MODEL_FILE = _model.text("File", "File of Add and Export, in exchange/", max_length=255, setpoint=True)
ADD = _model.action("Add", "Register the file: .onnx, .pth or .zip")
EXPORT = _model.action("Export", "Write the version into the file")
DELETE = _model.action("Delete", "Mark the version; again: delete it")
SCAN_LOSSES = _model.table(
    "Scans",
    "Losses of the candidate on each scan",
    {"scan": "as", "frames": "ai", "valLoss": "ad", "incumbentValLoss": "ad", "new": "ai"},
)
FETCH = _model.rpc("Fetch", "Card and bytes of a version")
MODEL_MESSAGE = _model.text("Message", "Last event or error", max_length=512)

PVS = gather(_exp, _scan, _flow, _transfer, _recon, _train, _model)
