"""The Display Builder's file format: widgets and properties to XML, with its named fonts and colours.

Names, versions and meaning of properties: the classes in `app/display/model` of github.com/ControlSystemStudio/phoebus.
The standard library's XML is used rather than phoebusgen 3.3, which does not name fonts and colours in its typed
interface, reads `~/.phoebusgen` when it is imported, and is GPL-2.0 only.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum


class Color(Enum):
    """Named colours of the Display Builder's `color.def` with the red, green and blue used where a site has none."""

    TEXT = ("Text", 0, 0, 0)
    BACKGROUND = ("Background", 255, 255, 255)
    READ = ("Read_Background", 240, 240, 240)
    WRITE = ("Write_Background", 128, 255, 255)
    BUTTON = ("Button_Background", 210, 210, 210)
    HEADER = ("Header_Background", 77, 77, 77)
    HEADER_TEXT = ("Header_ForeGround", 255, 255, 255)
    ATTENTION = ("Attention", 255, 160, 0)
    ON = ("On", 0, 255, 0)
    OFF = ("Off", 60, 100, 60)


class Font(Enum):
    """Named fonts of the Display Builder's `font.def`: name, style, height in pixels."""

    DEFAULT = ("Default", "REGULAR", 14)
    BOLD = ("Default Bold", "BOLD", 14)
    HEADER_1 = ("Header 1", "BOLD", 22)
    HEADER_2 = ("Header 2", "BOLD", 18)
    HEADER_3 = ("Header 3", "BOLD", 16)
    COMMENT = ("Comment", "ITALIC", 14)
    FINE_PRINT = ("Fine Print", "REGULAR", 12)


class Align(IntEnum):
    """Horizontal alignment; the vertical one has the same numbers for top, middle, bottom."""

    LEFT = 0
    CENTER = 1
    RIGHT = 2


MIDDLE = 1
FORMAT_STRING = 6  # FormatOption.STRING: arrays of bytes are shown and written as text


@dataclass(frozen=True)
class WritePv:
    """An action of a button: write `value` to the PV at `address`."""

    address: str
    value: int
    description: str


@dataclass(frozen=True)
class Box:
    """Place of a widget on the screen; x to the right, y down."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Item:
    """One element of an array property, such as a trace of a plot."""

    tag: str
    properties: Mapping[str, "Value"]


Points = Sequence[tuple[float, float]]
Value = str | bool | int | float | Color | Font | WritePv | Item | Mapping[str, "Value"] | Sequence["Value"] | Points

_VERSIONS = {"action_button": "3.0.0", "textentry": "3.0.0", "xyplot": "3.0.0"}  # all others are at 2.0.0


class Screen:
    """A display under construction: widgets are drawn in the order they are added."""

    def __init__(self, name: str, *, width_px: int, height_px: int) -> None:
        """An empty display of that size with the background colour of the site."""
        self._root = ET.Element("display", version="2.0.0")
        size: dict[str, Value] = {"name": name, "width": width_px, "height": height_px}
        _fill(self._root, size | {"background_color": Color.BACKGROUND, "grid_visible": False})

    def add(self, kind: str, name: str, box: Box, properties: Mapping[str, Value]) -> None:
        """Add a widget of a Display Builder type, such as `textupdate`."""
        widget = ET.SubElement(self._root, "widget", type=kind, version=_VERSIONS.get(kind, "2.0.0"))
        place = {"x": box.x_px, "y": box.y_px, "width": box.width_px, "height": box.height_px}
        _fill(widget, {"name": name, **place, **properties})

    def text(self) -> str:
        """The .bob file."""
        ET.indent(self._root)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(self._root, encoding="unicode")}\n'


def _fill(parent: ET.Element, value: Value) -> None:
    """Write a property's value into its element."""
    match value:
        case str() | bool() | int() | float():
            parent.text = str(value).lower() if isinstance(value, bool) else str(value)
        case Color():
            name, red, green, blue = value.value
            ET.SubElement(parent, "color", name=name, red=str(red), green=str(green), blue=str(blue))
        case Font():
            name, style, size_px = value.value
            ET.SubElement(parent, "font", name=name, family="Liberation Sans", style=style, size=f"{size_px}.0")
        case WritePv():
            action = ET.SubElement(parent, "action", type="write_pv")
            _fill(action, {"pv_name": value.address, "value": value.value, "description": value.description})
        case Item():
            _fill(ET.SubElement(parent, value.tag), value.properties)
        case Mapping():
            for tag, inner in value.items():
                _fill(ET.SubElement(parent, tag), inner)
        case _:
            for inner in value:
                if isinstance(inner, tuple):
                    ET.SubElement(parent, "point", x=f"{inner[0]:.1f}", y=f"{inner[1]:.1f}")
                else:
                    _fill(parent, inner)
