"""The doctor's table: checks, observations and advice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from common.text import printable

MAX_NAMED = 3
"""Workers named in one row; the others are counted."""

MAX_SEEN_LEN = 600

DEVIATION = "deviation"
"""Check of what makes a run no submission run."""


class Level(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Row(NamedTuple):
    """One row of the table."""

    group: str
    check: str
    level: Level
    seen: str
    advice: str = ""
    """What to do; empty if the check passed."""


class Finding(NamedTuple):
    """One problem at one place."""

    place: str
    """host:port; empty if the problem belongs to no worker."""
    level: Level
    seen: str
    advice: str


class Check(NamedTuple):
    """A check: its group and name in the table."""

    group: str
    name: str

    def rows(self, findings: Sequence[Finding], fine: str) -> list[Row]:
        """Build the rows of a check: one for each kind of problem, whatever the size of the fleet.

        Args:
            findings: Problems at all places.
            fine: The observation if there are no problems.
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
    """Compare one value between places.

    Args:
        values: Value by place, at least one.
        level: Level of a difference.
        advice: Advice for a difference.
        prefix: Text before each differing value.

    Returns:
        One finding for every place that differs from the most common value, and that value.
    """
    # Of equally common values the first counts.
    ((usual, _),) = Counter(values.values()).most_common(1)
    most = several([place for place, value in values.items() if value == usual])
    findings = [
        Finding(place, level, f"{prefix}{value or 'none'} where {most} has {usual or 'none'}", advice)
        for place, value in values.items()
        if value != usual
    ]
    return findings, usual or "none"


def exit_code(rows: Sequence[Row]) -> int:
    """Return 1 if a check failed, else 0."""
    return int(any(row.level is Level.FAIL for row in rows))


def layout(rows: Sequence[Row], skipped: Sequence[str]) -> str:
    """Format the table as plain text: one line for each row, followed by its advice.

    Args:
        rows: In the order of their groups.
        skipped: Checks that were not made, with the flag or fact that is missing.
    """
    width = max(len(row.check) for row in rows)
    lines = []
    group = ""
    for row in rows:
        if row.group != group:
            lines.append(row.group)
            group = row.group
        seen = printable(row.seen, MAX_SEEN_LEN)
        lines.append(f"  {row.level:<4}  {row.check:<{width}}  {seen}")
        if row.advice:
            lines.append(f"        {'':<{width}}  -> {row.advice}")
    lines += [f"not checked: {text}" for text in skipped]
    counts = {level: sum(row.level is level for row in rows) for level in Level}
    deviating = sum(row.check == DEVIATION and row.level is Level.WARN for row in rows)
    verdict = f"; no submission run: {deviating} deviations above" if deviating else ""
    lines.append(f"{counts[Level.FAIL]} fail, {counts[Level.WARN]} warn, {counts[Level.OK]} ok{verdict}")
    return "\n".join(lines)


def several(places: Sequence[str]) -> str:
    """Name the first few places and count the others."""
    more = len(places) - MAX_NAMED
    return ", ".join(places[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _together(findings: Sequence[Finding]) -> str:
    """Join the observations of several places; places with the same observation are listed together."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.seen, []).append(finding.place)
    texts = [f"{several(names)}: {seen}" if any(names) else seen for seen, names in places.items()]
    more = len(texts) - MAX_NAMED
    return "; ".join(texts[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")
