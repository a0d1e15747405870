"""The report on graded rows, and how verdicts on programs reach their rows."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

from sut.results.accuracy import answer_reading
from sut.results.accuracy.accuracy_report import AccuracyReport
from sut.results.accuracy.answer_reading import (
    AnswerReader,
    AnswerReading,
    GradedRow,
    Miss,
    ProgramRows,
    ReadAnswer,
)
from sut.results.accuracy.data_sets import Extracted, Family, GroundTruth
from sut.results.accuracy.detokenizer import Detokenizer
from sut.results.accuracy.log_entries import LoggedAnswer
from sut.results.accuracy.reference_data import read_reference
from sut.results.accuracy.score import Score
from sut.results.accuracy.scoring import no_judge
from sut.results.code_grading.program import Program, ProgramOutcome, ProgramVerdict
from tests.sut.accuracy_files import encode, write_reference, write_tokenizer

AIME, GPQA, CODE = "aime25", "gpqa_diamond", "livecodebench_v6"
RIGHT, WRONG = AnswerReading("1", True), AnswerReading("2", False)
NOTHING = AnswerReading(None, False)
UNGRADED = AnswerReading("program", None, "no such question")


def row(
    number: int,
    data_set: str,
    official: AnswerReading,
    second: AnswerReading | None = None,
    difference: str = "",
) -> GradedRow:
    """Make a row of which both readings are the same, unless the second is given."""
    return GradedRow(number, data_set, official, second or official, 9, False, difference)


ROWS = [
    row(0, AIME, RIGHT),
    row(1, GPQA, WRONG, RIGHT, "a reason"),
    row(2, GPQA, NOTHING, WRONG, "the same verdict"),
    row(3, CODE, UNGRADED),
    row(4, GPQA, RIGHT, NOTHING, "another reason"),
]


def report_of(rows: list[GradedRow], target: float = 50.0, harmony: bool = True) -> AccuracyReport:
    """Make a report."""
    return AccuracyReport(
        rows=rows,
        target_percent=target,
        log_sha256="log",
        reference_sha256="data",
        tokenizer_sha256="tokenizer",
        uses_harmony=harmony,
        lcb_tests_sha256="tests",
    )


def counts(correct: int, total: int, repeats: int, ungraded: int = 0) -> dict[str, int]:
    """Make the counts of a data set."""
    return {"correct": correct, "total": total, "repeats": repeats, "ungraded": ungraded}


def test_the_report_in_json_is_complete() -> None:
    """(1/8 + 1/5) / (1/8 + 3/5 + 1/3) = 39 / 127 of the score, and the second opinion's is the same."""
    found = json.loads(report_of(ROWS).to_json(has_score=True))
    assert 3900 / 127 == pytest.approx(found.pop("score_percent"))
    # The second opinion has another right answer of GPQA than the official reading.
    assert 3900 / 127 == pytest.approx(found["second_opinion"].pop("score_percent"))
    per_dataset = {AIME: counts(1, 1, 8), GPQA: counts(1, 3, 5), CODE: counts(0, 1, 3, 1)}
    assert {
        "format": 1,
        "target_percent": 50.0,
        "passed": False,
        "num_samples": 5,
        "per_dataset": per_dataset,
        "second_opinion": {"method": "openai-harmony", "per_dataset": per_dataset},
        "differences": [
            {
                "sample_index": 1,
                "dataset": GPQA,
                "official": {"answer": "2", "correct": False},
                "second": {"answer": "1", "correct": True},
                "difference": "a reason",
            },
            {
                "sample_index": 2,
                "dataset": GPQA,
                "official": {"answer": None, "correct": False},
                "second": {"answer": "2", "correct": False},
                "difference": "the same verdict",
            },
            {
                "sample_index": 4,
                "dataset": GPQA,
                "official": {"answer": "1", "correct": True},
                "second": {"answer": None, "correct": False},
                "difference": "another reason",
            },
        ],
        "misses": {GPQA: {"unparsed": 1, "wrong": 1}, CODE: {"judge failed": 1}},
        "ungraded": [{"sample_index": 3, "dataset": CODE, "reason": "no such question"}],
        "log_sha256": "log",
        "reference_sha256": "data",
        "python_version": platform.python_version(),
        "tokenizer_sha256": "tokenizer",
        "lcb_tests_sha256": "tests",
    } == found
    without = json.loads(report_of(ROWS, harmony=False).to_json(has_score=False))
    assert (None, None) == (without["score_percent"], without["passed"])
    assert "text" == without["second_opinion"]["method"]


