"""Scoring a log: hand-made answers get the verdicts of the official evaluator, and the table says why."""

import json
from typing import Any

import pytest

from sut.results.accuracy.__main__ import main
from tests.sut.accuracy_files import ANALYSIS, FINAL, final, write_case

AIME, GPQA, CODE = "aime25", "gpqa_diamond", "livecodebench_v6"
# Data set, ground truth, answer; then the official answer and whether it is right, and the second opinion.
ROWS: dict[str, tuple[tuple[str, str, str], tuple[str | None, bool], tuple[str | None, bool], str]] = {
    "a boxed number": ((AIME, "70", final(r"It is \boxed{70}.")), ("70", True), ("70", True), ""),
    "a labeled number": ((AIME, "070", final("Answer: 70")), ("70", True), ("70", True), ""),
    "a full stop after the number": (
        (AIME, "70", final("Answer: 70.")),
        (None, False),
        ("70", True),
        "the final message states the number in a form that the official evaluator does not read",
    ),
    "a boxed draft": (
        (AIME, "70", final("Answer: 70", draft=r"maybe \boxed{12}")),
        ("12", False),
        ("70", True),
        "a number outside the final message: the official evaluator searches the whole text",
    ),
    "a box of text": (
        (AIME, "70", final(r"\boxed{\text{70}}")),
        (None, False),
        ("70", True),
        r"\boxed{} holds more than digits, which the official evaluator does not read",
    ),
    "a truncated answer": (
        (AIME, "12", ANALYSIS + r"I think \boxed{12}, but wait"),
        ("12", True),
        (None, False),
        "no final message: the official evaluator reads the whole text",
    ),
    "a wrong answer cut at the budget": (
        (AIME, "13", ANALYSIS + r"I think \boxed{12}, but wait"),
        ("12", False),
        (None, False),
        "no final message: the official evaluator reads the whole text",
    ),
    "above 999": ((AIME, "1000", final(r"\boxed{1000}")), (None, False), (None, False), ""),
    "a letter": ((GPQA, "C", final("C")), ("C", True), ("C", True), ""),
    "a bold letter": ((GPQA, "b", final("**Answer: B**")), ("B", True), ("B", True), ""),
    "the article A": (
        (GPQA, "C", final("A careful look shows that the answer is C")),
        ("A", False),
        ("C", True),
        'the final message begins with the word "A", which the official evaluator takes for the letter',
    ),
    "a sentence": (
        (GPQA, "C", final("The answer is C.")),
        (None, False),
        ("C", True),
        "the final message states the letter in a form that the official evaluator does not read",
    ),
    "a boxed letter": (
        (GPQA, "C", final(r"\boxed{C}")),
        (None, False),
        ("C", True),
        "the final message states the letter in a form that the official evaluator does not read",
    ),
    "a label and a boxed letter": (
        (GPQA, "C", final(r"Answer: \boxed{C}")),
        (None, False),
        ("C", True),
        "the final message states the letter in a form that the official evaluator does not read",
    ),
    "two final messages": (
        (GPQA, "B", f"{FINAL}A<|return|>{FINAL}B<|return|>"),
        ("A", False),
        ("B", True),
        "several final messages, or one not ended by <|return|>: the official evaluator reads the first",
    ),
    "characters in the header": (
        (GPQA, "D", "<|channel|>final 537<|message|>D<|return|>"),
        ("D", True),
        ("D", True),
        "",
    ),
    "nothing": ((GPQA, "D", final("I do not know")), (None, False), (None, False), ""),
    "no letter, cut at the budget": (
        (GPQA, "D", ANALYSIS + "It may be so, or it may not."),
        (None, False),
        (None, False),
        "",
    ),
    "no letter, one token below the budget": (
        (GPQA, "D", ANALYSIS + "It may be so, or it may not"),
        (None, False),
        (None, False),
        "",
    ),
    "an empty answer": ((GPQA, "D", ""), (None, False), (None, False), ""),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Score all rows once."""
    directory = tmp_path_factory.mktemp("rows")
    flags = write_case(directory, [row for row, *_ in ROWS.values()])
    # A byte a token: "<|channel|>", "analysis", "<|message|>" and 28 characters are 1 + 8 + 1 + 28 tokens.
    assert main([*flags, "--max-new-tokens=38"]) == 3
    found: dict[str, Any] = json.loads((directory / "accuracy.json").read_text())
    return found | {"text": (directory / "accuracy.txt").read_text()}


@pytest.mark.parametrize("name", ROWS)
def test_both_readings_of_a_row(report: dict[str, Any], name: str) -> None:
    """Rows that are read differently are listed with both answers, both verdicts and the reason."""
    number = list(ROWS).index(name)
    (data_set, _, _), official, second, difference = ROWS[name]
    found = [row for row in report["differences"] if row["sample_index"] == number]
    if not difference:
        assert found == []
        return
    assert found == [
        {
            "sample_index": number,
            "dataset": data_set,
            "official": {"answer": official[0], "correct": official[1]},
            "second": {"answer": second[0], "correct": second[1]},
            "difference": difference,
        }
    ]


def test_the_score_weighs_data_sets_by_their_repeats(report: dict[str, Any]) -> None:
    """3 of 8 AIME rows and 3 of 12 GPQA rows are right: (3/8 + 3/5) / (8/8 + 12/5) = 0.975 / 3.4."""
    assert report["per_dataset"] == {
        AIME: {"correct": 3, "total": 8, "repeats": 8, "ungraded": 0},
        GPQA: {"correct": 3, "total": 12, "repeats": 5, "ungraded": 0},
    }
    # 0.975 / 3.4 = 39 / 136.
    assert report["score_percent"] == pytest.approx(3900 / 136)
    assert report["text"].endswith("\n'exact_match': 28.676\n")
    assert (report["passed"], report["target_percent"]) == (False, 82.2987)
    # Right by the second opinion: 5 of AIME's, all but the two truncated and the one above 999; 8 of GPQA's.
    second = report["second_opinion"]
    assert second["score_percent"] == pytest.approx((5 / 8 + 8 / 5) / 3.4 * 100)
    assert second["method"] == "text"


def test_misses_have_a_reason(report: dict[str, Any]) -> None:
    """A miss is unparsed, wrong, or truncated: as long as the budget and not ended by a stop id.

    The truncated answer that is right is no miss; the longer ones that <|return|> ends are not truncated.
    """
    assert report["misses"] == {
        AIME: {"truncated": 1, "unparsed": 3, "wrong": 1},
        GPQA: {"truncated": 1, "unparsed": 6, "wrong": 2},
    }
