"""The local runner under load: many runs at once on a simulated pool, and what one step costs."""

import statistics
import time
from pathlib import Path

from benchmarks.flow_pool import Pool, durations_s, ideal_makespan_s
from benchmarks.report import Figure, at_least
from hpc_bridge.journal import RunStatus
from hpc_bridge.ports import Json
from hpc_bridge.runner import FlowRunner

RUNS, SLOTS, SEED = 168, 64, 2304
SHORTEST_S, LONGEST_S = 1.0, 5.0
REPETITIONS = 3
STEPPED_RUNS, STEPS = 50, 8
POOL_URL = "https://pool.test"
PATIENCE_S = 300.0


def efficiency(folder: Path) -> list[Figure]:
    """The makespan of an ideal schedule over the measured one, 168 runs of four states on 64 slots."""
    jobs_s = durations_s(RUNS, shortest_s=SHORTEST_S, longest_s=LONGEST_S, seed=SEED)
    ideal_s = ideal_makespan_s(jobs_s, SLOTS)
    measured_s = [makespan_s(folder / f"efficiency-{n}", jobs_s, SLOTS) for n in range(REPETITIONS)]
    found = [ideal_s / seconds for seconds in measured_s]
    detail = {"ideal_s": ideal_s, "measured_s": measured_s, "runs": RUNS, "slots": SLOTS}
    spread = (min(found), max(found))
    return [Figure("efficiency_168", statistics.median(found), "", at_least(0.95), spread, detail=detail)]


def makespan_s(folder: Path, jobs_s: list[float], slots: int) -> float:
    """Time from the first submission until the last run has ended; every run must succeed."""
    folder.mkdir(parents=True)
    pool = Pool(slots)
    try:
        with FlowRunner(folder / "runs.sqlite", {POOL_URL: pool}, limits={"Reconstruct": slots}) as runner:
            begun_s = time.monotonic()
            runs = [runner.submit(FLOW, {"seconds": seconds}, f"scan {n}") for n, seconds in enumerate(jobs_s)]
            rows = [runner.wait(run, PATIENCE_S) for run in runs]
            seconds = time.monotonic() - begun_s
            assert all(row.status is RunStatus.SUCCEEDED for row in rows)
            assert [name.partition(":")[0] for name in pool.begun] == runs, "not first in, first out"
            return seconds
    finally:
        pool.stop()


def step_overhead(folder: Path) -> list[Figure]:
    """What the engine adds to a step: actions that end at once, several runs side by side, the journal on the disk."""
    found = [step_ms(folder / f"steps-{n}") for n in range(REPETITIONS)]
    detail = {"runs": STEPPED_RUNS, "steps": STEPS}
    spread = (min(found), max(found))
    return [Figure("step_overhead_ms", statistics.median(found), "ms", spread=spread, detail=detail)]


def step_ms(folder: Path) -> float:
    folder.mkdir(parents=True)
    names = [f"S{n}" for n in range(STEPS)]
    states = {name: _action(name, 0.0, following) for name, following in zip(names, [*names[1:], None], strict=True)}
    pool = Pool(1)
    try:
        with FlowRunner(folder / "runs.sqlite", {POOL_URL: pool}) as runner:
            runner.hold(True)
            runs = [runner.submit({"StartAt": names[0], "States": states}, {}, "scan") for _ in range(STEPPED_RUNS)]
            begun_s = time.monotonic()
            runner.hold(False)
            for run in runs:
                assert runner.wait(run, PATIENCE_S).status is RunStatus.SUCCEEDED
            return 1000 * (time.monotonic() - begun_s) / (STEPPED_RUNS * STEPS)
    finally:
        pool.stop()


def _action(name: str, seconds: float | None, following: str | None) -> Json:
    parameters = {"seconds.$": "$.seconds"} if seconds is None else {"seconds": seconds}
    state = {"Type": "Action", "ActionUrl": POOL_URL, "Parameters": parameters, "WaitTime": 600}
    return state | {"ResultPath": f"$.{name}"} | ({"Next": following} if following else {"End": True})


FLOW = {
    "StartAt": "Transfer",
    "States": {
        "Transfer": _action("Transfer", 0.0, "Reconstruct"),
        "Reconstruct": _action("Reconstruct", None, "Pairs"),
        "Pairs": _action("Pairs", 0.0, "Return"),
        "Return": _action("Return", 0.0, None),
    },
}
