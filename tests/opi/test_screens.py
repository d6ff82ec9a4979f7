import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from known_widgets import COLORS, FONTS, MARGIN_PX, NESTED, PROPERTIES, VERSIONS, text_width_px

import pvdb
from opi.__main__ import FOLDER, SCREENS, write
from pvdb.model import TEXT, Kind, Pv, Role, full_name

PREFIX = "PTY:"
PVS = {full_name(PREFIX, pv): pv for pvs in pvdb.IOCS.values() for pv in pvs}
READERS, WRITERS = {"textupdate", "image", "progressbar"}, {"textentry", "combo", "bool_button", "action_button"}


def expand(text: str, macros: dict[str, str]) -> str:
    """Replace macros as Phoebus' MacroHandler does: `$(NAME)`, `$(NAME=default)`, defaults may hold macros."""
    innermost = re.compile(r"\$\((\w+)(?:=([^()$]*))?\)")
    while match := innermost.search(text):
        name, default = match.groups()
        value = macros.get(name, default)
        assert value is not None, f"{text}: no value for macro {name}"
        text = text[: match.start()] + value + text[match.end() :]
    return text


def screen(name: str) -> ET.Element:
    return ET.parse(FOLDER / name).getroot()


def widgets() -> list[ET.Element]:
    return [widget for name in SCREENS for widget in screen(name).iter("widget")]


def called(widget: ET.Element) -> str:
    return f"{widget.get('type')} {widget.findtext('name')}"


