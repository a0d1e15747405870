"""The table that a person reads: what was checked, what was seen, and what to do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

MAX_NAMED = 3
"""So many workers are named in a row that holds for more of them."""

MAX_SEEN_LEN = 600


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Row(NamedTuple):
    """One check."""

    group: str
    check: str
    level: Level
    seen: str
    advice: str = ""
    """What to do; empty where all is well."""


class Finding(NamedTuple):
    """What is not well at one place."""

    place: str
    """host:port; empty: nowhere in particular."""
    level: Level
    seen: str
    advice: str


class Check(NamedTuple):
    """What a rule looks at."""

    group: str
    name: str

    def rows(self, findings: Sequence[Finding], fine: str) -> list[Row]:
        """Make the rows of a check: one for each kind of trouble, whatever the size of the fleet.

        Args:
            findings: Of all places.
            fine: What was seen, where there are none.
        """
        if not findings:
            return [Row(*self, Level.OK, fine)]
        kinds: dict[tuple[Level, str], list[Finding]] = {}
        for finding in findings:
            kinds.setdefault((finding.level, finding.advice), []).append(finding)
        return [Row(*self, level, _together(alike), advice) for (level, advice), alike in kinds.items()]


def differing(
    values: Mapping[str, str], level: Level, advice: str, prefix: str = ""
) -> tuple[list[Finding], str]:
    """Compare one thing over places.

    Args:
        values: By place, at least one.
        level: What a difference means.
        advice: And what to do then.
        prefix: Begins what is said of a difference.

    Returns:
        One finding for every place that differs from the most, and what to say where none does.
    """
    # Of two equally common ones the first.
    ((usual, _),) = Counter(values.values()).most_common(1)
    most = several([place for place, value in values.items() if value == usual])
    findings = [
        Finding(place, level, f"{prefix}{value or 'none'} where {most} has {usual or 'none'}", advice)
        for place, value in values.items()
        if value != usual
    ]
    return findings, usual or "none"


def exit_code(rows: Sequence[Row]) -> int:
    """Say 0 where nothing fails, else 1."""
    return int(any(row.level is Level.FAIL for row in rows))


def layout(rows: Sequence[Row], skipped: Sequence[str]) -> str:
    """Lay the table out as plain text: a line per row, and below it what to do.

    Args:
        rows: In the order of their groups.
        skipped: What was not checked, and for want of what.
    """
    width = max(len(row.check) for row in rows)
    lines = []
    group = ""
    for row in rows:
        if row.group != group:
            lines.append(row.group)
            group = row.group
        # A worker's words may be anything.
        seen = "".join(c if c.isprintable() else "?" for c in row.seen[:MAX_SEEN_LEN])
        lines.append(f"  {row.level:<4}  {row.check:<{width}}  {seen}")
        if row.advice:
            lines.append(f"        {'':<{width}}  -> {row.advice}")
    lines += [f"not checked: {text}" for text in skipped]
    counts = {level: sum(row.level is level for row in rows) for level in Level}
    lines.append(f"{counts[Level.FAIL]} fail, {counts[Level.WARN]} warn, {counts[Level.OK]} ok")
    return "\n".join(lines)


def several(places: Sequence[str]) -> str:
    """Name a few of them and count the others."""
    more = len(places) - MAX_NAMED
    return ", ".join(places[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _together(findings: Sequence[Finding]) -> str:
    """Say what was seen at several places, those alike together."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.seen, []).append(finding.place)
    texts = [f"{several(names)}: {seen}" if any(names) else seen for seen, names in places.items()]
    more = len(texts) - MAX_NAMED
    return "; ".join(texts[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
