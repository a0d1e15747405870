"""Says which checks of the verdict failed or warned in some of the compared runs only."""

from collections.abc import Sequence

from common.json_document import as_mappings, entry
from common.text import printable
from sut.results.comparison.compared_runs import MAX_TEXT_LEN, ComparedRun, Side


def checks_notes(sides: Sequence[Side]) -> list[str]:
    """Return a note for each check that failed or warned in some runs and not in all of them.

    What such a check saw, for example the loss of a worker, may be the difference between the sides.
    """
    seen = [[_noticed(run) for run in side.runs] for side in sides]
    every = [noticed for runs in seen for noticed in runs]
    notes = []
    for name in sorted({name for noticed in every for name in noticed}):
        if all(name in noticed for noticed in every):
            continue
        counts = (
            f"{sum(name in noticed for noticed in runs)} of {len(runs)} runs of {side.name}"
            for side, runs in zip(sides, seen, strict=True)
        )
        notes.append(f"The check {name} failed or warned in {', '.join(counts)}.")
    return notes


def _noticed(run: ComparedRun) -> set[str]:
    """Return the names of the checks that failed or warned."""
    checks = as_mappings(entry(run.record, "verdict", "checks"))
    noticed = [check for check in checks if check.get("passed") is not True or check.get("warning") is True]
    return {printable(str(check.get("name")), MAX_TEXT_LEN) for check in noticed}
