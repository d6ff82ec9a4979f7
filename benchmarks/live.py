"""At 200 frames/s, with what an operator gets who configures nothing: latency, and what a change of the model costs.

On a machine that cannot predict so many, or only just, at half of what it sustains; the figures say so.
"""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.drive import TAIL_FRAMES, Rig
from benchmarks.edge_ioc import PHASE, EdgeIoc
from benchmarks.frames import PREFIX, Material
from benchmarks.processes import BenchmarkError, Child
from benchmarks.report import Figure, at_most, under
from iocs.config import Network
from pvdb import edge

RATE_HZ = 200.0
_ROOM = 1.25
"""What the machine must sustain for the rate to be one that it can live at: a model is built beside."""
MEDIAN_AIM_MS, HIGH_AIM_MS, GAP_AIM = 8.0, 25.0, 3.0
_LEAD_S, _TAIL_S = 1.0, 1.0
SWAP_LIMIT_S = 60.0
_HEARD_NS = 300_000_000
"""How much later than it heard of a model the edge's PV may say so to us."""


@dataclass(frozen=True)
class Swap:
    """One change of the model under way: frames lost, and longest gaps in s.

    gap_s: between two predictions at the viewer, from when the edge heard of the model until half a second after it was
    live. gap_before_s: the same before that. sent_gap_s: between two posts of the publisher during the swap.
    """

    lost: int
    gap_s: float
    gap_before_s: float
    sent_gap_s: float
    seconds: float


def chosen_hz(sustained_hz: float) -> float:
    """The rate to measure at on a machine that sustains so many frames/s."""
    return RATE_HZ if sustained_hz >= _ROOM * RATE_HZ else max(10.0, sustained_hz // 20 * 10.0)


def measure(
    material: Material,
    folder: Path,
    network: Network,
    *,
    rate_hz: float = RATE_HZ,
    seconds: float = 8.0,
    swaps: int = 3,
    quiet_s: float = 2.0,
) -> list[Figure]:
    """Latency first, then models 2, 1, 2 ... one after another while frames come; `quiet_s` of frames before each."""
    arguments = ["-m", "benchmarks.model_server", PREFIX, str(material.folder)]
    # Before the edge: a client that did not find a server looks for it less and less often.
    with ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        models = stack.enter_context(Child(arguments, folder / "models.log"))
        ioc = stack.enter_context(EdgeIoc(folder / "edge", network, material))
        rig = stack.enter_context(Rig(folder, material))
        rig.view(arguments=[PHASE])
        rig.connect()
        latency = _latency(ioc, rig, rate_hz, seconds)
        made = [_swap(ioc, rig, models, 2 - k % 2, rate_hz, quiet_s) for k in range(swaps)]
    note = "" if rate_hz == RATE_HZ else f"at {rate_hz:g} frames/s, for this machine does not sustain {RATE_HZ:g}"
    return [replace(figure, note=note) for figure in latency + _swap_figures(made, rate_hz)]


def _latency(ioc: EdgeIoc, rig: Rig, rate_hz: float, seconds: float) -> list[Figure]:
    """Frame time stamp to publication by the edge's account, and to arrival by the viewer's."""
    ioc.reset()
    lead = int(_LEAD_S * rate_hz)
    run = rig.run(rate_hz, lead + int(seconds * rate_hz) + TAIL_FRAMES, lead=lead)
    counts = ioc.counts(len(run.sent_ns))
    seen_ms = run.latency_s * 1e3
    if not len(seen_ms):
        raise BenchmarkError(f"no frame came through at {rate_hz:g} frames/s")
    viewer_median_ms, viewer_99_ms = (float(value) for value in np.percentile(seen_ms, (50, 99)))
    source = ioc.get(edge.LATENCY_FROM)
    lost = {
        "lost": run.lost,
        "edge_counts": counts.lost,
        "latency_from": source,
        "publisher_lateness_s": run.lateness_s,
    }
    median_ms, high_ms = float(ioc.get(edge.LATENCY_MEDIAN)), float(ioc.get(edge.LATENCY_99))
    return [
        Figure(
            "latency_median_ms", median_ms, "ms", under(MEDIAN_AIM_MS), detail={"viewer_ms": viewer_median_ms, **lost}
        ),
        Figure("latency_p99_ms", high_ms, "ms", under(HIGH_AIM_MS), detail={"viewer_ms": viewer_99_ms}),
    ]


def _swap(ioc: EdgeIoc, rig: Rig, models: Child, version: int, rate_hz: float, quiet_s: float) -> Swap:
    ioc.reset()
    most = int((quiet_s + SWAP_LIMIT_S + _TAIL_S) * rate_hz)
    first = rig.begin(rate_hz, most)
    time.sleep(quiet_s)  # how long undisturbed frames are looked at, not a wait for something to happen
    announced_ns = models.ask(version=version)["announced_ns"]
    ioc.wait_model(version, SWAP_LIMIT_S, begun=True)
    begun_ns = max(announced_ns, time.time_ns() - _HEARD_NS)
    ioc.wait_model(version, SWAP_LIMIT_S)
    live_ns = time.time_ns()
    time.sleep(_TAIL_S)
    rig.stop()
    run = rig.finish(first)
    counts = ioc.counts(len(run.sent_ns))
    arrived_ns = run.counted[:, 1]
    end_ns = live_ns + int(_TAIL_S / 2 * 1e9)
    return Swap(
        lost=max(run.lost, sum(counts.lost.values())),
        gap_s=_longest_gap_s(arrived_ns, begun_ns, end_ns),
        gap_before_s=_longest_gap_s(arrived_ns, begun_ns - int(quiet_s / 2 * 1e9), begun_ns),
        sent_gap_s=_longest_gap_s(run.sent_ns, begun_ns, end_ns),
        seconds=(live_ns - begun_ns) / 1e9,
    )


def _longest_gap_s(times_ns: npt.NDArray[np.int64], begin_ns: int, end_ns: int) -> float:
    """The longest time between two events of which the later lies in a window."""
    gaps_ns = np.diff(times_ns)[(times_ns[1:] >= begin_ns) & (times_ns[1:] <= end_ns)]
    return float(gaps_ns.max() / 1e9) if len(gaps_ns) else (end_ns - begin_ns) / 1e9


def _swap_figures(swaps: list[Swap], rate_hz: float) -> list[Figure]:
    """Losses of all swaps, and the longest gap of the worst."""
    lost = [swap.lost for swap in swaps]
    periods = [swap.gap_s * rate_hz for swap in swaps]
    detail = {"swaps": [asdict(swap) for swap in swaps]}
    return [
        Figure("swap_lost", float(sum(lost)), "frames", at_most(0), (min(lost), max(lost))),
        Figure(
            "swap_gap_periods", max(periods), "periods", at_most(GAP_AIM), (min(periods), max(periods)), detail=detail
        ),
    ]
