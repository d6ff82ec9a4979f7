"""Receive and prepare alone: how many frames a second one process can take in without loss.

As a process: arguments are a stream's name and the side of its frames in pixels; commands and answers are the viewer's.
"""

import sys
import threading
import time
from pathlib import Path

from benchmarks.drive import Rig, highest_rate, sustained
from benchmarks.frames import STREAM, Material, geometry
from benchmarks.report import Figure, at_least

AIMS = {128: 4000.0, 512: 500.0}
QUEUE_FRAMES = 4000


def take(name: str, side_px: int) -> None:
    """Receive, decode and prepare every frame with the edge's own parts until standard input ends."""
    from benchmarks.viewer import Log, obey
    from iocs.stream import StreamReader, decode
    from phasing.frames import prepare

    log, geometry_ = Log(), geometry(side_px)
    reader = StreamReader(name, queue_size=QUEUE_FRAMES)

    def work() -> None:
        while True:
            update = reader.next(1.0)
            frame = None if update is None else decode(update)
            if frame is None or frame.array.shape != geometry_.detector_shape_px:
                continue
            prepare(frame.array[None], geometry_)
            log.add((frame.unique_id, time.time_ns(), frame.time_ns))

    threading.Thread(target=work, daemon=True).start()
    obey(log)


def measure(material: Material, folder: Path, *, side_px: int, seconds: float = 4.0, trials: int = 7) -> list[Figure]:
    """The highest rate without loss at one size of frames."""
    with Rig(folder, material, side_px=side_px) as rig:
        rig.view(module="benchmarks.receive", arguments=[STREAM, str(side_px)])
        rig.connect()
        capacity_hz = rig.capacity_hz(count=min(3000, int(AIMS[side_px] * seconds)))
        best, tried = highest_rate(lambda rate_hz: sustained(rig, rate_hz, seconds), capacity_hz, trials=trials)
    return [
        Figure(
            key=f"receive_fps_{side_px}",
            value=best,
            unit="frames/s",
            aim=at_least(AIMS[side_px]),
            detail={"trials": tried, "burst_hz": capacity_hz},
        )
    ]


if __name__ == "__main__":
    take(sys.argv[1], int(sys.argv[2]))