def test_the_table_has_a_line_for_whatever_is_in_doubt() -> None:
    """Scores, misses, differing verdicts, ungraded rows; then the verdict and the checker's line."""
    scores = [
        "data set              correct    total  repeats   percent",
        "aime25                      1        1        8    100.00",
        "gpqa_diamond                1        3        5     33.33",
        "livecodebench_v6            0        1        3      0.00",
    ]
    doubts = [
        "missed in gpqa_diamond: 1 unparsed, 1 wrong",
        "missed in livecodebench_v6: 1 judge failed",
        "sample 1 gpqa_diamond: officially 2 (wrong), second opinion 1 (right): a reason",
        "sample 4 gpqa_diamond: officially 1 (right), second opinion nothing (wrong): another reason",
        "1 more samples are read differently with equal verdicts, see accuracy.json",
        "sample 3 livecodebench_v6 is not graded: no such question",
    ]
    report = report_of(ROWS)
    assert [*scores, *doubts] == report.to_table(has_score=False).split("\n")
    end = ["score 30.7087 is below the target 50", "'exact_match': 30.709"]
    assert [*scores, *doubts, *end] == report.to_table(has_score=True).split("\n")
    assert [*scores, end[-1], ""] == report.to_text().split("\n")


@pytest.mark.parametrize(("num", "more"), [(20, ""), (21, "and 1 more"), (25, "and 5 more")])
def test_twenty_rows_of_a_kind_are_listed_and_the_others_counted(num: int, more: str) -> None:
    """Of differing verdicts, and of ungraded rows."""
    differing = report_of([row(at, GPQA, WRONG, RIGHT, "why") for at in range(num)])
    lines = differing.to_table(has_score=False).split("\n")
    assert 20 == sum(line.startswith("sample ") for line in lines)
    assert ([f"{more} such samples, see accuracy.json"] if more else []) == lines[23:]
    ungraded = report_of([row(at, CODE, UNGRADED) for at in range(num)])
    lines = ungraded.to_table(has_score=False).split("\n")
    assert 20 == sum(line.startswith("sample ") for line in lines)
    assert ([f"{more} samples are not graded, see accuracy.json"] if more else []) == lines[23:]


def test_a_score_at_the_target_reaches_it() -> None:
    """1 of 2 rows is right, which is 50 %; without rows there is no score above 0."""
    half = [row(0, GPQA, RIGHT), row(1, GPQA, WRONG)]
    assert "score 50.0000 reaches the target 50" == report_of(half, 50.0).verdict
    assert report_of(half, 50.0).passed
    assert not report_of(half, 50.0001).passed
    assert 0.0 == Score.of([]).percent


def test_data_sets_are_in_the_order_of_their_names_and_ungraded_rows_are_counted() -> None:
    """A data set of another name has one row of each question: the compliance data."""
    score = Score.of([row(0, "gpqa_x", RIGHT), row(1, CODE, UNGRADED), row(2, AIME, WRONG)])
    assert [AIME, "gpqa_x", CODE] == list(score.counts)
    assert (1, 1) == (score.counts["gpqa_x"].repeats, score.num_ungraded)
    # 1 of 1/8 + 1 + 1/3 questions.
    assert 100 / (1 / 8 + 1 + 1 / 3) == pytest.approx(score.percent)


def read(
    number: int,
    official: Extracted,
    second: Extracted,
    truth: GroundTruth = "question",
    family: Family = Family.CODE,
) -> ReadAnswer:
    """Make an answer as it was read."""
    difference = "" if official == second else "why"
    return ReadAnswer(number, family, family, truth, official, second, 9, False, difference)


