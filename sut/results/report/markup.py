"""Composes HTML: every text is escaped and bounded, every number names the file and the value it shows."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from common.json_document import is_number
from common.text import printable

MAX_TEXT_LEN = 300
MAX_NOTE_LEN = 2000
NOT_KNOWN = "\N{EN DASH}"


class Html(str):
    """Text that is HTML already; any other text is escaped where it enters an element."""

    __slots__ = ()


class Unit(NamedTuple):
    """How a value is shown: divided, rounded, with the unit in the heading or behind it."""

    divisor: float
    decimals: int
    suffix: str = ""


COUNT = Unit(1, 0)
NS_AS_MS = Unit(1e6, 3, "ms")
NS_AS_S = Unit(1e9, 3, "s")
SECONDS = Unit(1, 3, "s")
SHARE = Unit(0.01, 2, "%")
RATE = Unit(1, 2)
BYTES_AS_GIB = Unit(1 << 30, 1, "GiB")


class Number(NamedTuple):
    """A value with its place in the files of the run."""

    value: object
    source: str
    """File and place, e.g. `run.json#/summary/ttft_ns/mean`."""


def escaped(text: object, max_len: int = MAX_TEXT_LEN) -> Html:
    """Return text from a file as HTML: bounded, printable, escaped."""
    whole = str(text)
    shown = printable(whole, max_len) + ("..." if len(whole) > max_len else "")
    return Html(html.escape(shown))


def element(name: str, *children: object, **attributes: object) -> Html:
    """Compose an element; a trailing underscore of an attribute's name is dropped, others become dashes."""
    inner = "".join(child if isinstance(child, Html) else escaped(child) for child in children)
    return Html(f"<{name}{_attributes(attributes)}>{inner}</{name}>")


def joined(parts: Iterable[Html]) -> Html:
    """Join pieces of HTML."""
    return Html("\n".join(parts))


def _attributes(attributes: Mapping[str, object]) -> str:
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )


def shown(value: float, unit: Unit) -> str:
    """Format a value; one that is rounded to 0 has no sign."""
    text = f"{value / unit.divisor:,.{unit.decimals}f}"
    return text if text.strip("-0.") else text.lstrip("-")


def number(found: Number, unit: Unit, *, with_suffix: bool = False, trims: bool = False) -> Html:
    """Compose a number; a dash if its file does not have it.

    Args:
        found: The value with its source.
        unit: How it is shown.
        with_suffix: Whether its unit follows.
        trims: Whether decimals are left out if all are 0, as in a limit.
    """
    value = found.value
    if not is_number(value):
        return element("span", NOT_KNOWN, class_="missing", title="not known")
    suffix = f" {unit.suffix}" if with_suffix and unit.suffix else ""
    digits = shown(value, unit)
    if trims and "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    text = element(
        "span",
        digits,
        class_="number",
        data_source=found.source,
        data_value=repr(value),
        data_divisor=repr(unit.divisor),
    )
    return Html(f"{text}{escaped(suffix)}")


class Column(NamedTuple):
    """Heading of a table's column."""

    title: str
    is_text: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, kind: str = "") -> Html:
    """Compose a table that scrolls sideways in a narrow window; its first column are headings of rows.

    Args:
        columns: Headings.
        rows: Cells; each is HTML or text.
        kind: Class of the table.
    """
    classes = ["text" if column.is_text else "figure" for column in columns]
    head = joined(
        element("th", column.title, class_=name, scope="col")
        for column, name in zip(columns, classes, strict=True)
    )
    body = joined(_row(classes, row) for row in rows)
    inner = element(
        "table", element("thead", element("tr", head)), element("tbody", body), class_=kind or None
    )
    return element("div", inner, class_="scroll")


def _row(classes: Sequence[str], cells: Sequence[object]) -> Html:
    first, *others = cells
    head = element("th", first, class_=classes[0], scope="row")
    return element(
        "tr",
        head,
        *(element("td", cell, class_=name) for cell, name in zip(others, classes[1:], strict=True)),
    )


def folded(title: str, content: Html, *, is_open: bool = False) -> Html:
    """Compose a part that a click unfolds."""
    return element("details", element("summary", title), content, open="" if is_open else None)


def note(*parts: object) -> Html:
    """Compose a paragraph of explanation."""
    whole = [part if isinstance(part, Html) else escaped(part, MAX_NOTE_LEN) for part in parts]
    return element("p", *whole, class_="note")


def script_data(name: str, content: object) -> Html:
    """Compose data for the page's script; no text in it can end the element."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    safe = text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    return Html(f'<script type="application/json" id="{escaped(name)}">{safe}</script>')
