"""Reads a report back: its numbers with their sources, its elements and the data of its charts."""

import json
from html.parser import HTMLParser
from typing import Any, NamedTuple


class ShownNumber(NamedTuple):
    """A number of the page."""

    source: str
    value: str
    """As the page's attribute has it: before rounding."""
    divisor: float
    text: str

    @property
    def is_rounded_value(self) -> bool:
        """Whether the text is the value, divided and rounded to the digits that are shown."""
        digits = len(self.text.partition(".")[2])
        return self.text == f"{float(self.value) / self.divisor:,.{digits}f}"


def value_of(record: Any, source: str) -> Any:
    """Return the value of run.json that a source names: at a path, a sum, a difference, a list's length."""
    if len(summands := source.split(" + run.json#")) > 1:
        return sum(value_of(record, summand) for summand in summands)
    if " - " in source:
        minuend, subtrahend = source.split(" - ")
        return value_of(record, minuend) - value_of(record, subtrahend)
    if source.endswith(" length"):
        return len(value_of(record, source.removesuffix(" length")))
    for key in source.removeprefix("run.json#").removeprefix("/").split("/"):
        record = record[int(key)] if isinstance(record, list) else record[key]
    return record


class Page(HTMLParser):
    """The content of a page."""

    def __init__(self, text: str) -> None:
        """Parse it."""
        super().__init__(convert_charrefs=True)
        self.numbers: list[ShownNumber] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.bare_cells: list[str] = []
        """Texts of cells of figures that lie in no number."""
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str], str]] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        entry = (tag, {name: value or "" for name, value in attrs})
        self.tags.append(entry)
        if tag not in ("meta", "br"):
            self._open.append(entry)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag without content."""
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Require that tags are closed in order."""
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if not self._open:
            return
        tag, attributes = self._open[-1]
        if tag == "script":
            self.scripts.append((attributes, data))
        elif tag != "style":
            self.texts.append(data)
        if "data-value" in attributes:
            source, value = attributes["data-source"], attributes["data-value"]
            self.numbers.append(ShownNumber(source, value, float(attributes["data-divisor"]), data))
        elif attributes.get("class") == "figure" and tag == "td":
            self.bare_cells.append(data)

    @property
    def is_closed(self) -> bool:
        """Whether every tag is closed."""
        return not self._open

    @property
    def chart_data(self) -> dict[str, Any]:
        """The data that the script shows under the pointer."""
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == "charts"]
        found: dict[str, Any] = json.loads(text)
        return found
