"""Whether the edge grows: memory of its stream process over many frames with a network that costs nothing."""

from pathlib import Path

import numpy as np

from benchmarks.drive import Rig
from benchmarks.edge_ioc import PHASE, EdgeIoc, rss_bytes
from benchmarks.engine import Setup
from benchmarks.frames import Material
from benchmarks.report import Figure, under
from iocs.config import Network

AIM_PERCENT = 2.0
FRAMES, SETTLED_FRAMES = 200_000, 10_000
PASS_THROUGH = 3
_CHUNK, _AHEAD = 500, 1500
_SAMPLES = 40
_LAST = 5
"""The growth is judged by the median of that many samples at the end: a map that is being made comes and goes."""


def measure(
    material: Material, folder: Path, network: Network, *, frames: int = FRAMES, settled: int = SETTLED_FRAMES
) -> list[Figure]:
    """Frames as fast as the edge takes them; memory after `settled` of them, and then a few dozen times."""
    setup = Setup("onnxruntime", "float32", threads=1, parallel=1, batch_size=32)
    with (
        EdgeIoc(folder / "edge", network, material, version=PASS_THROUGH, setup=setup) as ioc,
        Rig(folder, material) as rig,
    ):
        rig.view(arguments=[PHASE])
        rig.connect()
        ioc.reset()
        pid = ioc.stream_pid
        sizes = [_mebibytes(_feed(rig, settled, pid))]
        for _ in range(_SAMPLES):
            sizes.append(_mebibytes(_feed(rig, (frames - settled) // _SAMPLES, pid)))
        counts = ioc.counts(settled + _SAMPLES * ((frames - settled) // _SAMPLES))
    growth = [100 * (size / sizes[0] - 1) for size in sizes[-_LAST:]]
    detail = {"rss_mib": sizes, "frames": counts.received, "published": counts.published, "edge_counts": counts.lost}
    value = float(np.median(growth))
    return [Figure("memory_growth_percent", value, "%", under(AIM_PERCENT), (min(growth), max(growth)), detail=detail)]


def _feed(rig: Rig, count: int, pid: int) -> int:
    """Send frames, never more ahead of the viewer than queues hold; the process's memory after the last came out."""
    last = 0
    rig.clear()
    for begun in range(0, count, _CHUNK):
        last = rig.feed(min(_CHUNK, count - begun))
        if begun >= _AHEAD:
            rig.wait_seen(last - _AHEAD)
    rig.wait_seen(last)
    return rss_bytes(pid)


def _mebibytes(size: int) -> float:
    return round(size / 2**20, 2)
