"""The table after several runs of one call."""

import json
import os
from pathlib import Path

from common.atomic_files import replace_files
from tokenfleet.closing_table import EndedRun, FileVersion, format_runs


def ended(directory: Path, scenario: str, code: int, record: str | None, earlier: str = "") -> EndedRun:
    """Make a run with this text as its run.json, which replaces that of an earlier run if there was one."""
    run_dir = directory / scenario
    run_dir.mkdir(parents=True)
    path = run_dir / "run.json"
    if earlier:
        path.write_text(earlier)
    found = EndedRun(scenario, run_dir, code, FileVersion.of(path))
    if record is not None:
        replace_files(run_dir, {path.name: record})
        # A system clock that was set back by hours meanwhile.
        os.utime(path, (1_000_000.0,) * 2)
    return found


def test_each_run_has_its_outcome_rate_and_directory(tmp_path: Path) -> None:
    """Offline and Server each show LoadGen's rate under its own key, and the directory of run.json."""
    offline = {"loadgen": {"result_tokens_per_second": 2806.25}, "verdict": {"outcome": "VALID"}}
    server = {"loadgen": {"result_completed_tokens_per_second": 9.5}, "verdict": {"outcome": "INVALID"}}
    runs = [
        ended(tmp_path, "offline", 0, json.dumps(offline | {"mode": "performance"}), earlier="{}"),
        ended(tmp_path, "server", 3, json.dumps(server | {"mode": "performance"})),
    ]
    title, _, *rows = format_runs(runs).splitlines()
    assert "== 2 runs ==" == title
    assert [
        ["offline", "performance", "VALID", "2,806.25", "0", str(tmp_path / "offline")],
        ["server", "performance", "INVALID", "9.50", "3", str(tmp_path / "server")],
    ] == [row.split() for row in rows]


def test_a_run_without_a_record_claims_nothing(tmp_path: Path) -> None:
    """No run.json, an earlier run's, or a broken one: the run has its exit code and no other figure."""
    valid = json.dumps({"loadgen": {"result_tokens_per_second": 1.0}, "verdict": {"outcome": "VALID"}})
    runs = [
        ended(tmp_path, "offline", 2, None),
        ended(tmp_path, "server", 2, None, earlier=valid),
        ended(tmp_path, "interactive", 1, "[]"),
    ]
    rows = [row.split() for row in format_runs(runs).splitlines()[2:]]
    assert [
        ["offline", "-", "not", "begun", "-", "2", "-"],
        ["server", "-", "not", "begun", "-", "2", "-"],
        ["interactive", "-", "unreadable", "-", "1", "-"],
    ] == rows
