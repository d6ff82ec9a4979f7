"""Drives a publisher and a viewer, and says from their logs whether a rate was sustained."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from benchmarks.frames import STREAM, Material
from benchmarks.processes import BenchmarkError, Child

LATENCY_LIMIT_S = 1.0
GROWTH_LIMIT_S = 0.1
LEAD_S = 1.0
TAIL_FRAMES = 64
"""Behind the counted frames: more than may lie in unfilled batches of 8 in four consumers."""
QUIET_S, SEEN_QUIET_S = 1.0, 5.0
"""How long nothing comes until all is taken to have come that will: after a run, and where frames are waited for."""
_LOSSY_QUIET_S = 1.0
"""The same where frames may well be lost."""
_CAUTION, _STEP, _LARGEST_STEP, _RESOLUTION = 0.95, 1.05, 1.3, 1.025
_NARROW_SHARE = 0.01
_PUBLISHER_SHARE = 0.98


@dataclass(frozen=True, eq=False)
class Run:
    """Logs of one run. Ids `first` to `last` are counted.

    sent_ns (N,) by id from `start`; seen (N, 3): id, arrival, time stamp; all times in Unix nanoseconds.
    """

    start: int
    first: int
    last: int
    sent_ns: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]
    seconds: float
    lateness_s: float

    @property
    def sent_hz(self) -> float:
        """Frames a second that the publisher really sent."""
        return len(self.sent_ns) / self.seconds

    @property
    def counted(self) -> npt.NDArray[np.int64]:
        """Rows of counted frames in order of arrival, each id once."""
        rows = self.seen[(self.seen[:, 0] >= self.first) & (self.seen[:, 0] <= self.last)]
        return rows[np.sort(np.unique(rows[:, 0], return_index=True)[1])]

    @property
    def lost(self) -> int:
        """Counted frames that the viewer never saw."""
        return self.last - self.first + 1 - len(self.counted)

    @property
    def latency_s(self) -> npt.NDArray[np.float64]:
        """From the post of each counted frame to its arrival at the viewer, by order of arrival."""
        rows = self.counted
        return np.asarray((rows[:, 1] - self.sent_ns[rows[:, 0] - self.start]) / 1e9)

    @property
    def growth_s(self) -> float:
        """How much more latency the last fifth of the counted frames had than the first: a queue that fills."""
        latency_s = self.latency_s
        fifth = max(1, len(latency_s) // 5)
        return float(np.median(latency_s[-fifth:]) - np.median(latency_s[:fifth])) if len(latency_s) else 0.0


@dataclass(frozen=True)
class Trial:
    """One rate tried; `why` is empty when it was sustained, `narrow` says that it failed by little.

    Latency from post to the viewer.
    """

    rate_hz: float
    sent_hz: float
    lost: int
    latency_median_s: float
    latency_max_s: float
    growth_s: float
    lateness_s: float
    why: str
    narrow: bool


class Rig:
    """A publisher, and what is measured between it and a viewer; all children end with its block."""

    def __init__(self, folder: Path, material: Material, *, side_px: int = 128) -> None:
        """Start the publisher; `folder` receives logs."""
        self.folder, self._stack = folder, ExitStack()
        folder.mkdir(parents=True, exist_ok=True)
        frames = str(material.frames(side_px))
        self._publisher = self._child(["-m", "benchmarks.publisher", STREAM, frames], "publisher")
        self._viewer: Child | None = None
        self._next = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def view(self, *, module: str = "benchmarks.viewer", arguments: Sequence[str]) -> None:
        """Start the process at the end of the way: a viewer of the streams named, or another that answers like it."""
        self._viewer = self._child(["-m", module, *arguments], "viewer")

    def connect(self, *, num: int = TAIL_FRAMES, rate_hz: float = 200.0, attempts: int = 60) -> None:
        """Send a few frames again and again until they come through; BenchmarkError when they never do."""
        for _ in range(attempts):
            first = self._next
            run = self.run(rate_hz, 2 * num, lead=0, quiet_s=_LOSSY_QUIET_S)
            if set(range(first, first + num)) <= set(run.seen[:, 0].tolist()):
                return
        raise BenchmarkError(f"frames do not come through: the viewer saw {len(run.seen)} of {2 * num}")

    def begin(self, rate_hz: float, count: int) -> int:
        """Have `count` frames sent, and return the first id without waiting."""
        assert self._viewer is not None
        self._viewer.ask(do="clear")
        first, self._next = self._next, self._next + count
        self._publisher.tell(first=first, count=count, rate_hz=rate_hz, log=str(self._sent_log))
        return first

    def stop(self) -> None:
        """Have the publisher end what it was asked to send."""
        self._publisher.tell(stop=True)

    def finish(self, first: int, *, lead: int = 0, quiet_s: float | None = None, timeout_s: float = 300.0) -> Run:
        """Wait until all that `begin` asked for is sent and seen, or nothing comes any more."""
        assert self._viewer is not None
        sent = self._publisher.answer(timeout_s)
        sent_ns = np.load(self._sent_log)
        last = first + len(sent_ns) - 1
        self._next = last + 1
        if len(sent_ns):  # stopped before its first frame, it has none to wait for
            self._viewer.ask(timeout_s, do="wait", until=last, quiet_s=QUIET_S if quiet_s is None else quiet_s)
        self._viewer.ask(do="save", path=str(self._seen_log))
        return Run(
            start=first,
            first=first + lead,
            last=last - (TAIL_FRAMES if lead else 0),
            sent_ns=sent_ns,
            seen=np.load(self._seen_log),
            seconds=sent["seconds"],
            lateness_s=sent["lateness_s"],
        )

    def run(self, rate_hz: float, count: int, *, lead: int, quiet_s: float | None = None) -> Run:
        """Send `count` frames of which `lead` at the start, and the tail, are not counted; logs of both ends."""
        first = self.begin(rate_hz, count)
        return self.finish(first, lead=lead, quiet_s=quiet_s)

    def feed(self, count: int) -> int:
        """Send `count` frames as fast as they go; returns the last id at once when they are sent."""
        first, self._next = self._next, self._next + count
        self._publisher.ask(first=first, count=count, rate_hz=0, log=str(self._sent_log))
        return first + count - 1

    def wait_seen(self, until: int) -> None:
        """Wait for an id; BenchmarkError when nothing comes any more."""
        assert self._viewer is not None
        if self._viewer.ask(120.0, do="wait", until=until, quiet_s=SEEN_QUIET_S)["highest"] < until:
            raise BenchmarkError(f"frame {until} never came")

    def clear(self) -> None:
        """Have the viewer forget what came until now; only when nothing is under way."""
        assert self._viewer is not None
        self._viewer.ask(do="clear")

    def capacity_hz(self, *, count: int = 2000, rate_hz: float = 0.0) -> float:
        """Frames a second that come out while more lie in wait: where the search for the sustained rate begins."""
        seen = self.run(rate_hz, count, lead=0, quiet_s=_LOSSY_QUIET_S).seen
        middle = seen[len(seen) // 5 : -max(1, len(seen) // 20), 1]
        if len(middle) < 2:
            raise BenchmarkError(f"of {count} frames only {len(seen)} came through")
        return float((len(middle) - 1) / ((middle[-1] - middle[0]) / 1e9))

    def _child(self, arguments: list[str], name: str) -> Child:
        return self._stack.enter_context(Child(arguments, self.folder / f"{name}.log"))

    @property
    def _sent_log(self) -> Path:
        return self.folder / "sent.npy"

    @property
    def _seen_log(self) -> Path:
        return self.folder / "seen.npy"


def sustained(rig: Rig, rate_hz: float, seconds: float, *, also: Callable[[Run], str] | None = None) -> Trial:
    """Send at a rate for `seconds` and judge: no frame lost, latency bounded and not growing, publisher on time.

    also: gives a further reason why the rate was not sustained, or nothing.
    """
    lead = int(LEAD_S * rate_hz) + 1
    run = rig.run(rate_hz, lead + int(seconds * rate_hz) + TAIL_FRAMES, lead=lead)
    latency_s = run.latency_s if len(run.counted) else np.array([np.inf])
    reasons = {
        f"{run.lost} frames lost": run.lost > 0,
        "latency beyond the limit": latency_s.max() > LATENCY_LIMIT_S,
        "latency grows": run.growth_s > GROWTH_LIMIT_S,
        "the publisher could not send so fast": run.sent_hz < _PUBLISHER_SHARE * rate_hz,
    }
    found = [text for text, true in reasons.items() if true] + ([also(run)] if also is not None else [])
    why = "; ".join(filter(None, found))
    small_loss = run.lost <= _NARROW_SHARE * (run.last - run.first)
    return Trial(
        rate_hz=rate_hz,
        sent_hz=run.sent_hz,
        lost=run.lost,
        latency_median_s=float(np.median(latency_s)),
        latency_max_s=float(latency_s.max()),
        growth_s=run.growth_s,
        lateness_s=run.lateness_s,
        why=why,
        narrow=bool(why) and small_loss and run.growth_s < LATENCY_LIMIT_S / 2,
    )


def highest_rate(
    probe: Callable[[float], Trial], guess_hz: float, *, trials: int
) -> tuple[float, list[dict[str, Any]]]:
    """The highest rate that `probe` sustains, to 2.5 %, and all that was tried; 0 when none was sustained.

    From the guess in growing steps, up while they are sustained or down until one is, then halving the distance. A
    noisy host fails a trial by chance: one that fails by little is made again.
    """
    tried: list[Trial] = []
    good_hz, bad_hz, step = 0.0, float("inf"), _STEP
    rate_hz = guess_hz * _CAUTION
    while len(tried) < trials and bad_hz > good_hz * _RESOLUTION:
        tried.append(probe(rate_hz))
        if tried[-1].narrow and len(tried) < trials:
            tried.append(probe(rate_hz))
        if not tried[-1].why:
            good_hz = max(good_hz, rate_hz)
        else:
            bad_hz = min(bad_hz, rate_hz)
        if good_hz and bad_hz < float("inf"):
            rate_hz = (good_hz * bad_hz) ** 0.5
        else:
            rate_hz = good_hz * step if good_hz else bad_hz / step
            step = min(step**2, _LARGEST_STEP)
    best_hz = max((trial.sent_hz for trial in tried if not trial.why), default=0.0)
    return best_hz, [asdict(trial) for trial in tried]
