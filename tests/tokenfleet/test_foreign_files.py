"""Files of two runs in one directory: refused by every command that reads both."""

import json
from collections.abc import Mapping
from html import unescape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sut.results.comparison.compare_command import main as compare
from sut.results.report.__main__ import main as report
from sut.results.timing.requests_file import COLUMNS, ForeignFileError, write_parquet
from tokenfleet.find_qps.search_results import FinishedRun
from tokenfleet.spans.sampled_requests import read_sample
from tokenfleet.spans.spans_command import main as spans


def run_of_two(directory: Path, scenario: str, metadata: Mapping[str, object]) -> Path:
    """Write a complete run whose requests.parquet was written with other metadata."""
    verdict = {"outcome": "VALID", "checks": []}
    record = {"run_id": "mine", "scenario": scenario, "mode": "performance", "verdict": verdict}
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps(record))
    columns = {name: np.arange(1, 3) for name in ("answer_tokens", "first_arrival_ns", "done_arrival_ns")}
    write_parquet(directory / "requests.parquet", pa.table(columns), metadata)
    return directory


def test_a_file_of_another_run_is_used_by_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report, comparison, spans and find-qps refuse the requests of another run in one line with both ids."""
    foreign = run_of_two(tmp_path / "foreign", "offline", {"run_id": "other"})
    rewritten = run_of_two(tmp_path / "rewritten", "offline", {})
    calls = (
        (report, [str(foreign)]),
        (compare, [str(foreign), str(rewritten)]),
        (spans, [str(foreign), "--output", str(tmp_path / "spans.json")]),
    )
    for main, argv in calls:
        assert 2 == main(argv)
        (line,) = capsys.readouterr().err.splitlines()
        assert "foreign/requests.parquet and the run.json beside it are of two runs, other and mine" in line
    with pytest.raises(ForeignFileError, match="names no run: another program has written it"):
        FinishedRun.read(rewritten)
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("values", [pa.array(["1", "2"]), pa.array([1.5, float("nan")])])
def test_columns_that_no_run_writes_are_used_by_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: pa.Array
) -> None:
    """Texts and fractions where a run has integers: one line that names the column, and no figure."""
    mine = {"run_id": "mine"}
    runs = [run_of_two(tmp_path / name, "offline", mine) for name in ("damaged", "whole")]
    requests = runs[0] / "requests.parquet"
    columns = dict.fromkeys(COLUMNS, pa.array([1, 2])) | {"first_arrival_ns": values}
    write_parquet(requests, pa.table(columns), mine)
    line = f"{requests}: the column first_arrival_ns is not of integers without nulls"
    for main, argv in (
        (compare, [str(run) for run in runs]),
        (spans, [str(runs[0]), "--output", str(tmp_path / "spans.json")]),
    ):
        assert 2 == main(argv)
        assert line in capsys.readouterr().err
    found = FinishedRun.read(runs[0])
    assert found is not None
    with pytest.raises(ForeignFileError, match="the column first_arrival_ns is not of integers"):
        found.column("first_arrival_ns")


def test_two_columns_of_one_name_are_used_by_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of the two a figure would be of is not known: one line, and no page."""
    mine = {"run_id": "mine"}
    runs = [run_of_two(tmp_path / name, "offline", mine) for name in ("doubled", "whole")]
    names = [*COLUMNS, "answer_tokens"]
    write_parquet(runs[0] / "requests.parquet", pa.table([pa.array([1, 2])] * len(names), names), mine)
    for main, argv in (
        (report, [str(runs[0])]),
        (compare, [str(run) for run in runs]),
        (spans, [str(runs[0]), "--output", str(tmp_path / "spans.json")]),
    ):
        assert 2 == main(argv)
        (line,) = capsys.readouterr().err.splitlines()
        assert "requests.parquet: has two columns of one name: another program has written it" in line
    with pytest.raises(ForeignFileError, match="two columns of one name"):
        FinishedRun.read(runs[0])
    assert not list(tmp_path.rglob("*.html"))


def test_a_request_without_a_first_token_is_no_foreign_file(tmp_path: Path) -> None:
    """An answer without tokens: spans take the request, and its time to the first token ends with it."""
    run = run_of_two(tmp_path / "run", "offline", {"run_id": "mine"})
    columns = dict.fromkeys(COLUMNS, pa.array([1, 2])) | {"first_arrival_ns": pa.array([1, None], pa.int64())}
    write_parquet(run / "requests.parquet", pa.table(columns), {"run_id": "mine"})
    assert [1, 2] == [row["query"] for row in read_sample(run, "mine", num=2, num_slowest=1)]
    found = FinishedRun.read(run)
    assert found is not None
    assert [1, 2] == found.column("first_arrival_ns", "done_arrival_ns").tolist()
    # Every request has ended.
    columns["done_arrival_ns"] = pa.array([1, None], pa.int64())
    write_parquet(run / "requests.parquet", pa.table(columns), {"run_id": "mine"})
    with pytest.raises(ForeignFileError, match="the column done_arrival_ns is not of integers without nulls"):
        read_sample(run, "mine", num=2, num_slowest=1)


def test_a_damaged_file_is_used_by_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No parquet file, or one with damaged rows: a line or a sentence on the page; find-qps runs anew."""
    mine = {"run_id": "mine"}
    runs = [run_of_two(tmp_path / name, "offline", mine) for name in ("damaged", "whole")]
    requests = runs[0] / "requests.parquet"
    content = requests.read_bytes()
    reasons = {
        b"PAR1": "Parquet file size is 4 bytes",
        content[:4] + b"\xff" * 100 + content[104:]: "Couldn't deserialize thrift",
    }
    for number, (damaged, reason) in enumerate(reasons.items()):
        requests.write_bytes(damaged)
        page = tmp_path / f"{number}.html"
        assert 0 == report([str(runs[0]), "--output", str(page)])
        assert f"requests.parquet cannot be read: {reason}" in unescape(page.read_text())
        assert 2 == compare([str(run) for run in runs])
        assert f"RUNS {requests}: cannot be read: {reason}" in capsys.readouterr().err
        assert 2 == spans([str(runs[0]), "--output", str(tmp_path / "spans.json")])
        assert f"spans: {requests}: {reason}" in capsys.readouterr().err
        assert FinishedRun.read(runs[0]) is None
