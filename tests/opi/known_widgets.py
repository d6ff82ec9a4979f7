"""What the Display Builder knows, and how wide its texts are at most.

Source of types, versions and properties: the `*Widget.java` named beside each type, their bases `Widget.java`,
`VisibleWidget.java`, `PVWidget.java` and `ScaledPVWidget.java`, and `PlotWidgetProperties.java`, all below
`app/display/model/src/main/java/org/csstudio/display/builder/model` of github.com/ControlSystemStudio/phoebus; names of
colours and fonts: `color.def` and `font.def` in `app/display/model/src/main/resources/examples` there.
"""

import xml.etree.ElementTree as ET

_WIDGET = {"name", "x", "y", "width", "height", "visible", "tooltip", "rules", "scripts", "actions", "class"}
_PV = _WIDGET | {"pv_name", "border_alarm_sensitive"}
_TEXT = {"font", "foreground_color", "background_color"}

VERSIONS = {
    "action_button": "3.0.0", "bool_button": "2.0.0", "combo": "2.0.0", "image": "2.0.0", "label": "2.0.0",
    "polyline": "2.0.0", "progressbar": "2.0.0", "rectangle": "2.0.0", "textentry": "3.0.0", "textupdate": "2.0.0",
    "xyplot": "3.0.0",
}  # fmt: skip
PROPERTIES = {
    "display": {"name", "width", "height", "macros", "background_color", "grid_visible"},  # DisplayModel.java
    "action_button": _PV | _TEXT | {"text", "transparent", "enabled", "confirm_dialog", "confirm_message"},
    "bool_button": _PV | _TEXT | {"bit", "off_label", "off_color", "on_label", "on_color", "show_led", "mode",
                                  "labels_from_pv", "enabled", "confirm_dialog", "confirm_message"},
    "combo": _PV | _TEXT | {"items", "items_from_pv", "editable", "enabled", "confirm_dialog", "confirm_message"},
    "image": _PV | {"background_color", "show_toolbar", "color_map", "color_bar", "x_axis", "y_axis", "limits_from_pv",
                    "data_width", "data_height", "interpolation", "unsigned", "autoscale", "log_scale", "minimum",
                    "maximum", "cursor_info_pv", "x_pv", "y_pv", "cursor_crosshair", "rois"},
    "label": _WIDGET | _TEXT | {"text", "transparent", "horizontal_alignment", "vertical_alignment", "rotation_step",
                                "auto_size", "wrap_words"},
    "polyline": _WIDGET | {"line_width", "line_color", "line_style", "arrows", "arrow_length", "points"},
    "progressbar": _PV | {"fill_color", "background_color", "log_scale", "horizontal", "limits_from_pv", "minimum",
                          "maximum"},
    "rectangle": _WIDGET | {"line_width", "line_color", "line_style", "background_color", "transparent",
                            "corner_width", "corner_height"},
    "textentry": _PV | _TEXT | {"format", "precision", "show_units", "enabled", "wrap_words", "multi_line"},
    "textupdate": _PV | _TEXT | {"transparent", "format", "precision", "show_units", "horizontal_alignment",
                                 "vertical_alignment", "wrap_words", "rotation_step", "interactive"},
    "xyplot": _WIDGET | {"foreground_color", "background_color", "title", "title_font", "show_toolbar", "show_legend",
                         "x_axis", "y_axes", "traces", "marker"},
}  # fmt: skip
_AXIS = {"title", "autoscale", "log_scale", "minimum", "maximum", "show_grid", "title_font", "scale_font", "visible"}
NESTED = {
    ("xyplot", "x_axis"): _AXIS,
    ("xyplot", "y_axes/y_axis"): _AXIS | {"on_right", "color"},
    ("xyplot", "traces/trace"): {"name", "x_pv", "y_pv", "err_pv", "axis", "trace_type", "color", "line_width",
                                 "line_style", "point_type", "point_size", "visible"},
    ("image", "x_axis"): {"visible", "title", "minimum", "maximum", "title_font", "scale_font"},
    ("image", "y_axis"): {"visible", "title", "minimum", "maximum", "title_font", "scale_font"},
    ("image", "color_bar"): {"visible", "bar_size", "scale_font"},
    ("image", "color_map"): {"name"},
    ("action_button", "actions/action"): {"pv_name", "value", "description"},
}  # fmt: skip
COLORS = {"Text", "ActiveText", "Background", "Read_Background", "Write_Background", "Button_Background",
          "Header_Background", "Header_ForeGround", "Attention", "STOP", "On", "Off", "OK", "MINOR", "MAJOR",
          "INVALID", "DISCONNECTED"}  # fmt: skip
FONTS = {
    "Default": ("REGULAR", "14.0"), "Default Bold": ("BOLD", "14.0"), "Header 1": ("BOLD", "22.0"),
    "Header 2": ("BOLD", "18.0"), "Header 3": ("BOLD", "16.0"), "Comment": ("ITALIC", "14.0"),
    "Fine Print": ("REGULAR", "12.0"),
}  # fmt: skip
MARGIN_PX = {"label": 0, "textupdate": 4, "textentry": 14, "combo": 34, "action_button": 16, "bool_button": 36}
"""Room that a type's frame, arrow or lamp takes from its text."""

# Upper bounds in em of the advance widths of Liberation Sans, which are Arial's: regular, bold.
_WIDTHS = (("MW%@", 1.02, 1.02), ("m", 0.84, 0.89), ("w", 0.73, 0.78), (" .,:;il'|/", 0.28, 0.34))


def text_width_px(text: str, font: ET.Element | None) -> float:
    """An upper bound of the width of one line of text."""
    size_px = float(font.attrib["size"]) if font is not None else 14.0
    bold = font is not None and "BOLD" in font.attrib["style"]
    return size_px * sum(_em(character, bold=bold) for character in text)


def _em(character: str, *, bold: bool) -> float:
    for characters, regular, heavy in _WIDTHS:
        if character in characters:
            return heavy if bold else regular
    if character.isupper():
        return 0.78
    return 0.62 if bold else 0.56
