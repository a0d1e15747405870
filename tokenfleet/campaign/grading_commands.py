"""The programs that grade a run, and what they left in its directory."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.bounded_file import read_bounded
from common.json_document import as_number, parse_object
from sut.log_files import (
    ACCURACY,
    ACCURACY_REPORT,
    COMPLIANCE_REPORT,
    MAX_REPORT_BYTES,
    file_sha256,
    find_log,
)
from sut.results.submission.recorded_runs import RunKind
from tokenfleet.campaign.plan_file import CampaignPlan
from tokenfleet.campaign.planned_runs import PlannedRun, input_file

TOKENIZER_NAME = "tokenizer.json"


def grading_argv(plan: CampaignPlan, run: PlannedRun) -> list[str] | None:
    """Return the `tokenfleet` command that grades a run; None if nothing is graded."""
    if plan.submission is None or run.kind is RunKind.PERFORMANCE:
        return None
    data = [f"--reference-data={input_file(plan, run.kind)}", f"--tokenizer={plan.data.tokenizer}"]
    if run.kind is RunKind.ACCURACY:
        tests = [f"--lcb-tests={plan.data.lcb_tests}"] if plan.data.lcb_tests else []
        log = find_log(run.run_dir, ACCURACY)
        return ["accuracy", "--overwrite", f"--mlperf-log={log}", *data, *tests]
    return ["compliance", str(run.run_dir), *(data if run.kind is RunKind.TEST07 else [])]


def read_grade(plan: CampaignPlan, run: PlannedRun) -> bool | None:
    """Return whether the run's answers passed; None if they have not been graded as the plan says.

    That is, if another log was graded, or with another tokenizer or file of tests than those of the plan.
    """
    report = _read_report(run)
    if report.get("log_sha256") != file_sha256(find_log(run.run_dir, ACCURACY)):
        return None
    if run.kind.is_graded and _has_other_files(plan, _read_object(run.run_dir / ACCURACY_REPORT)):
        return None
    passed = report.get("passed")
    return passed if isinstance(passed, bool) else None


def _has_other_files(plan: CampaignPlan, score: Mapping[str, Any]) -> bool:
    """Return whether a score was made with other files than those of the plan; older ones do not tell."""
    tokenizer = plan.data.tokenizer / TOKENIZER_NAME
    files = {"tokenizer_sha256": tokenizer, "lcb_tests_sha256": plan.data.lcb_tests}
    return any(
        isinstance(known := score.get(key), str) and path is not None and known != _hash(path)
        for key, path in files.items()
    )


def _hash(path: Path) -> str:
    found = path.stat()
    return _hash_once(path.absolute(), found.st_mtime_ns, found.st_size)


@functools.cache
def _hash_once(path: Path, mtime_ns: int, size: int) -> str:  # noqa: ARG001 - a changed file is hashed anew
    """Hash a file once in a campaign; a file of tests has some GB."""
    return file_sha256(path)


def describe_grade(run: PlannedRun) -> str:
    """Return the score, or the mean length of TEST09's answers, for the table."""
    report = _read_report(run)
    value = as_number(report.get("score_percent", report.get("value")))
    if value is None:
        return ""
    return f"mean answer {value:,.1f} tokens" if run.kind is RunKind.TEST09 else f"score {value:.3f}"


def _read_report(run: PlannedRun) -> Mapping[str, Any]:
    """Read what graded the run; empty if nothing did."""
    name = ACCURACY_REPORT if run.kind is RunKind.ACCURACY else COMPLIANCE_REPORT
    return _read_object(run.run_dir / name)


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        return parse_object(read_bounded(path, MAX_REPORT_BYTES))
    except (OSError, ValueError):
        return {}
