"""All measurements of the edge in one run: `.venv/bin/python -m benchmarks.edge [--only KEY...]`."""

import sys
from functools import cached_property
from pathlib import Path

from benchmarks import authors, engine, gpu, live, memory, receive, stitching, whole_edge
from benchmarks.frames import NUM_FRAMES, NUM_LARGE, Material
from benchmarks.processes import Child
from benchmarks.program import Measurements, program
from benchmarks.report import Figure
from iocs.config import Network


class Session:
    """One run: its files, its ports, and what later measurements need of earlier ones."""

    def __init__(self, folder: Path, network: Network) -> None:
        self._folder, self._network = folder, network

    @cached_property
    def material(self) -> Material:
        """Frames and models; made in a process of its own, for torch would stay in this one."""
        folder = self._folder / "material"
        folder.mkdir(parents=True)
        arguments = ["-m", "benchmarks.frames", str(folder), str(NUM_FRAMES), str(NUM_LARGE)]
        with Child(arguments, self._folder / "frames.log"):
            return Material(folder)

    @cached_property
    def finalists(self) -> engine.Finalists:
        """The bare engines' best configurations."""
        return engine.finalists(self.material)

    @cached_property
    def edge(self) -> tuple[whole_edge.Measured, float | None]:
        """What the whole edge sustains, and the bare engine beside the same stream."""
        with engine.bench(self.material, self.finalists.best) as bare:
            measured = whole_edge.run(self.material, self._folder / "whole", self._network, bare)
            if not measured.rate_hz:
                return measured, None
            return measured, whole_edge.beside_stream(self.material, self._folder / "beside", bare, measured.rate_hz)

    def _authors(self) -> list[Figure]:
        measured = self.edge[0]
        with engine.bench(self.material, self.finalists.best) as bare:
            ours = authors.Ours(measured.rate_hz, measured.bare_median_hz, lambda: bare.frames_per_s(whole_edge.BARE_S))
            return authors.measure(self.material, self._folder / "authors", ours, guess_hz=self.finalists.reference_hz)

    def measurements(self) -> Measurements:
        """Which call gives which figures, in the order of the run."""
        folder, network = self._folder, self._network
        return {
            ("engine_ratio", "engine_difference_rad"): lambda: engine.measure(self.material, self.finalists),
            ("edge_fps", "edge_over_engine"): lambda: whole_edge.figures(
                self.edge[0], self.finalists.best, self.edge[1]
            ),
            ("authors_fps", "edge_over_authors"): self._authors,
            ("receive_fps_128",): lambda: receive.measure(self.material, folder / "receive-128", side_px=128),
            ("receive_fps_512",): lambda: receive.measure(self.material, folder / "receive-512", side_px=512),
            ("latency_median_ms", "latency_p99_ms", "swap_lost", "swap_gap_periods"): lambda: live.measure(
                self.material, folder / "live", network, rate_hz=live.chosen_hz(self.edge[0].rate_hz)
            ),
            ("stitch_ratio", "stitch_flatness"): stitching.measure,
            ("memory_growth_percent",): lambda: memory.measure(self.material, folder / "memory", network),
            ("gpu_engine_fps", "gpu_edge_fps"): lambda: gpu.measure(self.material, folder / "gpu", network),
        }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write down a whole run; 1 when a figure could not be measured, 0 even if aims are missed."""
    return program(arguments, "edge", lambda folder, network: Session(folder, network).measurements())


if __name__ == "__main__":
    sys.exit(main())
