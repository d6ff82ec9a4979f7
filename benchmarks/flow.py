"""All measurements of the workflow in one run: `.venv/bin/python -m benchmarks.flow [--only KEY...]`."""

import sys
from pathlib import Path

from benchmarks import flow_announce, flow_runner
from benchmarks.program import Measurements, program
from iocs.config import Network


def measurements(folder: Path, network: Network) -> Measurements:
    """Which call gives which figures, in the order of the run."""
    return {
        ("efficiency_168",): lambda: flow_runner.efficiency(folder),
        ("step_overhead_ms",): lambda: flow_runner.step_overhead(folder),
        ("announce_overhead_s",): lambda: flow_announce.measure(folder / "announce", network),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write down a whole run; 1 when a figure could not be measured, 0 even if aims are missed."""
    return program(arguments, "flow", measurements)


if __name__ == "__main__":
    sys.exit(main())
