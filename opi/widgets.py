"""Widgets that know their PV: what is shown, in which form and unit, comes from its declaration."""

from collections.abc import Sequence

from opi.address import address
from opi.bob import FORMAT_STRING, MIDDLE, Align, Box, Color, Font, Item, Screen, Value, WritePv
from pvdb.model import TEXT, Kind, Pv

_BAR_PX = 64


def label(screen: Screen, text: str, box: Box, *, font: Font = Font.DEFAULT, align: Align = Align.LEFT,
          color: Color = Color.TEXT) -> None:  # fmt: skip
    """A fixed text in the middle of its box's height."""
    screen.add("label", f"Label {text}", box, {
        "text": text, "font": font, "foreground_color": color, "horizontal_alignment": align,
        "vertical_alignment": MIDDLE, "wrap_words": False,
    })  # fmt: skip


def panel(screen: Screen, name: str, box: Box, *, color: Color = Color.READ, corner_px: int = 8) -> None:
    """A box that holds other widgets."""
    screen.add("rectangle", f"Box {name}", box, {
        "line_width": 1, "line_color": Color.BUTTON, "background_color": color,
        "corner_width": corner_px, "corner_height": corner_px,
    })  # fmt: skip


def read(screen: Screen, pv: Pv, box: Box, *, font: Font = Font.DEFAULT, align: Align = Align.LEFT,
         plain: bool = False) -> None:  # fmt: skip
    """The PV's value with its unit and alarm; `plain` leaves out the background."""
    properties: dict[str, Value] = {
        "pv_name": address(pv), "font": font, "transparent": plain, "background_color": Color.BACKGROUND,
        "horizontal_alignment": align, "vertical_alignment": MIDDLE, "wrap_words": False,
    }  # fmt: skip
    screen.add("textupdate", pv.name, box, properties | _form(pv))


def entry(screen: Screen, pv: Pv, box: Box) -> None:
    """A field that writes a number or a text."""
    properties: dict[str, Value] = {"pv_name": address(pv), "font": Font.DEFAULT}
    screen.add("textentry", pv.name, box, properties | _form(pv))


def choice(screen: Screen, pv: Pv, box: Box) -> None:
    """A menu of the PV's states."""
    screen.add("combo", pv.name, box, {"pv_name": address(pv), "font": Font.DEFAULT, "tooltip": _tooltip(pv)})


def switch(screen: Screen, pv: Pv, text: str, box: Box) -> None:
    """A button that stays down: writes 1 and 0, and shows which it is."""
    screen.add("bool_button", pv.name, box, {
        "pv_name": address(pv), "off_label": text, "on_label": text, "off_color": Color.OFF, "on_color": Color.ON,
        "font": Font.DEFAULT, "tooltip": _tooltip(pv),
    })  # fmt: skip


def button(screen: Screen, pv: Pv, text: str, box: Box, *, value: int = 1, confirm: str = "") -> None:
    """A button that writes to an action; its border shows the action's alarm. `confirm` is asked first."""
    properties: dict[str, Value] = {
        "actions": [WritePv("$(pv_name)", value, text)], "pv_name": address(pv), "text": text, "font": Font.BOLD,
        "tooltip": f"{pv.description}\n$(pv_name)" if value else f"Stop: {pv.description}\n$(pv_name)",
    }  # fmt: skip
    if confirm:
        properties |= {"confirm_dialog": True, "confirm_message": confirm}
    screen.add("action_button", f"{text} {pv.name}", box, properties)


def progress(screen: Screen, what: str, formula: str, box: Box) -> None:
    """A bar from 0 to 100 %."""
    screen.add("progressbar", f"Progress {what}", box, {
        "pv_name": formula, "fill_color": Color.HEADER, "background_color": Color.BACKGROUND,
        "limits_from_pv": False, "minimum": 0.0, "maximum": 100.0, "tooltip": f"{what} (%)\n$(pv_value)",
    })  # fmt: skip


def image(screen: Screen, pv: Pv, box: Box) -> None:
    """A stream as an image: viridis is even to the eye, prints in grey, and colour-blind people can read it."""
    axis: dict[str, Value] = {"visible": False}
    screen.add("image", pv.name, box, {
        "pv_name": address(pv), "color_map": {"name": "VIRIDIS"},
        "color_bar": {"visible": True, "bar_size": _BAR_PX, "scale_font": Font.FINE_PRINT},
        "x_axis": axis, "y_axis": axis, "limits_from_pv": True, "autoscale": True, "tooltip": _tooltip(pv),
    })  # fmt: skip


def curves(screen: Screen, name: str, traces: Sequence[tuple[str, Pv, Color]], box: Box) -> None:
    """Waveforms over their index, which is the epoch."""
    screen.add("xyplot", name, box, {
        "show_legend": True,
        "x_axis": _axis("Epoch"),
        "y_axes": [Item("y_axis", _axis(f"Loss ({traces[0][1].unit})"))],
        "traces": [Item("trace", {"name": text, "y_pv": address(pv), "color": color, "line_width": 2})
                   for text, pv, color in traces],
    })  # fmt: skip


def _axis(title: str) -> dict[str, Value]:
    return {"title": title, "autoscale": True, "show_grid": True,
            "title_font": Font.FINE_PRINT, "scale_font": Font.FINE_PRINT}  # fmt: skip


def _form(pv: Pv) -> dict[str, Value]:
    """How a value is written: text as text, a number with its unit unless it is a plain count."""
    form: dict[str, Value] = {"tooltip": _tooltip(pv)}
    if pv.kind in TEXT and pv.kind is not Kind.STRING:
        return form | {"format": FORMAT_STRING}
    return form | {"show_units": pv.unit not in ("", "1")}


def _tooltip(pv: Pv) -> str:
    return f"{pv.description}\n$(pv_name)\n$(pv_value)"
