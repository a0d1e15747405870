"""Accuracy rows that are answered and graded to project the official score."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from common.named_refusals import naming_flags
from sut import dataset
from sut.benchmark import BENCHMARK
from sut.results.accuracy.accuracy_inputs import read_inputs
from sut.results.accuracy.config import AccuracyConfig
from sut.results.accuracy.reference_data import ReferenceDataError, read_reference
from tokenfleet.qualify.harness_run import HarnessRun, run_harness, write_prompts
from tokenfleet.qualify.qualification import Assessment, CheckResult
from tokenfleet.qualify.score_interval import (
    CONFIDENCE,
    Stratum,
    divide_sample,
    project_score,
    wilson_interval,
    worse_by_chance,
)

ACCURACY_FLAG = "--accuracy-file"
SCORE_CHECK = "projected score"
MIN_ROWS = 5
"""Rows of the smallest data set."""
SIGNIFICANT = 0.05
_SEED = 18
_GRADE_ALL = "give --lcb-tests and all of the accuracy data"
_COMPARE = "compare weights, sampling and reasoning effort with the reference's"
_CODE = "livecodebench"


class GradingFiles(NamedTuple):
    """What grading needs."""

    accuracy_file: Path
    """The accuracy data."""
    tokenizer: Path
    lcb_tests: Path | None
    """Tests of the programs; None: rows of that data set are not drawn."""


class SampledRows(NamedTuple):
    """Rows of the accuracy data, each of another question."""

    rows: list[int]
    """Row numbers in the accuracy data, ascending."""
    prompts: list[list[int]]
    columns: dict[str, Sequence[object]]
    """The columns by which the answers are graded."""
    source_sha256: str
    """Hash of the accuracy data."""


class GradedRows(NamedTuple):
    """The official verdict on each sampled row."""

    run: HarnessRun
    rows: list[int]
    """Row numbers in the accuracy data."""
    data_sets: list[str]
    right: list[bool | None]
    """None: not graded."""
    ungraded_reason: str
    """Why the first row without a verdict has none; empty if every row has one."""
    graded_with: Mapping[str, object] = {}
    """Longest answer, tokenizer and tests, by name."""


def score_weights() -> dict[str, float]:
    """Return the share of each data set in the official score: its questions among all."""
    questions = {
        name: rows / BENCHMARK.accuracy_repeats[name] for name, rows in BENCHMARK.accuracy_rows.items()
    }
    return {name: number / sum(questions.values()) for name, number in questions.items()}


def sample_rows(files: GradingFiles, num_rows: int) -> SampledRows:
    """Draw rows, at most one of each question, in proportion to the weights of the data sets.

    The draw is the same in every call, so that two qualifications grade the same rows.

    Args:
        files: The accuracy data.
        num_rows: Rows to draw.

    Raises:
        FlagError: The accuracy data cannot be used.
    """
    with naming_flags({dataset.FLAG: ACCURACY_FLAG}):
        data = dataset.load(files.accuracy_file)
    try:
        reference = read_reference(files.accuracy_file)
    except ReferenceDataError as error:
        raise FlagError(ACCURACY_FLAG, str(error), files.accuracy_file) from error
    wanted = divide_sample(num_rows, _drawn_weights(reference.names, files), MIN_ROWS)
    questions = [data.prompt(row).tobytes() for row in range(data.num_samples)]
    rows = sorted(row for name in wanted for row in _draw(reference.names, questions, name, wanted[name]))
    return SampledRows(
        rows,
        [data.prompt(row).tolist() for row in rows],
        {
            "dataset": [reference.names[row] for row in rows],
            "ground_truth": [reference.truths[row] for row in rows],
        },
        data.sha256,
    )


def _drawn_weights(names: Sequence[str], files: GradingFiles) -> dict[str, float]:
    weights = score_weights()
    if strangers := sorted(set(names) - weights.keys()):
        reason = f"{strangers[0]!r} is none of the data sets {', '.join(weights)}"
        raise FlagError(ACCURACY_FLAG, reason, files.accuracy_file)
    drawn = {
        name: weight
        for name, weight in weights.items()
        if name in names and not (name.startswith(_CODE) and files.lcb_tests is None)
    }
    if not drawn:
        raise FlagError("--lcb-tests", f"missing: {files.accuracy_file} has no other rows")
    return drawn


def _draw(names: Sequence[str], questions: Sequence[bytes], name: str, number: int) -> list[int]:
    """Draw rows of one data set; fewer if it has fewer questions."""
    rows = [row for row, own in enumerate(names) if own == name]
    random.Random(_SEED).shuffle(rows)
    # Later rows of a question replace earlier ones.
    return list({questions[row]: row for row in rows}.values())[:number]


def grade_rows(directory: Path, sample: SampledRows, files: GradingFiles, argv: Sequence[str]) -> GradedRows:
    """Answer the rows as an accuracy run does, and grade them officially.

    Args:
        directory: Directory of the qualification.
        sample: The rows.
        files: Tokenizer and tests.
        argv: The coordinator's flags for workers and credentials.

    Raises:
        ValueError: Tokenizer or tests cannot be used.
        Interrupted: A signal arrived.
    """
    data = directory / "graded.parquet"
    write_prompts(data, sample.prompts, sample.columns)
    run = run_harness(directory / "graded", data, argv)
    if not run.is_complete:
        return GradedRows(run, sample.rows, [], [], "")
    config = AccuracyConfig(
        mlperf_log=run.log,
        reference_data=data,
        tokenizer=files.tokenizer,
        lcb_tests=files.lcb_tests,
        allow_ungraded=True,
    )
    scorer = read_inputs(config)
    report = scorer.score()
    graded = sorted(report.rows, key=lambda row: row.row)
    return GradedRows(
        run=run,
        rows=sample.rows,
        data_sets=[row.data_set for row in graded],
        right=[row.official.is_right for row in graded],
        ungraded_reason=next((row.official.reason for row in graded if row.official.is_right is None), ""),
        graded_with={
            "max_new_tokens": scorer.max_new_tokens,
            "tokenizer_sha256": report.tokenizer_sha256,
            "lcb_tests_sha256": report.lcb_tests_sha256,
        },
    )


def check_score(graded: GradedRows) -> CheckResult:
    """Project the official score and compare its interval with the target."""
    if not graded.right:
        return CheckResult(SCORE_CHECK, Assessment.FAIL, graded.run.failure)
    weights = score_weights()
    strata = {name: stratum for name in weights if (stratum := _stratum(graded, name, weights[name]))}
    each = "; ".join(f"{name} {one.num_correct} of {one.num_graded}" for name, one in strata.items())
    if ungraded := graded.right.count(None):
        each += f"; {ungraded} rows are not graded: {graded.ungraded_reason}"
    if graded.run.failure:
        return CheckResult(SCORE_CHECK, Assessment.FAIL, f"{graded.run.failure}; {each}")
    if missing := [name for name in weights if name not in strata]:
        seen = "; ".join([each, *_intervals(strata), f"without {', '.join(missing)}"])
        return CheckResult(SCORE_CHECK, Assessment.UNKNOWN, seen, _GRADE_ALL)
    score, target = project_score(list(strata.values())), BENCHMARK.accuracy_target_percent
    interval = f"{CONFIDENCE:.0%} interval {score.low:.1%} to {score.high:.1%}"
    seen = f"{score.estimate:.1%}, {interval}, target {target} %; {each}"
    return _compare_with_target(graded, strata, seen)


def _compare_with_target(graded: GradedRows, strata: Mapping[str, Stratum], seen: str) -> CheckResult:
    """Decide by the interval; ungraded rows are wrong in the official score, and may all be right."""
    lowest, highest = (
        project_score([_with_ungraded(graded, name, one, is_right) for name, one in strata.items()])
        for is_right in (False, True)
    )
    target = BENCHMARK.accuracy_target_percent
    if highest.high * 100 < target:
        return CheckResult(SCORE_CHECK, Assessment.FAIL, seen, _COMPARE)
    reached = lowest.low * 100 >= target
    return CheckResult(SCORE_CHECK, Assessment.PASS if reached else Assessment.UNKNOWN, seen)


def _intervals(strata: Mapping[str, Stratum]) -> list[str]:
    found = {name: wilson_interval(one.num_correct, one.num_graded) for name, one in strata.items()}
    return [f"{name} {one.low:.1%} to {one.high:.1%}" for name, one in found.items()]


def _stratum(graded: GradedRows, name: str, weight: float) -> Stratum | None:
    own = [
        right
        for data_set, right in zip(graded.data_sets, graded.right, strict=True)
        if data_set == name and right is not None
    ]
    return Stratum(weight, sum(own), len(own)) if own else None


def _with_ungraded(graded: GradedRows, name: str, stratum: Stratum, is_right: bool) -> Stratum:
    """Count a data set's ungraded rows as right or as wrong."""
    num = sum(
        right is None and data_set == name
        for data_set, right in zip(graded.data_sets, graded.right, strict=True)
    )
    correct = stratum.num_correct + (num if is_right else 0)
    return stratum._replace(num_correct=correct, num_graded=stratum.num_graded + num)


def check_graded_baseline(
    baseline: Sequence[bool | None], right: Sequence[bool | None], changes: Sequence[str]
) -> CheckResult:
    """Compare the verdicts on the same rows with those of an earlier qualification.

    Args:
        baseline: The earlier verdicts.
        right: The verdicts on the same rows.
        changes: What differs between the engines.
    """
    pairs = [pair for pair in zip(baseline, right, strict=True) if None not in pair]
    lost, gained = pairs.count((True, False)), pairs.count((False, True))
    chance = worse_by_chance(lost, gained)
    seen = (
        f"{', '.join(changes) or 'equal engines'}: of {len(pairs)} rows {lost} right before are wrong, "
        f"{gained} wrong before are right; by chance with probability {chance:.2f}"
    )
    if chance < SIGNIFICANT:
        return CheckResult("graded rows, effect", Assessment.FAIL, seen, "the changed setting costs accuracy")
    shows_none = pairs and not lost
    return CheckResult("graded rows, effect", Assessment.PASS if shows_none else Assessment.UNKNOWN, seen)
