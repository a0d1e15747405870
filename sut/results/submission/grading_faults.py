"""Faults of one run in what came after it: score, compliance verdict and the files that the checker reads."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from common.bounded_file import read_bounded
from common.json_document import as_list, as_mapping, as_number, entry, parse_object
from sut.benchmark import BENCHMARK, MeanBounds
from sut.log_files import (
    ACCURACY_REPORT,
    ACCURACY_TEXT,
    COMPLIANCE_REPORT,
    MAX_REPORT_BYTES,
    VERIFIED_ACCURACY,
    VERIFIED_LENGTH,
)
from sut.results.logs import AccuracyLog
from sut.results.submission.recorded_runs import Division, Fault, RecordedRun, RunKind

VERIFY_FILES = {RunKind.TEST07: VERIFIED_ACCURACY, RunKind.TEST09: VERIFIED_LENGTH}
"""File of each compliance test in which the official checker looks for TEST PASS."""
# Source: tools/submission/submission_checker/constants.py; the pattern admits exactly one space.
_SCORE = re.compile(r".*'exact_match':\s([\d.]+)")
_PASS = "TEST PASS"
# A score is printed with three digits behind the point.
_SCORE_STEP = 0.0006
_MEAN_STEP = 0.01


def grading_faults(
    run: RecordedRun, accuracy: AccuracyLog, log_sha256: str, division: Division
) -> list[Fault]:
    """Check the files that scoring and the compliance tests leave beside a run."""
    found = _score_faults(run, log_sha256, division) if run.kind.is_graded else []
    if run.kind.compliance_test is not None:
        found += _compliance_faults(run, accuracy, log_sha256)
    return found


def tokenizers_of(run: RecordedRun) -> list[str]:
    """List the hash of the tokenizer by which a run was graded; none without a report."""
    report = _read_report(run.directory / ACCURACY_REPORT) if run.kind.is_graded else ""
    return [] if isinstance(report, str) else [str(report.get("tokenizer_sha256"))]


def lcb_tests_of(run: RecordedRun) -> list[str]:
    """List the hash of the file of tests by which a run's programs were graded; none if it is not known."""
    report = _read_report(run.directory / ACCURACY_REPORT) if run.kind is RunKind.ACCURACY else ""
    found = None if isinstance(report, str) else report.get("lcb_tests_sha256")
    return [found] if isinstance(found, str) else []


def _score_faults(run: RecordedRun, log_sha256: str, division: Division) -> list[Fault]:
    """Require a score of this log, of every row, above the target, with the same text for the checker."""
    fault = functools.partial(Fault, run.name)
    report = _read_report(run.directory / ACCURACY_REPORT)
    if isinstance(report, str):
        return [fault(f"{report}: `tokenfleet accuracy` writes it")]
    found = []
    if report.get("log_sha256") != log_sha256:
        found.append(fault(f"{ACCURACY_REPORT} is the score of another accuracy log"))
    if report.get("reference_sha256") != run.text("dataset", "sha256"):
        found.append(fault(f"{ACCURACY_REPORT} was graded by another data set than that of the run"))
    score = as_number(report.get("score_percent"))
    if score is None:
        num_ungraded = len(as_list(report.get("ungraded")))
        return [*found, fault(f"{ACCURACY_REPORT} has no score: {num_ungraded} answers are ungraded")]
    target = BENCHMARK.accuracy_target_percent
    if run.kind is RunKind.ACCURACY and division is not Division.OPEN and score < target:
        found.append(fault(f"the score {score:.3f} is below {target}"))
    found += [fault(text) for text in _count_faults(report, score, run.num_answers)]
    return [*found, *_score_text_faults(run, score)]


def _count_faults(report: Mapping[str, object], score: float, num_answers: int) -> list[str]:
    """Compare the score with the counts that it follows from, and these with the data set."""
    counts = as_mapping(report.get("per_dataset"))
    correct, largest, num_rows = 0.0, 0.0, 0
    for name, found in counts.items():
        right, total = entry(found, "correct"), entry(found, "total")
        if type(right) is not int or type(total) is not int or not 0 <= right <= total <= num_answers:
            return [f"the counts of {name} in {ACCURACY_REPORT} are no counts of its rows"]
        repeats = BENCHMARK.accuracy_repeats.get(name, 1)
        correct, largest, num_rows = correct + right / repeats, largest + total / repeats, num_rows + total
    if num_rows != num_answers:
        return [f"{ACCURACY_REPORT} counts {num_rows} rows, the data set has {num_answers}"]
    given = correct / largest * 100 if largest else 0.0
    if abs(given - score) > _SCORE_STEP:
        return [f"{ACCURACY_REPORT} has the score {score:.3f}, its counts give {given:.3f}"]
    return []


