"""Phase maps as streams: one place for how a map's position on the sample travels with it."""

import numpy as np

from iocs.stream import Attribute, NdFrame
from phasing.stitch import StitchedMap

LEAST_WEIGHT = 0.1
"""Pixels lit by less than this share of the best lit one are not shown: there, a map is mostly guesswork."""


def map_frame(found: StitchedMap, unique_id: int, time_ns: int, attributes: dict[str, Attribute]) -> NdFrame:
    """A map as an image, (H, W) float32 rad.

    What no frame has lit is exactly 0: screens scale colours over all pixels, and a NaN would blank them.
    """
    lit = found.weight > LEAST_WEIGHT * found.weight.max(initial=0.0)
    phase_rad = np.where(lit, found.phase_rad, np.float32(0.0)).astype(np.float32)
    place: dict[str, Attribute] = {
        "PixelSize": found.pixel_size_m,
        "OriginY": found.origin_m[0],
        "OriginX": found.origin_m[1],
    }
    return NdFrame(unique_id, time_ns, phase_rad, attributes | place, "rad")


def placed_map(frame: NdFrame) -> StitchedMap:
    """Undo map_frame; the weight is 1 where there is phase."""
    phase_rad = frame.array.astype(np.float32)
    a = frame.attributes
    return StitchedMap(
        phase_rad=phase_rad,
        weight=(phase_rad != 0).astype(np.float32),
        origin_m=(float(a["OriginY"]), float(a["OriginX"])),
        pixel_size_m=float(a["PixelSize"]),
    )
