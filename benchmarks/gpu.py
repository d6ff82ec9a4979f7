"""On a CUDA GPU: bare engines at batch 1, 8 and 64, and the whole edge on the fastest of them."""

from pathlib import Path

from benchmarks import whole_edge
from benchmarks.engine import Setup, bench
from benchmarks.frames import Material
from benchmarks.report import Figure, at_least
from iocs.config import Network
from phasing.engines.protocol import AUTO
from phasing.errors import MissingExtra, ModelError

AIM_HZ = 8000.0
BATCHES = (1, 8, 64)
ENGINES = ("tensorrt", "torch", "onnxruntime")
_DEVICE = Path("/dev/nvidiactl")


def present() -> bool:
    """Whether there is a GPU to measure."""
    return _DEVICE.exists()


def measure(
    material: Material, folder: Path, network: Network, *, seconds: float = 1.5, trial_s: float = 4.0
) -> list[Figure]:
    """Frames a second; without a GPU, figures that say so."""
    if not present():
        return [Figure(key, None, "frames/s", note="no GPU") for key in ("gpu_engine_fps", "gpu_edge_fps")]
    found: dict[Setup, float] = {}
    refused: dict[str, str] = {}
    for name in ENGINES:
        for parallel in (1, 2):
            setup = Setup(name, AUTO, threads=1, parallel=parallel, batch_size=max(BATCHES))
            try:
                with bench(material, setup) as made:
                    for size in BATCHES:
                        one = Setup(name, AUTO, threads=1, parallel=parallel, batch_size=size)
                        found[one] = made.frames_per_s(seconds, size)
            except (ModelError, MissingExtra) as error:
                refused[name] = str(error)
    detail = {
        "frames_per_s": [
            {"engine": s.name, "parallel": s.parallel, "batch": s.batch_size, "frames_per_s": hz}
            for s, hz in found.items()
        ],
        "not_built": refused,
    }
    if not found:
        return [Figure("gpu_engine_fps", None, "frames/s", note="no engine could be built", detail=detail)]
    best, best_hz = max(found.items(), key=lambda pair: pair[1])
    with bench(material, best) as bare:
        measured = whole_edge.run(material, folder, network, bare, batches=(8, 32, 64), seconds=trial_s)
    edge_detail = {"engine": best.name, "parallel": best.parallel, "trials": measured.trials}
    return [
        Figure("gpu_engine_fps", best_hz, "frames/s", detail=detail),
        Figure("gpu_edge_fps", measured.rate_hz, "frames/s", at_least(AIM_HZ), detail=edge_detail),
    ]
