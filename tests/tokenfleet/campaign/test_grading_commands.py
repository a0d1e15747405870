"""A grade counts for the log, the tokenizer and the tests of programs that the plan names."""

import hashlib
import json
from pathlib import Path

import pytest

from sut.results.submission.recorded_runs import RunKind
from tests.tokenfleet.campaign.plans import STRICT, write_plan
from tokenfleet.campaign.grading_commands import read_grade
from tokenfleet.campaign.plan_file import NodeFlags, read_plan
from tokenfleet.campaign.planned_runs import plan_runs


@pytest.mark.parametrize("changed", [None, "tokenizer_sha256", "lcb_tests_sha256", "log_sha256"])
@pytest.mark.parametrize("kind", [RunKind.ACCURACY, RunKind.TEST07])
def test_a_grade_by_other_files_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: RunKind, changed: str | None
) -> None:
    """Answers graded with another tokenizer or other tests are graded again; a grade as planned stays."""
    monkeypatch.chdir(tmp_path)
    plan = read_plan(write_plan(tmp_path, STRICT), NodeFlags())
    run = next(run for run in plan_runs(plan) if run.kind is kind)
    run_dir = tmp_path / run.run_dir
    files = {
        "log_sha256": run_dir / "mlperf_log_accuracy.json",
        "tokenizer_sha256": tmp_path / "tokenizer" / "tokenizer.json",
        "lcb_tests_sha256": tmp_path / "lcb.jsonl",
    }
    hashes = {}
    for key, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
        hashes[key] = hashlib.sha256(key.encode()).hexdigest()
    if changed is not None:
        hashes[changed] = "0" * 64
    for name in ("accuracy.json", "compliance.json"):
        (run_dir / name).write_text(json.dumps({"passed": True, **hashes}))
    assert read_grade(plan, run) is (True if changed is None else None)
