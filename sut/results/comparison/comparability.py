"""Says in which respects the sides of a comparison are not alike, beside what is compared."""

import json
from collections.abc import Sequence

from common.json_document import as_mappings, as_text, entry, value_or_text
from common.text import printable
from sut.results.comparison.compared_figures import shown_figures
from sut.results.comparison.compared_runs import MAX_TEXT_LEN, ComparedRun, Side
from sut.results.recorded_workers import engine_infos_of

NOT_RANDOM = "no random weights"
ENGINES_OWN = "the engine's own random weights"
_WORK = ("dataset.sha256", "generation")
"""Places in run.json of what was answered, and how."""
_TARGET_QPS = ("loadgen_bounds", "result_completed_samples_per_sec", "value")
"""Place in run.json of the rate of a schedule; Offline has none."""


def comparability_notes(sides: Sequence[Side]) -> list[str]:
    """List what the runs differ in so that a difference of figures may not be that of the engines."""
    return [
        *_weights_notes(sides),
        *_work_notes(sides),
        *_schedule_notes(sides),
        *_missing_notes(sides),
        *_checks_notes(sides),
    ]


def _weights_notes(sides: Sequence[Side]) -> list[str]:
    """Return a note if the weights of the runs differ in more than their values; else none."""
    kinds = [sorted({kind for run in side.runs for kind in _kinds_of_weights(run)}) for side in sides]
    if len({kind for found in kinds for kind in found}) < 2:
        return []
    listed = "; ".join(
        f"{side.name} has {', '.join(found)}" for side, found in zip(sides, kinds, strict=True)
    )
    return [
        f"The weights are not of one kind: {listed}. The figures must not be compared: the weights decide "
        "how many experts a step reads."
    ]


def _kinds_of_weights(run: ComparedRun) -> set[str]:
    """Return the kinds of weights of all workers."""
    infos = engine_infos_of(run.record)
    return {_kind_of_weights(entry(info, "engine_facts", "random_weights")) for info in infos}


def _kind_of_weights(fact: object) -> str:
    if not isinstance(fact, str):
        return NOT_RANDOM
    method = as_text(entry(value_or_text(fact), "method"))
    return f"random weights {printable(method, MAX_TEXT_LEN)}" if method else ENGINES_OWN


def _work_notes(sides: Sequence[Side]) -> list[str]:
    """Return a note if the runs had other prompts, sampling or budgets; else none."""
    runs = [run for side in sides for run in side.runs]
    names = [
        name
        for name in _WORK
        if len({json.dumps(entry(run.record, *name.split(".")), sort_keys=True) for run in runs}) > 1
    ]
    if not names:
        return []
    return [
        f"The runs are not of the same work: {' and '.join(names)} differ. The figures follow the prompts "
        "and the lengths of the answers: their differences are not those of the engines alone."
    ]


def _schedule_notes(sides: Sequence[Side]) -> list[str]:
    """Return a note if LoadGen's schedules had different rates; else none."""
    rates = [
        sorted({rate for run in side.runs if (rate := run.number(*_TARGET_QPS)) is not None})
        for side in sides
    ]
    if len({rate for found in rates for rate in found}) < 2:
        return []
    listed = "; ".join(
        f"{side.name} had {', '.join(f'{rate:g}' for rate in found) or 'none'}"
        for side, found in zip(sides, rates, strict=True)
    )
    return [
        f"LoadGen's schedules had different rates, in queries/s: {listed}. tokens/s and samples/s follow the "
        "schedule, and latencies grow with it: these differences are not those of the engines alone."
    ]


def _missing_notes(sides: Sequence[Side]) -> list[str]:
    """Return a note for each figure that is left out because only some runs have it."""
    notes = []
    for figure in shown_figures():
        counts = [sum(figure.read(run) is not None for run in side.runs) for side in sides]
        nums = [len(side.runs) for side in sides]
        if any(counts) and counts != nums:
            listed = ", ".join(
                f"{count} of {num} runs of {side.name}"
                for count, num, side in zip(counts, nums, sides, strict=True)
            )
            notes.append(f"{figure.name} is left out: only {listed} have it.")
    return notes


def _checks_notes(sides: Sequence[Side]) -> list[str]:
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
