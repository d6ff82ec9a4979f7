"""One prediction onto the map: the authors' way over ours, and ours at three sizes of the canvas."""

from benchmarks import stitch
from benchmarks.report import Figure, at_least, at_most

RATIO_AIM = 100.0
FLAT_AIM = 1.25
"""What counts as flat: the largest canvas, sixteen times the area, costs at most a quarter more."""


def measure() -> list[Figure]:
    """The ratio, and the largest canvas over the smallest."""
    found = stitch.measure()
    return [
        Figure("stitch_ratio", found["stitch_ratio"], "", at_least(RATIO_AIM), detail=dict(found)),
        Figure("stitch_flatness", found["stitch_flatness"], "", at_most(FLAT_AIM)),
    ]
