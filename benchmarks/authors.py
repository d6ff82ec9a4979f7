"""The authors' arrangement beside ours: pvapy-hpc-consumer with a distributor, loss counted at the viewer by ids."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
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


@dataclass(frozen=True)
class Ours:
    """The whole edge's sustained rate, the bare engine's about it, and a call that measures the bare engine again."""

    rate_hz: float
    bare_hz: float
    bare: Callable[[], float]


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
    material: Material,
    folder: Path,
    ours: Ours,
    *,
    guess_hz: float,
    seconds: float = 4.0,
    trials: int = 4,
    tried: dict[int, list[Arrangement]] | None = None,
) -> list[Figure]:
    """The best sustained rate of 1, 2 and 4 consumers, and the whole edge over it.

    guess_hz: a rate near what an engine can do; the tuning sends half as much again.
    """
    rates, details, bare_hz = {}, {}, []
    for consumers, choices in (tried or arrangements()).items():
        bare_hz.append(ours.bare())
        bursts = _tuned(material, folder, choices, 1.5 * guess_hz, seconds / 2)
        best = max(bursts, key=lambda choice: bursts[choice])
        with running(material, folder, best) as rig:
            guess = bursts[best] or guess_hz
            rates[consumers], made = highest_rate(lambda hz: sustained(rig, hz, seconds), guess, trials=trials)
        details[consumers] = {
            "chosen": asdict(best),
            "burst_frames_per_s": [{**asdict(choice), "frames_per_s": hz} for choice, hz in bursts.items()],
            "frames_per_s": rates[consumers],
            "trials": made,
        }
    bare_hz.append(ours.bare())
    return _figures(ours, max(rates.values()), bare_hz, details)


def _tuned(
    material: Material, folder: Path, choices: list[Arrangement], rate_hz: float, seconds: float
) -> dict[Arrangement, float]:
    """Frames a second that come out of each under too many; 0 for the only choice, which needs no tuning."""
    if len(choices) == 1:
        return {choices[0]: 0.0}
    found = {}
    for choice in choices:
        with running(material, folder, choice) as rig:
            found[choice] = rig.capacity_hz(count=int(rate_hz * seconds), rate_hz=rate_hz)
    return found


def _figures(ours: Ours, best_hz: float, bare_hz: list[float], consumers: dict[int, Any]) -> list[Figure]:
    note = "" if best_hz else "their arrangement sustained no rate that was tried"
    detail = {
        "edge_frames_per_s": ours.rate_hz,
        "authors_frames_per_s": best_hz,
        "bare_frames_per_s_about_the_edge": ours.bare_hz,
        "bare_frames_per_s_about_the_authors": bare_hz,
        "consumers": consumers,
    }
    if not best_hz:
        return [Figure(key, None, "", note=note, detail=detail) for key in ("authors_fps", "edge_over_authors")]
    value = ours.rate_hz / best_hz
    # The machine may have become faster or slower in between: the bare engine, measured about both, tells.
    scaled = value * median(bare_hz) / ours.bare_hz
    return [
        Figure("authors_fps", best_hz, "frames/s"),
        Figure("edge_over_authors", value, "", at_least(AIM), (min(value, scaled), max(value, scaled)), detail=detail),
    ]


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
