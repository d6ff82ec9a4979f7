"""What every benchmark's command does: measure all or some figures, print them, write them down."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import ROOT, BenchmarkError, free_network, set_environment
from benchmarks.report import Figure, machine, table, write
from iocs.config import Network
from phasing.errors import PhaselineError

Measurements = dict[tuple[str, ...], Callable[[], list[Figure]]]
"""Which call gives which figures, in the order of the run."""
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def program(arguments: list[str] | None, name: str, measurements: Callable[[Path, Network], Measurements]) -> int:
    """Run `python -m benchmarks.NAME`; `measurements` gets a folder for the run, and EPICS ports of its own.

    Returns 1 when a figure could not be measured, 0 even if aims are missed.
    """
    parser = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=f"Measure the {name}.")
    parser.add_argument("--only", nargs="+", metavar="KEY", help="these figures alone; printed, not written down")
    parser.add_argument("--keep", type=Path, help="folder for logs and files of the run, which are removed otherwise")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends all blocks, and with them all children
    network = free_network()
    set_environment(network)
    about = machine()
    began_s = time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="phaseline-bench-"))
    try:
        figures, complete = run(measurements(folder, network), options.only)
    except KeyboardInterrupt:
        print("interrupted; nothing is written", file=sys.stderr)
        return 130
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(figures))
    if options.only is None:
        results = ROOT / "benchmarks" / "results" / f"{name}.json"
        seconds = time.monotonic() - began_s
        write(figures, about, command=f"make bench-{name}", results=results, document=DOCUMENT, seconds=seconds)
        print(f"written: {results} and {DOCUMENT}")
    return 0 if complete else 1


def run(measurements: Measurements, only: list[str] | None) -> tuple[list[Figure], bool]:
    """The figures, and whether all could be measured."""
    figures, complete = [], True
    for keys, measure in measurements.items():
        if only is not None and not set(only) & set(keys):
            continue
        began_s = time.monotonic()
        try:
            found = measure()
        except (BenchmarkError, PhaselineError) as error:
            found = [Figure(key, None, "", note=f"not measured: {str(error).splitlines()[0]}") for key in keys]
            complete = False
            print(error, file=sys.stderr)
        for figure in found:
            value = figure.note if figure.value is None else f"{figure.value:.4g} {figure.unit}"
            print(f"{figure.key}: {value} ({time.monotonic() - began_s:.0f} s)", flush=True)
        figures += found
    return figures, complete
