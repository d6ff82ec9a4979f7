"""The whole edge: every frame received, prepared, predicted, published, stitched and accounted for, without loss."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.drive import Rig, Run, Trial, highest_rate, sustained
from benchmarks.edge_ioc import PHASE, EdgeIoc
from benchmarks.engine import Bench, Setup
from benchmarks.frames import STREAM, Material
from benchmarks.report import Figure, at_least
from iocs.config import Network
from pvdb import edge

AIM = 0.80
MAX_WAIT_MS = 20.0
QUEUE_LIMIT_PERCENT = 5.0
BARE_S = 1.0


@dataclass(frozen=True)
class Measured:
    """What the whole edge sustains, and the bare engine before, between and after its trials (frames/s)."""

    rate_hz: float
    bare_hz: list[float]
    batch_size: int
    trials: list[dict[str, Any]]
    batches: dict[int, float]

    @property
    def bare_median_hz(self) -> float:
        """The bare engine as it was about the time of the edge's trials."""
        return statistics.median(self.bare_hz)


def run(
    material: Material,
    folder: Path,
    network: Network,
    bare: Bench,
    *,
    batches: tuple[int, ...] = (8, 16, 32),
    seconds: float = 5.0,
    trials: int = 7,
    burst: int = 2000,
) -> Measured:
    """The highest rate that the edge sustains with the bare engine's configuration and the best of `batches`."""
    bare_hz: list[float] = []

    def tried_at(rate_hz: float) -> Trial:
        bare_hz.append(bare.frames_per_s(BARE_S))
        return probe(ioc, rig, rate_hz, seconds)

    with EdgeIoc(folder / "edge", network, material, setup=bare.setup) as ioc, Rig(folder, material) as rig:
        rig.view(arguments=[PHASE])
        rig.connect()
        ioc.client.put(edge.MAX_WAIT, MAX_WAIT_MS)
        found = {size: _burst_hz(ioc, rig, size, burst) for size in batches}
        batch_size = max(found, key=lambda size: found[size])
        ioc.client.put(edge.BATCH_SIZE, batch_size)
        best_hz, tried = highest_rate(tried_at, found[batch_size], trials=trials)
        bare_hz.append(bare.frames_per_s(BARE_S))
    return Measured(best_hz, bare_hz, batch_size, tried, found)


def probe(ioc: EdgeIoc, rig: Rig, rate_hz: float, seconds: float) -> Trial:
    """One rate: sustained at the viewer, and by the edge's own account."""
    ioc.reset()
    return sustained(rig, rate_hz, seconds, also=lambda made: _disagrees(ioc, made))


def figures(measured: Measured, setup: Setup, beside_stream_hz: float | None) -> list[Figure]:
    """The ratio to the bare engine."""
    ratios = [measured.rate_hz / bare_hz for bare_hz in measured.bare_hz]
    beside = None if beside_stream_hz is None else measured.rate_hz / beside_stream_hz
    detail = {
        "edge_frames_per_s": measured.rate_hz,
        "bare_frames_per_s": measured.bare_hz,
        "bare_beside_stream_frames_per_s": beside_stream_hz,
        "edge_over_engine_beside_stream": beside,
        "engine": setup.name,
        "threads": setup.threads,
        "parallel": setup.parallel,
        "bare_batch_size": setup.batch_size,
        "edge_batch_size": measured.batch_size,
        "burst_frames_per_s": measured.batches,
        "trials": measured.trials,
    }
    value = measured.rate_hz / measured.bare_median_hz
    return [
        Figure("edge_fps", measured.rate_hz, "frames/s"),
        Figure("edge_over_engine", value, "", at_least(AIM), (min(ratios), max(ratios)), detail=detail),
    ]


def beside_stream(material: Material, folder: Path, bare: Bench, rate_hz: float, *, seconds: float = 4.0) -> float:
    """The bare engine (frames/s) while publisher and viewer, as beside the edge, pass frames to each other."""
    with Rig(folder, material) as rig:
        rig.view(arguments=[STREAM])
        rig.connect()
        count = int((seconds + 2.0) * rate_hz)
        first = rig.begin(rate_hz, count)
        bare_hz = bare.frames_per_s(seconds)
        rig.finish(first)
    return bare_hz


def _burst_hz(ioc: EdgeIoc, rig: Rig, batch_size: int, count: int) -> float:
    ioc.client.put(edge.BATCH_SIZE, batch_size)
    ioc.reset()
    return rig.capacity_hz(count=count)


def _disagrees(ioc: EdgeIoc, made: Run) -> str:
    """What the edge's counters say against a run that should have lost nothing."""
    sent = len(made.sent_ns)
    counts = ioc.counts(sent)
    if counts.lost:
        return "the edge counts " + ", ".join(f"{name} {number}" for name, number in counts.lost.items())
    if (counts.received, counts.published) != (sent, sent):
        return f"the edge counts {counts.received} in and {counts.published} out of {sent}"
    return f"its queue is {ioc.queue_used_percent:.0f} % full" if ioc.queue_used_percent > QUEUE_LIMIT_PERCENT else ""