def test_each_reading_of_a_program_is_run_once() -> None:
    """Equal readings are one program; the second reading's has its row plus the number of rows."""
    rows = ProgramRows(10)
    answers = [
        read(3, "a", "a"),
        read(1, "b", "c"),
        read(2, None, "d"),
        read(0, "e", None),
        read(4, "", ""),
        read(5, "f", "f", truth=""),
        read(6, "g", "g", truth=None),
        read(7, "h", "h", truth=7),
        read(8, "C", "C", truth="C", family=Family.GPQA),
    ]
    expected = [(3, "a"), (1, "b"), (11, "c"), (12, "d"), (0, "e")]
    programs = list(rows.programs(answers))
    assert [Program(number, "question", source) for number, source in expected] == programs
    verdicts = {3: "PASSED", 1: "FAILED", 11: "PASSED", 12: "FAILED", 0: "UNGRADED"}
    for number, outcome in verdicts.items():
        rows.take(ProgramVerdict(number, ProgramOutcome[outcome], f"reason {number}"))
    graded = rows.rows()
    assert list(range(9)) == [one.row for one in graded]
    assert [
        (None, False),
        (False, True),
        (False, False),
        (True, True),
        # No program is run for an empty one or without a question: wrong.
        *[(False, False)] * 4,
        (True, True),
    ] == [(one.official.is_right, one.second.is_right) for one in graded]
    reasons = [(one.official.reason, one.second.reason) for one in graded[:4]]
    assert [
        ("reason 0", ""),
        ("reason 1", "reason 11"),
        ("", "reason 12"),
        ("reason 3", "reason 3"),
    ] == reasons
    assert [Miss.JUDGE_FAILED, Miss.WRONG, Miss.UNPARSED, None] == [one.miss for one in graded[:4]]


def test_a_program_is_shown_by_its_hash_and_its_lines() -> None:
    """SHA-256 of "a" begins with ca978112; a lone surrogate, which a decoder may give, has a hash too."""
    assert "program ca978112 of 1 lines" == read(0, "a", "a").graded().official.shown
    assert "of 3 lines" in str(read(0, "a\nb\n\ud800", None).graded().official.shown)


def test_programs_without_tests_are_not_graded() -> None:
    """Each gets a verdict, so that its row is listed."""
    programs = [Program(7, "question", "a"), Program(3, "question", "b")]
    expected = [(7, ProgramOutcome.UNGRADED), (3, ProgramOutcome.UNGRADED)]
    found = list(no_judge(programs))
    assert expected == [(verdict.row, verdict.outcome) for verdict in found]
    assert {"no file of tests was given"} == {verdict.reason for verdict in found}


def test_each_of_many_answers_is_read_as_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five answers of 20 tokens are decoded two, two and one at a time, if 40 tokens are enough."""
    monkeypatch.setattr(answer_reading, "_BATCH_TOKENS", 40)
    truths = "ABCDA"
    data = write_reference(tmp_path / "acc.parquet", [("gpqa_diamond", truth) for truth in truths])
    tokenizer = Detokenizer(write_tokenizer(tmp_path / "tokenizer"))
    reader = AnswerReader(read_reference(data), tokenizer, None, 200)
    rows = (4, 2, 0, 1, 3)
    # <|channel|>, 5 characters, <|message|>, 1 letter, 11 spaces, <|return|>.
    texts = [f"<|channel|>final<|message|>{truths[row]}{11 * ' '}<|return|>" for row in rows]
    answers = [
        LoggedAnswer(entry, row, np.array(encode(text), np.int32))
        for entry, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]
    assert {20} == {len(answer.token_ids) for answer in answers}
    found = list(reader.read(answers))
    assert [(4, "A"), (2, "C"), (0, "A"), (1, "B"), (3, "D")] == [(one.row, one.official) for one in found]
    assert all(one.graded().official.is_right for one in found)
