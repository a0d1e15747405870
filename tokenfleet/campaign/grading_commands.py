"""The programs that grade a run, and what they left in its directory."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.bounded_file import parse_json, read_bounded
from sut.log_files import ACCURACY, find_log
from sut.results.submission.recorded_runs import RunKind
from tokenfleet.campaign.plan_file import CampaignPlan
from tokenfleet.campaign.planned_runs import PlannedRun, input_file

MAX_REPORT_BYTES = 1 << 26


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


def read_grade(run: PlannedRun) -> bool | None:
    """Return whether the run's answers passed; None if they have not been graded, or another log was."""
    report = _read_report(run)
    if report.get("log_sha256") != _sha256(find_log(run.run_dir, ACCURACY)):
        return None
    passed = report.get("passed")
    return passed if isinstance(passed, bool) else None


def describe_grade(run: PlannedRun) -> str:
    """Return the score, or the mean length of TEST09's answers, for the table."""
    report = _read_report(run)
    value = report.get("score_percent", report.get("value"))
    if not isinstance(value, int | float):
        return ""
    return f"mean answer {value:,.1f} tokens" if run.kind is RunKind.TEST09 else f"score {value:.3f}"


def _read_report(run: PlannedRun) -> Mapping[str, Any]:
    """Read what graded the run; empty if nothing did."""
    name = "accuracy.json" if run.kind is RunKind.ACCURACY else "compliance.json"
    try:
        found = parse_json(read_bounded(run.run_dir / name, MAX_REPORT_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
