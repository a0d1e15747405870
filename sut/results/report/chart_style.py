"""Colours of both themes, and the change of a drawn SVG into one that follows the page's theme."""

import re
from typing import NamedTuple

from sut.results.report.charts import Colour


class Shade(NamedTuple):
    """One colour in the light and in the dark theme."""

    light: str
    dark: str


SHADES = {
    Colour.INK: Shade("#1d2126", "#e4e7eb"),
    Colour.MUTED: Shade("#5d6672", "#98a2ae"),
    Colour.GRID: Shade("#e2e6eb", "#2d333b"),
    Colour.BLUE: Shade("#2a66a8", "#6ba6e6"),
    Colour.ORANGE: Shade("#c2611f", "#eb9a5c"),
    Colour.GREEN: Shade("#2c7a4b", "#63c08a"),
    Colour.RED: Shade("#b4281e", "#f0837a"),
    Colour.PURPLE: Shade("#6b4fa0", "#b39ddc"),
    Colour.TEAL: Shade("#1e7c80", "#5fc3c6"),
    Colour.GOLD: Shade("#9a7410", "#d9b44a"),
    Colour.GREY: Shade("#8a939e", "#77818d"),
}
_LIGHT_NAMES = {shade.light: colour for colour, shade in SHADES.items()}
_HEX = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"(font: [^;\"]*?px) [^;\"]*")
_PROLOG = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_STYLE_AND_METADATA = re.compile(r"\s*<(metadata|style)\b.*?</\1>", re.DOTALL)
_GROUP_ID = re.compile(r"<g id=\"[^\"]*\"")


def light(colour: Colour) -> str:
    """Return a colour of the light theme, in which charts are drawn and exported."""
    return SHADES[colour].light


def variables(theme: str) -> str:
    """Return the CSS variables of a theme, light or dark."""
    return "".join(f"--{colour}:{getattr(shade, theme)};" for colour, shade in SHADES.items())


def to_themed(svg: str) -> str:
    """Change an SVG drawn in the light theme: colours become variables of the page, texts take its font."""
    svg = _STYLE_AND_METADATA.sub("", _PROLOG.sub("", svg))
    svg = _GROUP_ID.sub("<g", svg)
    svg = _HEX.sub(
        lambda match: f"var(--{_LIGHT_NAMES[match[0]]})" if match[0] in _LIGHT_NAMES else match[0], svg
    )
    return _FONT.sub(r"\1 var(--font)", svg)
