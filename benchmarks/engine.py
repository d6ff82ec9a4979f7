"""Bare engines, nothing received or published: the best configuration of each precision, side by side."""

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.frames import Material, geometry
from benchmarks.report import Figure, at_least, has_bfloat16, under
from phasing.engines import Engine, EngineOptions, build_engine
from phasing.engines.protocol import AUTO, FLOAT32
from phasing.errors import MissingExtra, ModelError
from phasing.frames import prepare

FloatArray = npt.NDArray[np.float32]
RATIO_AIM, DIFFERENCE_AIM_RAD = 1.7, 0.01
BATCHES = (1, 4, 8, 16, 32)
REFERENCE = ("onnxruntime", FLOAT32)
_COMPARED_FRAMES = 32


@dataclass(frozen=True)
class Setup:
    """One way to run an engine: `threads` in all, shared by `parallel` callers."""

    name: str
    precision: str
    threads: int
    parallel: int
    batch_size: int

    def options(self) -> EngineOptions:
        """As the engines package wants it."""
        return EngineOptions(
            name=self.name,
            precision=self.precision,
            threads=self.threads,
            parallel=self.parallel,
            batch_size=self.batch_size,
        )


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def splits() -> list[tuple[int, int]]:
    """Ways to share all cores out: (threads in all, callers at the same time)."""
    callers = [2**k for k in range(cores().bit_length()) if 2**k <= cores()]
    return [(cores(), parallel) for parallel in callers]


class Bench:
    """An engine, driven by as many threads as it takes calls at the same time."""

    def __init__(self, material: Material, setup: Setup) -> None:
        """Build it; ModelError or MissingExtra when that cannot be done here."""
        with np.load(material.frames(128)) as saved:
            counts = saved["counts"][: max(BATCHES) * 4]
        self._counts = prepare(counts, geometry(128))[:, None]
        self.setup = setup
        self.engine: Engine = build_engine(
            material.onnx(1).read_bytes(), material.read_card(1), setup.options(), self._counts[:16]
        )

    def frames_per_s(self, seconds: float, batch_size: int | None = None) -> float:
        """Frames a second over about `seconds`, and one batch of each caller at least."""
        batch = np.ascontiguousarray(self._counts[: batch_size or self.setup.batch_size])
        done = [0] * self.setup.parallel
        began_s = time.perf_counter()

        def work(caller: int) -> None:
            while not done[caller] or time.perf_counter() - began_s < seconds:
                self.engine.infer(batch)
                done[caller] += len(batch)

        callers = [threading.Thread(target=work, args=(k,)) for k in range(self.setup.parallel)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return sum(done) / (time.perf_counter() - began_s)

    def phases_rad(self) -> FloatArray:
        """(N, 1, 128, 128) predictions of the first 32 frames, batch by batch."""
        counts, size = self._counts[:_COMPARED_FRAMES], self.setup.batch_size
        return np.concatenate([self.engine.infer(counts[k : k + size]) for k in range(0, len(counts), size)])

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


@contextmanager
def bench(material: Material, setup: Setup) -> Iterator[Bench]:
    """An engine for the length of a block."""
    made = Bench(material, setup)
    try:
        yield made
    finally:
        made.close()


def sweep(
    material: Material, contestants: list[tuple[str, str]], *, seconds: float, batches: tuple[int, ...], passes: int = 2
) -> list[tuple[Setup, float]]:
    """Frames a second of all configurations of engines (name, precision), the fastest first.

    What cannot be built here is left out. The best of `passes` counts, each over all configurations: on a noisy host a
    neighbour takes a core now and then, and never gives one.
    """
    found: dict[Setup, float] = {}
    with ExitStack() as stack:
        benches = []
        for name, precision in contestants:
            for threads, parallel in splits():
                setup = Setup(name, precision, threads, parallel, max(batches))
                try:
                    benches.append(stack.enter_context(bench(material, setup)))
                except (ModelError, MissingExtra):
                    continue
        for _ in range(passes):
            for made in benches:
                for batch_size in batches:
                    setup = replace(made.setup, batch_size=batch_size)
                    found[setup] = max(found.get(setup, 0.0), made.frames_per_s(seconds, batch_size))
    return sorted(found.items(), key=lambda pair: pair[1], reverse=True)


@dataclass(frozen=True)
class Finalists:
    """The best configuration of any engine, that of float32 ONNX Runtime, and what was swept (frames/s)."""

    best: Setup
    reference: Setup
    reference_hz: float
    swept: list[dict[str, Any]]


def finalists(
    material: Material, *, seconds: float = 0.3, batches: tuple[int, ...] = BATCHES, passes: int = 3, duels: int = 4
) -> Finalists:
    """Sweep threads, parallel calls and batch sizes; the winners of the two libraries then meet in turns."""
    swept = sweep(material, [("openvino", AUTO), REFERENCE], seconds=seconds, batches=batches, passes=passes)
    reference, reference_hz = next(pair for pair in swept if (pair[0].name, pair[0].precision) == REFERENCE)
    other = next((setup for setup, _ in swept if setup.name != reference.name), reference)
    ratios = [one / two for one, two in _in_turns(material, other, reference, duels, 2 * seconds)]
    return Finalists(
        best=other if statistics.median(ratios) >= 1.0 else reference,
        reference=reference,
        reference_hz=reference_hz,
        swept=[{**asdict(setup), "frames_per_s": round(rate_hz, 1)} for setup, rate_hz in swept],
    )


def _in_turns(material: Material, one: Setup, two: Setup, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Frames a second of two engines, A B A B."""
    with bench(material, one) as first, bench(material, two) as second:
        return [(first.frames_per_s(seconds), second.frames_per_s(seconds)) for _ in range(rounds)]


def measure(material: Material, chosen: Finalists, *, rounds: int = 6, seconds: float = 1.5) -> list[Figure]:
    """The finalists in turns, A B A B: their ratio, and how much they differ."""
    pairs = _in_turns(material, chosen.best, chosen.reference, rounds, seconds)
    with bench(material, chosen.best) as best, bench(material, chosen.reference) as reference:
        difference_rad = float(np.abs(best.phases_rad() - reference.phases_rad()).mean())
        engine_name = best.engine.name
    ratios = [one / other for one, other in pairs]
    detail = {
        "best": {**asdict(chosen.best), "engine": engine_name},
        "best_frames_per_s": _spread([one for one, _ in pairs]),
        "reference": asdict(chosen.reference),
        "reference_frames_per_s": _spread([other for _, other in pairs]),
        "swept": chosen.swept,
    }
    return [
        Figure(
            "engine_ratio",
            statistics.median(ratios),
            "",
            at_least(RATIO_AIM) if has_bfloat16() else None,
            (min(ratios), max(ratios)),
            note="" if has_bfloat16() else "this processor has no bfloat16",
            detail=detail,
        ),
        Figure("engine_difference_rad", difference_rad, "rad", under(DIFFERENCE_AIM_RAD)),
    ]


def _spread(values: list[float]) -> dict[str, float]:
    return {"lowest": min(values), "median": statistics.median(values), "highest": max(values)}
