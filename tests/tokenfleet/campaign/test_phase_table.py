"""The table of a campaign says how each run ended, whatever ended the campaign."""

import json
from pathlib import Path

import pytest

from sut.results.submission.recorded_runs import RunKind
from sut.settings import Scenario
from tokenfleet.campaign.grading_commands import describe_grade
from tokenfleet.campaign.phase_table import Phase, PhaseState, PhaseTable
from tokenfleet.campaign.plan_groups import Group
from tokenfleet.campaign.planned_runs import PlannedRun


def test_a_run_in_progress_is_stopped_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A campaign that ends during a run does not say that the run is running."""
    table = PhaseTable([Phase(name, "all", None, None) for name in ("first", "second", "third")])
    table.change("first", PhaseState.DONE, "VALID", took_s=5.0)
    table.change("second", PhaseState.RUNNING)
    assert ["second"] == table.stop()
    table.close()
    rows = {line.split()[0]: line.split()[2] for line in capsys.readouterr().out.splitlines()[-4:-1]}
    assert {"first": "done", "second": "stopped", "third": "waiting"} == rows


def test_a_run_that_is_done_is_not_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Grading at the end comes again to what was graded between the runs: a log has each change once."""
    table = PhaseTable([Phase("first", "all", None, None)])
    for note in ("VALID", "score 90.000", "score 90.000"):
        table.change("first", PhaseState.DONE, note, took_s=5.0)
    said = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert ["first: done VALID", "first: done score 90.000"] == said


@pytest.mark.parametrize(
    ("kind", "report", "text"),
    [
        (RunKind.ACCURACY, {"score_percent": 89.98700961}, "score 89.987"),
        (RunKind.TEST07, {"value": 90.0}, "score 90.000"),
        (RunKind.TEST09, {"value": 1278.2011}, "mean answer 1,278.2 tokens"),
        (RunKind.TEST09, {"value": None}, ""),
    ],
)
def test_a_grade_names_its_quantity(tmp_path: Path, kind: RunKind, report: object, text: str) -> None:
    """The table shows a score as a score, and the mean answer of TEST09 in tokens."""
    group = Group("all", (Scenario.OFFLINE,), None, ())
    name = "accuracy.json" if kind is RunKind.ACCURACY else "compliance.json"
    (tmp_path / name).write_text(json.dumps(report))
    assert text == describe_grade(PlannedRun(Scenario.OFFLINE, kind, group, (), tmp_path))
