"""The short form of `make chaos`: one of each is killed while a few scans go their way over three bridges."""

import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parents[1] / "chaos"
PATIENCE_S = 900.0


def test_nothing_is_lost_or_doubled_and_nobody_is_left_behind() -> None:
    command = [sys.executable, str(CAMPAIGN), "--short", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout.splitlines()[-1] == "6 kills, 0 lost, 0 doubled, 0 orphans", done.stdout + done.stderr[-3000:]
    assert done.returncode == 0, done.stdout
