"""From the end of a scan to the announcement of the model that it made, by a real workflow IOC."""

import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError, Child
from benchmarks.report import Figure, under
from hpc_bridge.journal import Journal
from hpc_bridge.ports import Json
from iocs.config import Network
from iocs.edge_models import Announcement
from phasing.geometry import Geometry
from pvdb import workflow as pvs

PREFIX, TRIGGER = "BENCH:", "BENCH:ScanFile"
SCANS, FRAMES = 4, 100
GEOMETRY = Geometry(10_400.0, 1.55, 110e-6, (64, 64), 64)
PATIENCE_S = 300.0
COPIES, JOBS = ("Transfer", "Return"), ("Reconstruct", "Train")


@dataclass(frozen=True)
class Timed:
    """One scan: when it ended, when the model that it made was announced, Unix seconds, and the work between."""

    ended_s: float
    announced_s: float
    work_s: float

    @property
    def overhead_s(self) -> float:
        """The time in which nothing was copied, reconstructed or trained."""
        return self.announced_s - self.ended_s - self.work_s


def measure(folder: Path, network: Network, *, scans: int = SCANS, frames: int = FRAMES) -> list[Figure]:
    """`announce_overhead_s` of scans that end one after the other; the first ends as soon as the IOC serves."""
    from benchmarks.scans import Trigger, write_scan  # after the environment is set: pvapy reads it on import
    from iocs.client import Client

    (folder / "data" / "scans").mkdir(parents=True)
    config = folder / "phaseline.toml"
    config.write_text(_toml(folder, network))
    ends: dict[str, tuple[float, float]] = {}
    with (
        closing(Trigger(TRIGGER)) as trigger,
        Child(["-m", "iocs.cli", "ioc", "workflow", "--config", str(config), "--attached"], folder / "ioc.log",
              ready="serving"),
        closing(Client(PREFIX)) as client,
    ):  # fmt: skip
        client.watch(pvs.ANNOUNCED, pvs.AUTO_STATE)
        client.wait(lambda: client.value(pvs.AUTO_STATE) == "Watching", "scans are watched", PATIENCE_S)
        for number in range(scans):
            path = write_scan(
                folder / "data" / "scans" / f"scan-{number}.h5", GEOMETRY, frames,
                step_m=100e-9, seed=number, x_m=number * 3e-6,
            )  # fmt: skip
            before = client.value(pvs.ANNOUNCED)
            ended_s = time.time()
            trigger.post(str(path))
            client.wait(lambda before=before: client.value(pvs.ANNOUNCED) != before, "a model", PATIENCE_S)
            ends[path.stem] = ended_s, Announcement.parse(str(client.value(pvs.ANNOUNCED))).serial / 1000
    return [_figure(_timed(folder / "data" / "journal" / "flows.sqlite", ends))]


def _figure(timed: list[Timed]) -> Figure:
    first, *later = [each.overhead_s for each in timed]
    if not later:
        raise BenchmarkError("one scan is not enough: the first waits for the workers to start")
    detail = {"first_s": first, "later_s": later, "work_s": [each.work_s for each in timed]}
    spread = (min(later), max(later))
    note = f"{first:.2g} s for a scan that ends when the IOC has just started"
    return Figure("announce_overhead_s", statistics.median(later), "s", under(3.0), spread, note, detail)


def _timed(journal_path: Path, ends: Mapping[str, tuple[float, float]]) -> list[Timed]:
    """Join each scan with what its run and the round after it say of their work."""
    with closing(Journal(journal_path)) as journal:
        rows = list(reversed(journal.rows(1000)))
        documents = {row.run_id: journal.document(row.run_id) or {} for row in rows}
    runs = {row.label: row.run_id for row in rows if row.kind == "run"}
    rounds = [row.run_id for row in rows if row.kind == "round"]
    if len(rounds) != len(ends):
        raise BenchmarkError(f"{len(rounds)} rounds for {len(ends)} scans")
    return [
        Timed(*times, _work_s(documents[runs[scan]]) + _work_s(documents[made]))
        for (scan, times), made in zip(ends.items(), rounds, strict=True)
    ]


def _work_s(document: Json) -> float:
    """How long a run or round copied, reconstructed or trained, by the workers' own clocks."""
    copied = [document[state]["details"] for state in COPIES if state in document]
    copied_s = sum(details["bytes_total"] / max(details["rate_bytes_per_s"], 1.0) for details in copied)
    jobs = [document[state]["details"]["results"][0]["output"] for state in JOBS if state in document]
    return float(copied_s + sum(output["seconds"] for output in jobs))


def _toml(folder: Path, network: Network) -> str:
    ports = "\n".join(f"{name} = {getattr(network, name)}" for name in ("ca_port", "pva_port", "pva_broadcast_port"))
    return f"""
prefix = "{PREFIX}"
root = "{folder / "data"}"
[network]
{ports}
[auto]
on = true
trigger_pv = "{TRIGGER}"
file_pv = "{TRIGGER}"
when = "changes"
quiet_pvs = []
[reconstruct]
num_epochs = 20
[train]
num_epochs = 5
"""
