"""`phaseline status`: what the IOCs show now, once."""

from rich.console import Console
from rich.table import Table

from iocs.client import Client, ClientError
from iocs.config import Config
from pvdb import Pv, detector, edge, health, workflow

_GROUPS: dict[str, tuple[Pv, ...]] = {
    "Detector": (
        health.named("Det")[health.UPTIME],
        detector.DETECTOR_STATE,
        detector.NUM_IMAGES_COUNTER,
        detector.FULL_FILE_NAME,
    ),
    "Workflow": (
        health.named("Workflow")[health.UPTIME],
        workflow.FLOW_STATE,
        workflow.ACTIVE_RUNS,
        workflow.QUEUED_RUNS,
        workflow.FAILED_RUNS,
        workflow.FLOW_MESSAGE,
        workflow.TRAIN_STATE,
        workflow.BEST_VAL_LOSS,
        workflow.VERDICT,
        workflow.DISK_FREE,
    ),
    "Edge": (
        health.named("Edge")[health.UPTIME],
        edge.STATE,
        edge.MODEL,
        edge.ENGINE,
        edge.RATE,
        edge.LATENCY_99,
        edge.FRAMES_IN,
        edge.FRAMES_OUT,
        edge.FRAMES_MISSED,
        edge.FRAMES_DROPPED,
        edge.CONSISTENCY_RATIO,
        edge.MESSAGE,
    ),
}


def print_status(config: Config) -> None:
    """Print a table of each IOC; one that does not answer is said to be disconnected."""
    client = Client(config.prefix, config.detector.renames)
    console = Console(emoji=False)  # a PV name such as PTY:Train:Loss is no emoji
    try:
        for name, pvs in _GROUPS.items():
            console.print(_table(client, name, pvs))
    finally:
        client.close()


def _table(client: Client, name: str, pvs: tuple[Pv, ...]) -> Table:
    table = Table(title=name, title_justify="left", show_header=False, min_width=60)
    try:
        for pv in pvs:
            table.add_row(client.name(pv), _text(pv, client.get(pv, timeout_s=2.0)), pv.description)
    except ClientError:
        table.add_row("disconnected", "", "")
    return table


def _text(pv: Pv, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.{pv.precision}f} {pv.unit}"
    return str(value)
