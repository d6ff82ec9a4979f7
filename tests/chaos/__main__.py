"""`make chaos`: 50 small scans over three bridges while processes are killed; the last line is the verdict.

Options: the seed, and --short for a campaign of a minute or two. Ends with 0 only if nothing was lost or doubled, no
process is left behind, and enough was killed.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "iocs"), str(HERE.parent)]
MARKER = f"PHASELINE_CHAOS={uuid.uuid4().hex}"
DONE_S = 180.0


def main() -> int:
    options = _options()
    os.environ.update([MARKER.split("=")])
    paths = [str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    from chaos.legs import Leg, Plan
    from chaos.verdict import Verdict, judge, open_work, orphans

    if options.short:
        plans = [
            Plan("local", 3, {"workflow": 1, "worker": 1, "edge": 1}),
            Plan("parsl", 2, {"manager": 1, "worker": 1}),
            Plan("globus", 2, {"emulator": 1}),
        ]
    else:
        plans = [
            Plan("local", 18, {"workflow": 4, "worker": 5, "edge": 3}),
            Plan("parsl", 16, {"workflow": 2, "worker": 2, "manager": 5, "edge": 2}),
            Plan("globus", 16, {"workflow": 2, "worker": 1, "emulator": 5, "edge": 1}),
        ]
    begun_s, verdict, killed = time.monotonic(), Verdict(), Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="phaseline-chaos-"))
    for plan in plans:
        (folder / plan.bridge).mkdir()
        leg = Leg(folder / plan.bridge, plan, options.seed)
        try:
            leg.run()
            _wait(lambda root=leg.folder / "data": open_work(root))
            scans = sorted(path.stem for path in leg.scans.glob("*.h5"))
        finally:
            leg.stop()
        killed.update(leg.killed)
        judge(leg.folder, scans, verdict)
    _wait(lambda: " ".join(map(str, _others(orphans(MARKER)))), 30.0)
    verdict.orphans = _others(orphans(MARKER))
    for line in (*verdict.lost, *verdict.doubled, *verdict.orphans):
        print(line)
    print(f"kills by kind: {dict(killed)}; {time.monotonic() - begun_s:.0f} s; seed {options.seed}")
    lost, doubled, left = len(verdict.lost), len(verdict.doubled), len(verdict.orphans)
    print(f"{killed.total()} kills, {lost} lost, {doubled} doubled, {left} orphans")
    sound = not (lost or doubled or left)
    if sound:
        shutil.rmtree(folder)
    planned = Counter(kind for plan in plans for kind, number in plan.kills.items() for _ in range(number))
    return 0 if sound and killed == planned else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--short", action="store_true")
    return parser.parse_args()


def _others(pids: list[int]) -> list[int]:
    return [pid for pid in pids if pid != os.getpid()]


def _wait(what_is_left, limit_s: float = DONE_S) -> None:  # type: ignore[no-untyped-def]
    """Wait until nothing is left, as long as less and less is left; what is left in the end is the verdict's matter."""
    deadline_s, before = time.monotonic() + limit_s, ""
    while (left := what_is_left()) and time.monotonic() < deadline_s:
        if left != before:
            deadline_s, before = time.monotonic() + limit_s, left
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
