"""The accuracy rows that are graded, and what follows from their verdicts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.flags import FlagError
from tokenfleet.qualify.graded_rows import (
    GradedRows,
    GradingFiles,
    check_graded_baseline,
    check_score,
    sample_rows,
)
from tokenfleet.qualify.harness_run import HarnessRun
from tokenfleet.qualify.qualification import Assessment

AIME, GPQA, CODE = "aime25", "gpqa_diamond", "livecodebench_v6"
COMPLETE = HarnessRun(Path("run"), "", is_complete=True)


def write_accuracy_data(path: Path, questions: dict[str, int], repeats: int = 3) -> Path:
    """Write data with several rows of each question, one after another, as a data set's rows."""
    rows = [(name, question) for name, num in questions.items() for question in range(num)] * repeats
    columns = {
        "tok_input": pa.array([[len(name), question + 1] for name, question in rows], pa.list_(pa.int32())),
        "dataset": [name for name, _ in rows],
        "ground_truth": [str(question) for _, question in rows],
    }
    pq.write_table(pa.table(columns), path)
    return path


def graded(**right: list[bool | None]) -> GradedRows:
    """Make verdicts by data set."""
    pairs = [(name, verdict) for name, verdicts in right.items() for verdict in verdicts]
    rows = list(range(len(pairs)))
    return GradedRows(
        COMPLETE, rows, [name for name, _ in pairs], [verdict for _, verdict in pairs], "the sandbox failed"
    )


def test_each_row_is_of_another_question_and_the_draw_is_repeatable(tmp_path: Path) -> None:
    """Of 100 rows 5 are AIME, 15 GPQA and 80 LiveCodeBench, no question twice, the same in each call."""
    data = write_accuracy_data(tmp_path / "acc.parquet", {AIME: 30, GPQA: 40, CODE: 90})
    files = GradingFiles(data, tmp_path, tmp_path / "tests")
    sample = sample_rows(files, 100)
    again = sample_rows(files, 100)
    names, truths = sample.columns["dataset"], sample.columns["ground_truth"]

    assert sample.rows == again.rows == sorted(set(sample.rows))
    assert {AIME: 5, GPQA: 15, CODE: 80} == {name: names.count(name) for name in (AIME, GPQA, CODE)}
    assert 100 == len({tuple(prompt) for prompt in sample.prompts})
    # Row i of the sample is the row of that number in the data.
    whole = pq.read_table(data).to_pylist()
    found = [tuple(whole[row].values()) for row in sample.rows]
    assert found == list(zip(sample.prompts, names, truths, strict=True))


def test_rows_whose_programs_cannot_run_are_not_drawn(tmp_path: Path) -> None:
    """Without a file of tests the rows are those of the other data sets."""
    data = write_accuracy_data(tmp_path / "acc.parquet", {AIME: 30, GPQA: 200, CODE: 90})
    sample = sample_rows(GradingFiles(data, tmp_path, None), 100)
    names = sample.columns["dataset"]
    assert {AIME: 13, GPQA: 87} == {name: names.count(name) for name in set(names)}


@pytest.mark.parametrize(
    "questions, line",
    [
        ({"math": 3}, "--accuracy-file {data}: 'math' in the column dataset is none of"),
        ({CODE: 3}, "--lcb-tests: missing: {data} has no other rows"),
    ],
)
def test_data_of_which_nothing_can_be_graded_is_refused(
    tmp_path: Path, questions: dict[str, int], line: str
) -> None:
    """The line names flag, file and data set."""
    data = write_accuracy_data(tmp_path / "acc.parquet", questions)
    with pytest.raises(FlagError) as refused:
        sample_rows(GradingFiles(data, tmp_path, None), 100)
    assert str(refused.value).startswith(line.format(data=data))


def test_data_that_cannot_be_read_is_named_by_the_flag_of_the_command(tmp_path: Path) -> None:
    """The line names --accuracy-file, not the flag of a run."""
    with pytest.raises(FlagError, match=f"^--accuracy-file {tmp_path}/no: cannot be read: No such file"):
        sample_rows(GradingFiles(tmp_path / "no", tmp_path, None), 100)


