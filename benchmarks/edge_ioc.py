"""An edge IOC for a measurement: its configuration, its process, its PVs."""

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.engine import Setup
from benchmarks.frames import PREFIX, STREAM, Material
from benchmarks.processes import BenchmarkError, Child, descendants
from iocs.client import Client
from iocs.config import EdgeSection, Network
from iocs.edge_models import Announcement, ModelStore
from pvdb import Pv, edge, full_name

QUEUE_FRAMES = 4000
START_S = 120.0
SETTLE_S = 10.0
PHASE = full_name(PREFIX, edge.PHASE)
_LOSSES = (edge.FRAMES_MISSED, edge.FRAMES_DROPPED, edge.FRAMES_REJECTED, edge.FRAMES_NO_MODEL, edge.FRAMES_EMPTY)
_BUSY, _REFUSED = ("Fetching", "Warming"), "Refused"
_COUNTS = (edge.FRAMES_IN, edge.FRAMES_OUT, *_LOSSES)


@dataclass(frozen=True)
class Counts:
    """The edge's counters since its last reset."""

    received: int
    published: int
    lost: dict[str, int]


class EdgeIoc:
    """`phaseline ioc edge` with a model in its store; ends with its block."""

    def __init__(
        self, folder: Path, network: Network, material: Material, *, version: int = 1, setup: Setup | None = None
    ) -> None:
        """Start it and wait until its model is live.

        setup: engine, threads, parallel calls and batch size; None for what an operator gets who configures nothing.
        """
        self._stack = ExitStack()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _remember(ModelStore(folder / "data" / "edge" / "models"), material, version)
        config = folder / "phaseline.toml"
        config.write_text(_toml(folder, network, setup))
        try:
            arguments = ["-m", "iocs.cli", "ioc", "edge", "--config", str(config), "--attached"]
            self._child = self._stack.enter_context(Child(arguments, folder / "edge.log", ready="serving"))
            self.client = Client(PREFIX)
            self._stack.callback(self.client.close)
            self.client.watch(edge.MODEL, edge.MODEL_STATE, edge.QUEUE_USED, *_COUNTS)
            self.wait_model(version, START_S)
            if setup is not None:
                self.client.put(edge.BATCH_SIZE, setup.batch_size)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait_model(self, version: int, timeout_s: float, *, begun: bool = False) -> None:
        """Wait until a model is live, or only until the edge has `begun` with it; BenchmarkError when it is refused."""

        def told() -> bool:
            state = self.client.value(edge.MODEL_STATE)
            return self.client.value(edge.MODEL) == version or state == _REFUSED or (begun and state in _BUSY)

        self.client.wait(told, f"model {version} is live", timeout_s)
        if self.client.value(edge.MODEL) != version and self.client.value(edge.MODEL_STATE) == _REFUSED:
            raise BenchmarkError(f"the edge refused model {version}: {self.client.get(edge.REFUSED)}")

    def reset(self) -> None:
        """Count from zero and begin a new map."""
        self.client.put(edge.RESET, 1)
        self.client.wait(lambda: self.client.value(edge.FRAMES_IN) == 0, "the counters are at zero", SETTLE_S)

    def counts(self, sent: int) -> Counts:
        """The counters, once `sent` frames are accounted for or nothing changes any more."""
        deadline_s = time.monotonic() + SETTLE_S
        while self._accounted() < sent and time.monotonic() < deadline_s:
            time.sleep(0.05)  # the PVs follow a few times a second
        lost = {pv.name: int(self.client.value(pv)) for pv in _LOSSES}
        return Counts(
            received=int(self.client.value(edge.FRAMES_IN)),
            published=int(self.client.value(edge.FRAMES_OUT)),
            lost={name: number for name, number in lost.items() if number},
        )

    def get(self, pv: Pv) -> Any:
        """A PV's value now."""
        return self.client.get(pv)

    @property
    def queue_used_percent(self) -> float:
        """How full the edge's queue is, as last told."""
        return float(self.client.value(edge.QUEUE_USED))

    @property
    def stream_pid(self) -> int:
        """The process that receives, predicts and publishes: the largest child of the IOC."""
        children = {pid: rss_bytes(pid) for pid in descendants(self._child.process.pid)}
        if not children:
            raise BenchmarkError("the edge has no stream process")
        return max(children, key=lambda pid: children[pid])

    def _accounted(self) -> int:
        return int(self.client.value(edge.FRAMES_OUT)) + sum(int(self.client.value(pv)) for pv in _LOSSES)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def _remember(store: ModelStore, material: Material, version: int) -> None:
    announcement = Announcement(version, material.read_card(version).digest, 1)
    store.put(announcement, material.card(version).read_text(), material.onnx(version).read_bytes())
    store.remember(announcement)


def _toml(folder: Path, network: Network, setup: Setup | None) -> str:
    section: dict[str, Any] = {"stream": STREAM, "queue_frames": QUEUE_FRAMES}
    if setup is not None:
        wanted = {
            "engine": setup.name,
            "precision": setup.precision,
            "threads": setup.threads,
            "parallel": setup.parallel,
        }
        section |= {name: value for name, value in wanted.items() if name in EdgeSection.model_fields}
    lines = [f'prefix = "{PREFIX}"', f'root = "{folder / "data"}"', "[network]"]
    ports = {
        "ca_port": network.ca_port,
        "pva_port": network.pva_port,
        "pva_broadcast_port": network.pva_broadcast_port,
    }
    lines += [f"{name} = {value}" for name, value in ports.items()] + ["[edge]"]
    lines += [
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}" for name, value in section.items()
    ]
    return "\n".join(lines) + "\n"
