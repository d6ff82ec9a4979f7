"""One leg of the campaign: the IOCs over one bridge, scans that submit themselves, and who is killed how often."""

import json
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness import Process, alive, start_ioc, write_config

from benchmarks.processes import command_line, descendants
from benchmarks.scans import Trigger, write_scan
from phasing.geometry import Geometry

FRAMES, SIDE_PX = 24, 32
PAUSE_S = (0.3, 2.0)
FIND_S = 20.0
"""How long a victim of a kind is looked for before another kind has its turn."""
ENDPOINTS = {name: str(uuid.UUID(int=n)) for n, name in enumerate(("beamline", "cluster", "polaris"), 21)}
GEOMETRY = Geometry(10_400.0, 1.55, 220e-6, (SIDE_PX, SIDE_PX), SIDE_PX)
SETTINGS = """
[geometry]
pixel_size_m = 220e-6
detector_shape_px = [32, 32]
crop_px = 32
[reconstruct]
num_epochs = 2
batch_size = 12
[train]
num_epochs = 1
batch_size = 8
[workflow]
nice = 0
threads_per_worker = 1
[auto]
on = true
trigger_pv = "{trigger}"
file_pv = "{trigger}"
when = "changes"
quiet_pvs = []
"""


@dataclass(frozen=True)
class Plan:
    """How many scans a leg has, over which bridge, and how often each kind of process is killed."""

    bridge: str
    scans: int
    kills: dict[str, int]


class Leg:
    """The processes of one leg; every one of them may be killed and is started again."""

    def __init__(self, folder: Path, plan: Plan, seed: int) -> None:
        self.folder, self.plan = folder, plan
        self._random = random.Random(seed)
        self.prefix = f"C{os.getpid()}{plan.bridge}:"
        self.scans = folder / "data" / "scans"
        self.scans.mkdir(parents=True)
        trigger = f"{self.prefix}Ended"
        self._trigger = Trigger(trigger)
        self._emulator: Process | None = None
        bridge = {
            "local": "",
            "parsl": '[bridge]\nadapter = "parsl"\n[bridge.parsl]\nheartbeat_s = 1.0\nstall_s = 10.0\n',
        }
        text = bridge[plan.bridge] if plan.bridge in bridge else self._globus()
        self.config = write_config(folder, self.prefix, SETTINGS.format(trigger=trigger) + text)
        self.workflow = start_ioc("workflow", self.config)
        self.edge = start_ioc("edge", self.config)
        self.killed: list[str] = []

    def run(self) -> None:
        """Write the scans, one after the other, while processes are killed."""
        writer = threading.Thread(target=self._write_scans, daemon=True)
        writer.start()
        kinds = [kind for kind, number in self.plan.kills.items() for _ in range(number)]
        self._random.shuffle(kinds)
        for kind in kinds:
            time.sleep(self._random.uniform(*PAUSE_S))
            self._kill(kind)
        writer.join()

    def stop(self) -> None:
        """Stop what is left, in order."""
        for process in (self.edge, self.workflow, self._emulator):
            if process is not None:
                process.stop()
        self._trigger.close()

    # victims

    def _kill(self, kind: str) -> None:
        kills: dict[str, Callable[[], bool]] = {
            "workflow": self._kill_workflow,
            "edge": self._kill_edge,
            "emulator": self._kill_emulator,
            "worker": lambda: self._kill_one(self._workers),
            "manager": lambda: self._kill_one(self._managers),
        }
        if kills[kind]():
            self.killed.append(kind)
            print(f"  {self.plan.bridge}: killed {kind} ({len(self.killed)})", flush=True)

    def _kill_workflow(self) -> bool:
        self.workflow.kill()
        self.workflow = start_ioc("workflow", self.config)
        return True

    def _kill_edge(self) -> bool:
        self.edge.kill()
        self.edge = start_ioc("edge", self.config)
        return True

    def _kill_emulator(self) -> bool:
        assert self._emulator is not None
        self._emulator.kill()
        self._emulator = self._start_emulator()
        return True

    def _kill_one(self, find: Callable[[], list[int]]) -> bool:
        deadline_s = time.monotonic() + FIND_S
        while time.monotonic() < deadline_s:
            if found := find():
                with suppress(ProcessLookupError):
                    os.kill(self._random.choice(found), 9)
                    return True
            time.sleep(0.05)
        return False

    def _workers(self) -> list[int]:
        owner = self._emulator if self._emulator is not None else self.workflow
        below = descendants(owner.process.pid) + [child for pid in self._managers() for child in descendants(pid)]
        words = (b"spawn_main", b"parsl: HTEX worker")
        return [pid for pid in below if any(word in command_line(pid) for word in words) and alive(pid)]

    def _managers(self) -> list[int]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
        own = str(self.folder).encode()
        guards = [pid for pid in pids if b"parsl_guard" in (line := command_line(pid)) and own in line]
        return [
            child for pid in guards for child in descendants(pid) if b"process_worker_pool.py" in command_line(child)
        ]

    # scans

    def _write_scans(self) -> None:
        for number in range(self.plan.scans):
            path = self.scans / f"{self.plan.bridge}-{number:02d}.h5"
            write_scan(path, GEOMETRY, FRAMES, seed=number, x_m=number * 2e-6)
            self._trigger.post(str(path))
            time.sleep(self._random.uniform(0.1, 0.6))

    # Globus

    def _globus(self) -> str:
        (self.folder / "cluster").mkdir()
        secret = self.folder / "secret"
        secret.write_text("secret")
        secret.chmod(0o400)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._emulator = self._start_emulator()
        url = self._emulator.lines[0]
        for service in ("AUTH", "TRANSFER", "FLOWS", "COMPUTE"):
            os.environ[f"GLOBUS_SDK_SERVICE_URL_{service}"] = url
        beamline, cluster, polaris = ENDPOINTS.values()
        return f"""
[bridge]
adapter = "globus"
[bridge.globus]
client_id = "{uuid.uuid4()}"
secret_file = "{secret}"
beamline_collection = "{beamline}"
compute_collection = "{cluster}"
compute_root = "{self.folder / "cluster"}"
reconstruct_endpoint = "{polaris}"
train_endpoint = "{polaris}"
progress = "none"
poll_s = 0.1
"""

    def _start_emulator(self) -> Process:
        beamline, cluster, polaris = ENDPOINTS.values()
        options = {
            "state": str(self.folder / "emulator"),
            "port": self._port,
            "collections": {beamline: str(self.folder / "data"), cluster: str(self.folder / "cluster")},
            "endpoints": {polaris: 2},
            "secret": "secret",
        }
        command = [sys.executable, "-m", "globus_emulator", json.dumps(options)]
        process = Process(command, self.folder / "emulator.log")
        process.wait_line(lambda line: line.startswith("http"))
        return process
