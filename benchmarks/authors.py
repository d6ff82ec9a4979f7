"""The authors' arrangement beside ours: pvapy-hpc-consumer with a distributor, loss counted at the viewer by ids."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.drive import Rig, highest_rate, sustained
from benchmarks.engine import cores
from benchmarks.frames import STREAM, Material
from benchmarks.processes import Child
from benchmarks.report import Figure, at_least

AIM = 1.5
_LONGEST_S = 600.0
_SERVER_QUEUE = 100
_UPDATES = 8
_CONNECT_FRAMES = 128


@dataclass(frozen=True)
class Arrangement:
    """How many consumers, and how each runs ONNX Runtime."""

    consumers: int
    threads: int
    spin: bool


def arrangements() -> dict[int, list[Arrangement]]:
    """What is tried for 1, 2 and 4 consumers: their share of the cores, or all of them, with and without spinning."""
    found: dict[int, list[Arrangement]] = {}
    for consumers in (1, 2, 4):
        share = max(1, cores() // consumers)
        tried = [Arrangement(consumers, share, spin=True)]
        if share > 1:
            tried.append(Arrangement(consumers, share, spin=False))
        elif consumers <= cores() < 2 * consumers:
            tried.append(Arrangement(consumers, cores(), spin=False))
        found[consumers] = tried
    return found


@contextmanager
def running(material: Material, folder: Path, arrangement: Arrangement) -> Iterator[Rig]:
    """Consumers between a publisher and a viewer of all their outputs, for the length of a block."""
    with Rig(folder, material) as rig, _consumers(material, folder, arrangement):
        rig.view(arguments=[f"BENCH:Authors:{k}" for k in range(1, arrangement.consumers + 1)])
        rig.connect(num=_CONNECT_FRAMES)
        yield rig


def measure(
    material: Material, folder: Path, edge_hz: float, *, guess_hz: float, seconds: float = 5.0, trials: int = 5,
    tried: dict[int, list[Arrangement]] | None = None,
) -> list[Figure]:  # fmt: skip
    """The best sustained rate of 1, 2 and 4 consumers, and the whole edge over it.

    guess_hz: a rate near what an engine can do; the tuning sends half as much again.
    """
    rates, details = {}, {}
    for consumers, choices in (tried or arrangements()).items():
        bursts = [_burst_hz(material, folder, choice, 1.5 * guess_hz, seconds / 2) for choice in choices]
        burst_hz, best = max(zip(bursts, choices, strict=True), key=lambda pair: pair[0])
        with running(material, folder, best) as rig:
            rates[consumers], made = highest_rate(lambda hz: sustained(rig, hz, seconds), burst_hz, trials=trials)
        details[consumers] = {
            "chosen": asdict(best),
            "burst_frames_per_s": [{**asdict(c), "frames_per_s": hz} for c, hz in zip(choices, bursts, strict=True)],
            "frames_per_s": rates[consumers],
            "trials": made,
        }
    best_hz = max(rates.values())
    value = edge_hz / best_hz if best_hz else None
    note = "" if best_hz else "their arrangement sustained no rate that was tried"
    detail = {"edge_frames_per_s": edge_hz, "authors_frames_per_s": best_hz, "consumers": details}
    return [
        Figure("authors_fps", best_hz or None, "frames/s", note=note),
        Figure("edge_over_authors", value, "", at_least(AIM), note=note, detail=detail),
    ]


def _burst_hz(material: Material, folder: Path, choice: Arrangement, rate_hz: float, seconds: float) -> float:
    with running(material, folder, choice) as rig:
        return rig.capacity_hz(count=int(rate_hz * seconds), rate_hz=rate_hz)


@contextmanager
def _consumers(material: Material, folder: Path, arrangement: Arrangement) -> Iterator[None]:
    processor: dict[str, Any] = {
        "onnx": str(material.onnx(1)),
        "counts_scale": material.read_card(1).counts_scale,
        "threads": arrangement.threads,
        "spin": arrangement.spin,
    }
    arguments = {
        "--input-channel": STREAM,
        "--output-channel": "BENCH:Authors:*",
        "--control-channel": "BENCH:Authors:*:Control",
        "--status-channel": "BENCH:Authors:*:Status",
        "--processor-file": str(Path(__file__).with_name("authors_processor.py")),
        "--processor-class": "AuthorsProcessor",
        "--processor-args": json.dumps(processor),
        "--server-queue-size": str(_SERVER_QUEUE),
        "--n-consumers": str(arrangement.consumers),
        "--distributor-updates": str(_UPDATES),
        "--runtime": str(_LONGEST_S),  # they do not notice when the one who started them is gone
    }
    command = [
        "-m",
        "pvapy.cli.hpcConsumer",
        "--disable-curses",
        *(text for pair in arguments.items() for text in pair),
    ]
    child = Child(command, folder / "authors.log", ready=None)
    try:
        yield
    finally:
        child.kill()  # they hold nothing that is worth an orderly end
