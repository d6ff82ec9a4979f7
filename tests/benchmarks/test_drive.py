import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.drive import Run, Trial, highest_rate
from benchmarks.processes import BenchmarkError, Child, descendants

PATIENCE_S = 300.0


def trial(rate_hz, limit_hz, *, narrow=False):
    why = "" if rate_hz <= limit_hz else "too fast"
    return Trial(rate_hz, rate_hz, 0, 0.0, 0.0, 0.0, 0.0, why, narrow and bool(why))


@pytest.mark.parametrize("guess_hz", [300.0, 900.0, 1000.0, 1040.0, 2500.0])
def test_the_search_ends_close_below_the_limit(guess_hz):
    best_hz, tried = highest_rate(lambda rate_hz: trial(rate_hz, 1000.0), guess_hz, trials=40)
    assert 1000.0 / 1.025 <= best_hz <= 1000.0
    assert len(tried) < 20


def test_the_search_stays_within_its_trials_and_finds_nothing_where_there_is_nothing():
    best_hz, tried = highest_rate(lambda rate_hz: trial(rate_hz, 0.0), 1000.0, trials=5)
    assert best_hz == 0.0 and len(tried) == 5


def test_a_narrow_failure_gets_a_second_chance():
    failures = iter([True])

    def probe(rate_hz):
        return trial(rate_hz, 0.0, narrow=True) if next(failures, False) else trial(rate_hz, 1000.0)

    best_hz, tried = highest_rate(probe, 1000.0, trials=40)
    assert tried[0]["why"] and best_hz >= 1000.0 / 1.025


def a_run(seen_ids, *, first, last):
    sent_ns = 1000 * np.arange(20, dtype=np.int64)
    seen = np.array([(k, 1000 * (k - 100) + 10 * (k - 100), 0) for k in seen_ids], np.int64).reshape(-1, 3)
    return Run(start=100, first=first, last=last, sent_ns=sent_ns, seen=seen, seconds=2.0, lateness_s=0.0)


def test_losses_are_counted_by_id_within_the_counted_frames_alone():
    assert a_run(range(100, 120), first=105, last=114).lost == 0
    assert a_run([k for k in range(100, 120) if k not in (101, 107, 108)], first=105, last=114).lost == 2
    assert a_run([*range(100, 120), 107, 107], first=105, last=114).lost == 0
    assert a_run([], first=105, last=114).lost == 10


def test_latency_is_from_the_post_to_the_arrival_of_the_same_frame():
    run = a_run([*range(109, 119), *range(100, 109)], first=105, last=114)
    assert run.latency_s == pytest.approx([10e-9 * (k - 100) for k in [*range(109, 115), *range(105, 109)]])
    assert a_run(range(100, 120), first=100, last=119).growth_s == pytest.approx(160e-9)


def test_a_child_takes_its_children_along(tmp_path):
    deadline_s = time.monotonic() + PATIENCE_S
    script = "import subprocess, sys; print('ready', flush=True); subprocess.run([sys.executable, '-c', 'input()'])"
    with Child(["-c", script], tmp_path / "log") as child:
        while not (grandchildren := descendants(child.process.pid)):
            assert child.process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.02)
    wait_gone([child.process.pid, *grandchildren])


def wait_gone(pids):
    """A killed process is there for a moment yet, and its children for one more."""
    deadline_s = time.monotonic() + PATIENCE_S
    while any(map(alive, pids)):
        assert time.monotonic() < deadline_s, f"one of {pids} lives on"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_that_does_not_start_says_why(tmp_path):
    with pytest.raises(BenchmarkError, match="no such thing"):
        Child(["-c", "raise SystemExit('no such thing')"], tmp_path / "log")


def test_interrupted_runs_leave_no_process_behind(tmp_path, limited):
    script = """
import signal, sys
from pathlib import Path
from benchmarks.processes import Child
signal.signal(signal.SIGTERM, signal.default_int_handler)
with Child(["-c", "print('ready', flush=True); input()"], Path(sys.argv[1])) as child:
    print(child.process.pid, flush=True)
    signal.pause()
"""
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    with limited(child) as process:
        pid = int(process.stdout.readline())
        process.terminate()
        process.wait(PATIENCE_S)
    wait_gone([pid])
