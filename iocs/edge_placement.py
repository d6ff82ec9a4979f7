"""A frame's position on the sample, and what gives it."""

from dataclasses import dataclass
from typing import Protocol

from iocs.config import PositionSection
from iocs.stream import NdFrame
from phasing.positions import Values, to_sample_plane


@dataclass(frozen=True)
class Placement:
    """A frame's position (y, x) in m in the sample plane; None with `final` when it never gets one, else not yet."""

    position_m: tuple[float, float] | None
    final: bool


NOT_YET = Placement(None, False)
NEVER = Placement(None, True)


def unplaced_because(section: PositionSection, *, waited: bool) -> str:
    """Why a prediction has no position: it `waited` for one that did not come, or there is none for its frame."""
    if section.source == "attributes":
        return f"its attributes {section.y} and {section.x} are missing, or no finite numbers"
    source = section.file if section.source == "file" else section.stream or f"{section.y} and {section.x}"
    if waited:
        return f"no position came from {source} in {section.wait_s:g} s, or before {section.waiting_frames} more waited"
    return f"{source} tells no position for its time"


class PositionSource(Protocol):
    """Where positions come from; `find` is cheap, and of one thread."""

    def find(self, frame: NdFrame) -> Placement:
        """The position of a frame, as far as it is known now."""

    def close(self) -> None:
        """End what the source listens to."""


def placed(section: PositionSection, y: Values, x: Values) -> tuple[Values, Values]:
    """The position (y, x) in m of what the source says, by the configuration's unit, signs, swap and rotation."""
    return to_sample_plane(
        y,
        x,
        unit_m=section.unit_m,
        sign_y=section.sign_y,
        sign_x=section.sign_x,
        swap=section.swap,
        rotation_deg=section.rotation_deg,
    )
