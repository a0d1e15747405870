"""Compares which weights the engines of the sides had: trained ones, or how random ones were made."""

from collections.abc import Sequence

from common.json_document import as_text, entry, value_or_text
from common.text import printable
from sut.results.comparison.compared_runs import MAX_TEXT_LEN, ComparedRun, Side
from sut.results.recorded_workers import engine_infos_of

NOT_RANDOM = "no random weights"
ENGINES_OWN = "the engine's own random weights"


def weights_notes(sides: Sequence[Side]) -> list[str]:
    """Return a note if the weights of the runs differ in more than their values; else none."""
    kinds = [sorted({kind for run in side.runs for kind in _kinds(run)}) for side in sides]
    if len({kind for found in kinds for kind in found}) < 2:
        return []
    listed = "; ".join(
        f"{side.name} has {', '.join(found)}" for side, found in zip(sides, kinds, strict=True)
    )
    return [
        f"The weights are not of one kind: {listed}. The figures must not be compared: the weights decide "
        "how many experts a step reads."
    ]


def _kinds(run: ComparedRun) -> set[str]:
    """Return the kinds of weights of all workers."""
    infos = engine_infos_of(run.record)
    return {_kind(entry(info, "engine_facts", "random_weights")) for info in infos}


def _kind(fact: object) -> str:
    if not isinstance(fact, str):
        return NOT_RANDOM
    method = as_text(entry(value_or_text(fact), "method"))
    return f"random weights {printable(method, MAX_TEXT_LEN)}" if method else ENGINES_OWN