def test_a_score_far_below_the_target_fails() -> None:
    """60 of 100 right: the interval of 95 % ends below 82.2987 %."""
    rows = graded(aime25=[True] * 3 + [False] * 2, gpqa_diamond=[True] * 9 + [False] * 6)
    result = check_score(
        rows._replace(
            data_sets=[*rows.data_sets, *[CODE] * 80], right=[*rows.right, *[True] * 48, *[False] * 32]
        )
    )
    assert Assessment.FAIL is result.assessment
    assert result.seen.startswith("60.0%, 95% interval ")
    assert result.seen.endswith("aime25 3 of 5; gpqa_diamond 9 of 15; livecodebench_v6 48 of 80")


def test_a_score_whose_interval_has_the_target_is_unknown() -> None:
    """80 of 100 right is compatible with a score above the target; rows that are not graded do not count."""
    rows = graded(
        aime25=[True] * 4 + [False],
        gpqa_diamond=[True] * 12 + [False] * 3,
        livecodebench_v6=[True] * 64 + [False] * 16 + [None],
    )
    result = check_score(rows)
    assert Assessment.UNKNOWN is result.assessment
    assert result.seen.startswith("80.0%, 95% interval ")
    assert result.seen.endswith("livecodebench_v6 64 of 80; 1 rows are not graded: the sandbox failed")


def test_a_score_without_all_data_sets_is_unknown() -> None:
    """The intervals of the others are listed, and what is missing."""
    result = check_score(graded(gpqa_diamond=[True] * 70 + [False] * 30))
    assert Assessment.UNKNOWN is result.assessment
    assert "gpqa_diamond 60.4% to 78.1%; without aime25, livecodebench_v6" in result.seen


def test_all_answers_right_pass() -> None:
    """100 of 100 right: the interval begins above the target."""
    rows = graded(aime25=[True] * 5, gpqa_diamond=[True] * 15, livecodebench_v6=[True] * 80)
    assert Assessment.PASS is check_score(rows).assessment


def test_rows_without_a_verdict_may_be_wrong() -> None:
    """All graded answers are right, 60 programs have no verdict: the official score may miss the target."""
    rows = graded(aime25=[True] * 5, gpqa_diamond=[True] * 15, livecodebench_v6=[True] * 90)
    assert Assessment.PASS is check_score(rows).assessment
    ungraded = rows._replace(data_sets=[*rows.data_sets, *[CODE] * 60], right=[*rows.right, *[None] * 60])
    assert Assessment.UNKNOWN is check_score(ungraded).assessment
    wrong = ungraded._replace(right=[not right if right else None for right in ungraded.right])
    assert Assessment.FAIL is check_score(wrong).assessment


def test_an_invalid_run_projects_no_score() -> None:
    """All answers of a run are right, and a check of its verdict failed."""
    rows = graded(aime25=[True] * 5, gpqa_diamond=[True] * 15, livecodebench_v6=[True] * 80)
    invalid = HarnessRun(Path("run"), "the run is INVALID: tokens: 1 lost", is_complete=True)
    result = check_score(rows._replace(run=invalid))
    assert (Assessment.FAIL, True) == (
        result.assessment,
        result.seen.startswith("the run is INVALID: tokens"),
    )


@pytest.mark.parametrize(
    "before, after, assessment",
    [
        ([None, None], [True, None], Assessment.UNKNOWN),
        ([True] * 5 + [None], [False] * 5 + [True], Assessment.FAIL),
        ([True] * 5 + [False], [False] * 4 + [True] * 2, Assessment.UNKNOWN),
        ([True, False], [True, True], Assessment.PASS),
    ],
)
def test_significantly_more_losses_than_gains_fail(
    before: list[bool | None], after: list[bool | None], assessment: Assessment
) -> None:
    """5 losses and no gain happen by chance in 1 of 32 cases, 4 losses and 1 gain in 6 of 32."""
    result = check_graded_baseline(before, after, ['kv_cache_dtype "auto" -> "fp8"'])
    assert assessment is result.assessment
    assert result.seen.startswith('kv_cache_dtype "auto" -> "fp8": of ')
