"""Checks of greedy answers through the harness: against vLLM's own, and against those of another engine."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.json_document import as_mapping
from tokenfleet.qualify.greedy_answers import (
    GreedyReference,
    equal_share,
    errors_among,
    first_differences,
)
from tokenfleet.qualify.harness_run import HarnessRun, read_answers, run_harness, write_prompts
from tokenfleet.qualify.qualification import Assessment, CheckResult

GREEDY_CHECK = "greedy answers"
_HINT = "compare sampling, stop ids and engine arguments of the worker with those of the reference"
_ALIKE_HINT = "random weights answer every prompt alike: load real ones, or other prompts"
_IDENTITY = ("engine", "engine_version", "model_hash")


class GreedyRun(NamedTuple):
    """Greedy answers through the harness."""

    run: HarnessRun
    answers: list[list[int]]
    """Empty if the run is not complete."""


def run_greedily(directory: Path, reference: GreedyReference, argv: Sequence[str]) -> GreedyRun:
    """Answer the reference's prompts through the harness.

    Args:
        directory: Directory of the qualification.
        reference: Prompts and longest answer.
        argv: The coordinator's flags for workers and credentials.

    Raises:
        Interrupted: A signal arrived.
    """
    data, sampling = directory / "greedy.parquet", directory / "greedy.json"
    write_prompts(data, reference.prompts, {})
    sampling.write_text(json.dumps({"temperature": 0.0}) + "\n", encoding="utf-8")
    flags = ["--ungraded", f"--generation-config={sampling}", f"--max-new-tokens={reference.max_new_tokens}"]
    run = run_harness(directory / "greedy", data, [*flags, *argv])
    return GreedyRun(run, read_answers(run, len(reference.prompts)) if run.is_complete else [])


def check_greedy_answers(reference: GreedyReference, greedy: GreedyRun, *, same_engine: bool) -> CheckResult:
    """Compare the answers with the reference's, token by token.

    Args:
        reference: Answers of vLLM's LLM class.
        greedy: Answers through the harness.
        same_engine: Whether the reference is of the workers' engine; otherwise answers may differ.
    """
    if not greedy.answers:
        return CheckResult(GREEDY_CHECK, Assessment.FAIL, greedy.run.failure)
    differences = first_differences(reference.answers, greedy.answers)
    errors = errors_among(reference, differences)
    num_prompts = len(reference.prompts)
    seen = f"{num_prompts - len(differences)} of {num_prompts} equal to LLM.generate's"
    if differences:
        seen += f", {len(differences) - len(errors)} differ first at a near tie"
    if not errors and all_alike(reference.answers):
        seen += ", but all answers are alike: they would not show a wrong one"
        return CheckResult(GREEDY_CHECK, Assessment.UNKNOWN, seen, _ALIKE_HINT)
    if not errors:
        return CheckResult(GREEDY_CHECK, Assessment.PASS, seen)
    first = min(errors, key=lambda found: found.position)
    place = f"token {first.position} of prompt {first.prompt}"
    seen += f", {len(errors)} differ otherwise, the earliest at {place}"
    if not same_engine:
        return CheckResult(GREEDY_CHECK, Assessment.UNKNOWN, f"{seen}; the reference is of another engine")
    return CheckResult(GREEDY_CHECK, Assessment.FAIL, seen, _HINT)


def all_alike(answers: Sequence[Sequence[int]]) -> bool:
    """Whether the answers depend on no prompt: all are equal, as far as the shortest goes."""
    shortest = min(map(len, answers), default=0)
    return len(answers) > 1 and len({tuple(answer[:shortest]) for answer in answers}) == 1


def check_reference_engine(
    reference: GreedyReference, workers: Mapping[str, Mapping[str, object]], *, may_differ: bool
) -> CheckResult:
    """Compare the engine of the reference with each worker's, as GetInfo describes it.

    Args:
        reference: Answers of vLLM's LLM class.
        workers: Answers to GetInfo by address.
        may_differ: A difference is no failure, because two engines are compared.
    """
    check = "engine of the reference"
    for address, worker in workers.items():
        if differing := engine_differences(reference.engine, worker):
            seen = f"{address} differs: {'; '.join(differing)}"
            assessment = Assessment.UNKNOWN if may_differ else Assessment.FAIL
            return CheckResult(check, assessment, seen, "write a reference with the worker's flags")
    return CheckResult(check, Assessment.PASS, f"same engine, model and settings as {len(workers)} workers")


def engine_differences(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """List what decides an answer and differs between two engines: name, first and second value."""
    return entry_differences(_facts_of(one), _facts_of(other))


def entry_differences(first: object, second: object) -> list[str]:
    """List the entries of two JSON objects that differ: name, first and second value."""
    before, after = as_mapping(first), as_mapping(second)
    return [
        f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _facts_of(engine: Mapping[str, object]) -> dict[str, object]:
    own = {name: engine.get(name) or "" for name in _IDENTITY}
    return own | dict(as_mapping(engine.get("engine_facts")))


def check_greedy_baseline(
    baseline: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], changes: Sequence[str]
) -> CheckResult:
    """Compare the answers with those of an earlier qualification, e.g. with another KV cache data type.

    Args:
        baseline: The earlier answers.
        answers: The answers to the same prompts.
        changes: What differs between the engines.
    """
    check = "greedy answers, effect"
    changed = f"{', '.join(changes) or 'equal engines'}: "
    differences = first_differences(baseline, answers)
    if not differences and all_alike(answers):
        seen = f"{changed}{len(answers)} of {len(answers)} equal, but all answers are alike"
        return CheckResult(check, Assessment.UNKNOWN, seen, _ALIKE_HINT)
    if not differences:
        return CheckResult(check, Assessment.PASS, f"{changed}{len(answers)} of {len(answers)} equal")
    positions = sorted(found.position for found in differences)
    seen = (
        f"{changed}{len(answers) - len(differences)} of {len(answers)} equal, the others differ first at "
        f"token {positions[0]} to {positions[-1]}, median {statistics.median(positions):g}; "
        f"{equal_share(baseline, differences):.1%} of the tokens come before a first difference"
    )
    return CheckResult(check, Assessment.UNKNOWN, seen, "the graded rows tell whether the answers are worse")