def _score_text_faults(run: RecordedRun, score: float) -> list[Fault]:
    fault = functools.partial(Fault, run.name)
    text = _read_text(run.directory / ACCURACY_TEXT)
    if text is None:
        return [fault(f"{run.directory / ACCURACY_TEXT} is missing")]
    scores = [match[1] for line in text.splitlines() if (match := _SCORE.match(line))]
    if len(scores) != 1:
        return [fault(f"{ACCURACY_TEXT} has {len(scores)} lines with 'exact_match': X, not 1")]
    if not _is_close(scores[0], score, _SCORE_STEP):
        return [fault(f"{ACCURACY_TEXT} has the score {scores[0]}, {ACCURACY_REPORT} has {score:.3f}")]
    return []


def _compliance_faults(run: RecordedRun, accuracy: AccuracyLog, log_sha256: str) -> list[Fault]:
    """Require a passed test over all samples of this run, and TEST PASS where the checker looks for it."""
    fault = functools.partial(Fault, run.name)
    verify = run.directory / VERIFY_FILES[run.kind]
    text = _read_text(verify)
    found = [] if text is not None else [fault(f"{verify} is missing: `tokenfleet compliance` writes it")]
    if text is not None and _PASS not in text.splitlines():
        found.append(fault(f"{verify} does not have the line {_PASS}"))
    report = _read_report(run.directory / COMPLIANCE_REPORT)
    if isinstance(report, str):
        return [*found, fault(f"{report}: `tokenfleet compliance` writes it")]
    if report.get("log_sha256") != log_sha256:
        found.append(fault(f"{COMPLIANCE_REPORT} is the verdict on another accuracy log"))
    if report.get("test") != run.kind or report.get("passed") is not True:
        reasons = "; ".join(str(reason) for reason in as_list(report.get("reasons")))
        found.append(fault(f"{report.get('test')} did not pass: {reasons or report.get('value')}"))
    return [*found, *_value_faults(run, report, accuracy)]


def _value_faults(run: RecordedRun, report: Mapping[str, object], accuracy: AccuracyLog) -> list[Fault]:
    """Compare the value of the compliance verdict with the log or the score, and with the official bounds."""
    fault = functools.partial(Fault, run.name)
    test, value = run.kind.compliance_test, str(report.get("value"))
    assert test is not None
    if test.mean_answer_len is not None:
        own: float | None = accuracy.num_bytes / 4 / max(accuracy.entries.total(), 1)
        bounds, step = test.mean_answer_len, _MEAN_STEP
    else:
        scored = _read_report(run.directory / ACCURACY_REPORT)
        own = None if isinstance(scored, str) else as_number(scored.get("score_percent"))
        low = min(float(threshold) for threshold in test.thresholds.values())
        bounds, step = MeanBounds(low, 100.0), _SCORE_STEP
    if own is None:
        return []
    found = []
    if not _is_close(value, own, step):
        found.append(fault(f"{COMPLIANCE_REPORT} has the value {value}, this run has {own:.3f}"))
    if not bounds.low <= own <= bounds.high:
        found.append(fault(f"the value {own:.3f} is not within {bounds.low} to {bounds.high}"))
    return found


def _is_close(text: str, value: float, step: float) -> bool:
    try:
        return abs(float(text) - value) <= step
    except ValueError:
        return False


def _read_text(path: Path) -> str | None:
    """Read a text file; None if it is missing or cannot be read."""
    try:
        return read_bounded(path, MAX_REPORT_BYTES).decode(errors="replace")
    except OSError:
        return None


def _read_report(path: Path) -> Mapping[str, object] | str:
    """Read a JSON object, or return why it cannot be read."""
    try:
        return parse_object(read_bounded(path, MAX_REPORT_BYTES))
    except OSError as error:
        return f"{path} {'is missing' if isinstance(error, FileNotFoundError) else error.strerror}"
    except ValueError as error:
        return f"{path} {error}"
