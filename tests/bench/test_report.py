"""bench.report: the report of a small invented run is measured."""

import json
from pathlib import Path

from bench.report.__main__ import main


def test_a_small_report_is_measured(tmp_path: Path) -> None:
    """500 requests over three workers in 72 s: the page has its figures; a busy machine may miss the time."""
    path = tmp_path / "report.json"
    flags = ["--requests", "500", "--workers", "3", "--hours", "0.02"]
    done = main([*flags, "--output", str(path)])
    record = json.loads(path.read_text(encoding="utf-8"))
    assert (0 if record["goals_met"] else 1) == done
    assert all(0 < figure for figure in record["figures"].values())
