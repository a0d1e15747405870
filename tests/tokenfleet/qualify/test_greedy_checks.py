"""Greedy answers against vLLM's own, and against those of another engine."""

import json
from pathlib import Path

import pytest

from common.flags import FlagError
from tests.tokenfleet.qualify.greedy_files import reference_of
from tokenfleet.qualify.greedy_answers import FirstDifference, first_differences, read_greedy_reference
from tokenfleet.qualify.greedy_checks import (
    GreedyRun,
    check_greedy_answers,
    check_greedy_baseline,
    check_reference_engine,
)
from tokenfleet.qualify.harness_run import HarnessRun
from tokenfleet.qualify.qualification import Assessment

PROMPTS = [[1], [2], [3]]
ANSWERS = [[10, 20, 30], [40, 50], [60]]
COMPLETE = HarnessRun(Path("run"), "", is_complete=True)


def run_of(*answers: list[int]) -> GreedyRun:
    """Make a complete run with these answers."""
    return GreedyRun(COMPLETE, list(answers))


def test_a_first_difference_is_the_first_unequal_token_or_the_end() -> None:
    """Equal answers have none; an answer that ends early differs at its end."""
    others = [[10, 20, 30], [40, 51], []]
    assert [FirstDifference(1, 1, 51), FirstDifference(2, 0, None)] == first_differences(ANSWERS, others)


def test_equal_answers_pass() -> None:
    """Every token equals the reference's."""
    result = check_greedy_answers(reference_of(PROMPTS, ANSWERS), run_of(*ANSWERS), same_engine=True)
    assert (Assessment.PASS, "3 of 3 equal to LLM.generate's") == (result.assessment, result.seen)


@pytest.mark.parametrize("alike", [[[7, 7, 7]] * 3, [[7, 7, 7], [7], [7, 7]], [[]] * 3])
def test_answers_that_are_all_alike_show_nothing(alike: list[list[int]]) -> None:
    """An engine that answers every prompt alike, as with random weights, would hide mixed-up prompts."""
    result = check_greedy_answers(reference_of(PROMPTS, alike), run_of(*alike), same_engine=True)
    assert Assessment.UNKNOWN is result.assessment
    assert "3 of 3 equal to LLM.generate's, but all answers are alike" in result.seen
    assert Assessment.UNKNOWN is check_greedy_baseline(alike, alike, []).assessment
    # A difference is one all the same.
    wrong = run_of([8], *alike[1:])
    assert (
        Assessment.FAIL
        is check_greedy_answers(reference_of(PROMPTS, alike), wrong, same_engine=True).assessment
    )


@pytest.mark.parametrize(
    "margin, other, assessment",
    [
        # The runner-up at a small difference of log probabilities.
        (0.5, 21, Assessment.PASS),
        (0.51, 21, Assessment.FAIL),
        # Neither the token nor the runner-up.
        (0.1, 22, Assessment.FAIL),
    ],
)
def test_only_a_near_tie_may_differ(margin: float, other: int, assessment: Assessment) -> None:
    """A first difference is accepted if the harness has the runner-up and both were almost as probable."""
    reference = reference_of(PROMPTS, ANSWERS, margin=margin)
    result = check_greedy_answers(reference, run_of([10, other, 99, 99], *ANSWERS[1:]), same_engine=True)
    assert assessment is result.assessment
    assert result.seen.startswith("2 of 3 equal to LLM.generate's")


def test_an_answer_that_ends_early_fails_and_is_named() -> None:
    """No runner-up explains a missing token."""
    reference = reference_of(PROMPTS, ANSWERS, margin=0.0)
    result = check_greedy_answers(reference, run_of([10, 20], *ANSWERS[1:]), same_engine=True)
    assert Assessment.FAIL is result.assessment
    assert result.seen.endswith("1 differ otherwise, the earliest at token 2 of prompt 0")


def test_a_run_that_failed_fails_the_check() -> None:
    """The row gives the run's own reason."""
    run = GreedyRun(HarnessRun(Path("run"), "exit code 1: no worker", is_complete=False), [])
    result = check_greedy_answers(reference_of(PROMPTS, ANSWERS), run, same_engine=True)
    assert (Assessment.FAIL, "exit code 1: no worker") == (result.assessment, result.seen)


def test_the_effect_of_another_engine_is_where_answers_differ_first() -> None:
    """Positions 1 and 0 are named with their median and with what differs between the engines.

    Of 6 tokens 1, 0 and 1 come before a first difference: a third.
    """
    answers = [[10, 21, 30], [41, 50], [60]]
    result = check_greedy_baseline(ANSWERS, answers, ['kv_cache_dtype "auto" -> "fp8"'])
    assert (
        'kv_cache_dtype "auto" -> "fp8": 1 of 3 equal, the others differ first at token 0 to 1, median 0.5; '
        "33.3% of the tokens come before a first difference" == result.seen
    )


def test_the_engine_of_the_reference_is_compared_with_every_worker() -> None:
    """Another model, version or setting that decides answers is named with both values."""
    engine = {"engine": "vllm", "model_hash": "ab", "engine_facts": {"dtype": "a", "seed": "0"}}
    other = {"engine": "vllm", "model_hash": "ab", "engine_facts": {"dtype": "b", "seed": "0"}}
    reference = reference_of(PROMPTS, ANSWERS, engine=engine)
    same = check_reference_engine(reference, {"a:1": dict(engine, pid=7)}, may_differ=False)
    workers = {"a:1": engine, "b:2": other}
    different = check_reference_engine(reference, workers, may_differ=False)
    assert Assessment.PASS is same.assessment
    assert (Assessment.FAIL, "b:2 differs: dtype a -> b") == (different.assessment, different.seen)
    assert Assessment.UNKNOWN is check_reference_engine(reference, workers, may_differ=True).assessment


def test_other_answers_of_another_engine_are_no_error() -> None:
    """A reference of another engine decides nothing."""
    run = run_of([10, 99], *ANSWERS[1:])
    result = check_greedy_answers(reference_of(PROMPTS, ANSWERS), run, same_engine=False)
    assert Assessment.UNKNOWN is result.assessment


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field comes back."""
    path, reference = tmp_path / "greedy.json", reference_of(PROMPTS, ANSWERS)
    reference.write(path)
    assert reference == read_greedy_reference(path)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"format": 2}, "format is 2, not 1"),
        ({"answers": [["x"], [1], [1]]}, "answers is not a list of lists of numbers"),
        ({"margins": 1}, "margins is not a list of lists of numbers"),
        ({"answers": [[1], [1], []]}, "a prompt or an answer is empty"),
        ({"answers": [[1], [1], [1]]}, "the lists have different lengths"),
        ({"max_new_tokens": "6"}, "engine or max_new_tokens is of another type"),
        ({"more": 1}, ""),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, changed: dict[str, object], line: str) -> None:
    """The line names flag, file and entry."""
    path = tmp_path / "greedy.json"
    reference_of(PROMPTS, ANSWERS).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(FlagError) as refused:
        read_greedy_reference(path)
    start = f"--reference {path}: was not written by `tokenfleet qualify reference`: {line}"
    assert str(refused.value).startswith(start)