def box(widget: ET.Element) -> tuple[int, int, int, int]:
    x, y, width, height = (int(widget.findtext(tag, "")) for tag in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def addresses(widget: ET.Element) -> list[str]:
    """Every PV a widget connects to, operands of formulas included; `$(pv_name)` is the widget's own."""
    texts = [e.text or "" for tag in ("pv_name", "y_pv", "x_pv") for e in widget.iter(tag)]
    found = [re.findall("'([^']*)'", text) if text.startswith("=") else [text] for text in texts]
    return [address for group in found for address in group if address not in ("", "$(pv_name)")]


def resolve(address: str, macros: dict[str, str]) -> Pv:
    """The declaration behind an address, checked for the form in which its protocol carries it."""
    protocol, _, name = expand(address, macros).partition("://")
    pv = PVS[name.removesuffix(".VAL$")]
    assert protocol == ("ca" if pv.on_channel_access else "pva"), address
    assert name.endswith(".VAL$") == (pv.kind is Kind.LONG_STRING), address
    return pv


def test_the_committed_screens_are_what_the_generator_makes(tmp_path: Path) -> None:
    for path in write(tmp_path):
        committed = (FOLDER / path.name).read_text(encoding="utf-8")
        assert committed == path.read_text(encoding="utf-8"), f"{path.name} is old: run python -m opi"


def test_no_screen_lies_there_without_a_generator() -> None:
    assert {path.name for path in FOLDER.glob("*.bob")} == set(SCREENS)


@pytest.mark.parametrize("widget", widgets(), ids=called)
def test_the_display_builder_knows_type_version_and_properties(widget: ET.Element) -> None:
    kind = widget.attrib["type"]
    assert widget.attrib["version"] == VERSIONS[kind]
    assert {child.tag for child in widget} <= PROPERTIES[kind]
    for (owner, path), known in NESTED.items():
        if owner == kind:
            assert {child.tag for e in widget.findall(path) for child in e} <= known
    structures = {path.partition("/")[0] for owner, path in NESTED if owner == kind} | {"points"}
    assert not [e.tag for e in widget if len(e) and e.tag not in structures and e[0].tag not in ("color", "font")]


def test_the_display_has_known_properties_and_the_size_of_a_full_hd_screen() -> None:
    for root in map(screen, SCREENS):
        assert {child.tag for child in root} <= PROPERTIES["display"] | {"widget"}
        assert (root.findtext("width"), root.findtext("height")) == ("1920", "1080")


def test_fonts_and_colours_are_the_named_ones() -> None:
    for root in map(screen, SCREENS):
        colors = [e for e in root.iter("color") if not len(e)]
        assert colors and {e.get("name") for e in colors} <= COLORS
        for font in (e for e in root.iter("font") if not len(e)):
            assert FONTS[font.attrib["name"]] == (font.get("style"), font.get("size"))


def test_every_pv_is_declared_and_addressed_as_its_kind_needs() -> None:
    found = [resolve(address, {"P": PREFIX}) for widget in widgets() for address in addresses(widget)]
    assert len(set(found)) > 50


def test_a_detector_that_is_not_ours_takes_the_place_of_ours_by_macros() -> None:
    macros = {"P": PREFIX, "CAM": "26IDEIG:cam1:", "HDF": "26IDEIG:HDF1:"}
    names = [expand(a, macros).partition("://")[2] for widget in widgets() for a in addresses(widget)]
    assert "26IDEIG:cam1:Acquire" in names
    assert not [name for name in names if name.startswith((f"{PREFIX}Det:cam1:", f"{PREFIX}Det:HDF1:"))]


def test_only_what_clients_may_write_is_written() -> None:
    for widget in widgets():
        kind = widget.attrib["type"]
        if kind in WRITERS:
            (pv,) = {resolve(address, {"P": PREFIX}) for address in addresses(widget)}
            assert pv.role is (Role.ACTION if kind == "action_button" else Role.SETPOINT), called(widget)
        else:
            assert not widget.findall("actions"), called(widget)


def test_every_action_of_the_flow_is_a_button() -> None:
    pressed = {resolve(a, {"P": PREFIX}).name for w in widgets() if w.get("type") in WRITERS for a in addresses(w)}
    for name in ("Scan:Submit", "Flow:Run", "Flow:Cancel", "Flow:Retry", "Flow:Hold", "Det:cam1:Acquire", "Model:Gate",
                 "Model:Select", "Model:Accept", "Model:Rollback"):  # fmt: skip
        assert name in pressed


def test_alarms_and_units_are_shown() -> None:
    for widget in widgets():
        assert widget.findtext("border_alarm_sensitive", "true") == "true"
        assert widget.findtext("background_color/color/[@name='MAJOR']") is None
        if widget.get("type") in ("textupdate", "textentry"):
            (pv,) = {resolve(address, {"P": PREFIX}) for address in addresses(widget)}
            if pv.kind in TEXT - {Kind.STRING}:
                assert widget.findtext("format") == "6", f"{called(widget)} would show numbers"
            else:
                assert widget.findtext("show_units") == str(pv.unit not in ("", "1")).lower(), called(widget)


def test_images_have_a_colour_map_that_colour_blind_people_can_read_and_a_scale() -> None:
    images = [widget for widget in widgets() if widget.get("type") == "image"]
    assert {expand(a, {"P": ""}) for w in images for a in addresses(w)} == {
        "pva://Edge:Phase",
        "pva://Edge:Stitched",
        "pva://Recon:Image",
    }
    for widget in images:
        assert widget.findtext("color_map/name") == "VIRIDIS"
        assert widget.findtext("color_bar/visible") == "true"


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def holds(outer: ET.Element, inner: ET.Element) -> bool:
    a, b = box(outer), box(inner)
    return outer.get("type") == "rectangle" and a[0] <= b[0] and a[1] <= b[1] and b[2] <= a[2] and b[3] <= a[3]


def test_nothing_overlaps_but_a_box_and_what_it_holds() -> None:
    for name in SCREENS:
        for a, b in itertools.combinations(screen(name).findall("widget"), 2):
            if overlap(box(a), box(b)):
                assert holds(a, b), f"{called(a)} {box(a)} overlaps {called(b)} {box(b)}"


def test_nothing_leaves_the_display() -> None:
    for widget in widgets():
        left, top, right, bottom = box(widget)
        assert 0 <= left < right <= 1920 and 0 <= top < bottom <= 1080, called(widget)


def widest(pv: Pv) -> list[str]:
    """Texts that a PV's field must be able to show."""
    unit = f" {pv.unit}" if pv.unit not in ("", "1") else ""
    if pv.kind is Kind.STATE:
        return list(pv.states)
    if pv.kind is Kind.INTEGER:
        return [f"{pv.limits.high if pv.limits else 9_999_999:.0f}{unit}"]
    if pv.kind is Kind.FLOAT:
        return [f"{pv.limits.high if pv.limits else 9999 if pv.precision else 9_999_999:.{pv.precision}f}{unit}"]
    return ["e" * (12 if pv.kind is Kind.STRING else 40)]


def texts(widget: ET.Element) -> list[str]:
    """What a widget may have to show."""
    kind = widget.attrib["type"]
    fixed = [widget.findtext(tag, "") for tag in ("text", "on_label", "off_label")]
    if kind in ("label", "action_button", "bool_button"):
        return [expand(text, {"P": PREFIX}) for text in fixed if text]
    return [text for address in addresses(widget) for text in widest(resolve(address, {"P": PREFIX}))]


@pytest.mark.parametrize("widget", [w for w in widgets() if w.get("type") in MARGIN_PX], ids=called)
def test_no_text_is_wider_or_higher_than_its_box(widget: ET.Element) -> None:
    font = widget.find("font/font")
    left, top, right, bottom = box(widget)
    room_px = right - left - MARGIN_PX[widget.attrib["type"]]
    assert texts(widget)
    for text in texts(widget):
        assert text_width_px(text, font) <= room_px, text
    assert float(font.attrib["size"] if font is not None else 14) * 1.2 <= bottom - top


def test_the_width_of_a_text_is_never_estimated_below_what_the_font_needs() -> None:
    # Advance widths of Arial in 1/1000 em: H 722, e 556, l 222, o 556, W 944, r 333, d 556, 7 556, m 833.
    regular = ET.Element("font", size="1000", style="REGULAR")
    assert text_width_px("HelloWorld7m", regular) >= 722 + 556 + 2 * 222 + 556 + 944 + 556 + 333 + 222 + 556 + 556 + 833
    bold = ET.Element("font", size="1000", style="BOLD")
    assert text_width_px("HelloWorld7m", bold) > text_width_px("HelloWorld7m", regular)
