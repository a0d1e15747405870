"""requests.parquet, requests.jsonl and requests_summary.csv hold what was recorded."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sut.results.timing.request_records import RequestRecords, build_records
from sut.results.timing.requests_file import (
    COLUMNS,
    to_table,
    write_jsonl,
    write_requests,
    write_summary,
)
from tests.sut.timed_requests import ORIGIN, done, stream

ROW = {
    "query": 0,
    "sample": 7,
    "worker": 0,
    "stream": 3,
    "prompt_tokens": 9,
    "answer_tokens": 5,
    "finish_reason": "stop",
    "losses": 0,
    "continued": False,
    "scheduled_ns": None,
    "issued_ns": 10,
    "sent_ns": 20,
    "received_ns": 30,
    "admitted_ns": 45,
    "first_token_ns": 70,
    "first_frame_ns": 90,
    "first_arrival_ns": 100,
    "first_reported_ns": 110,
    "last_token_ns": 180,
    "last_frame_ns": 195,
    "done_arrival_ns": 200,
    "done_reported_ns": 213,
    "clock_error_ns": 2,
}


@pytest.fixture
def records() -> RequestRecords:
    """Make two requests, of which the second was continued and has no times of a worker."""
    first = {"sample": 7, "issued_ns": 10, "sent_ns": 20, "first_ns": 100, "done_ns": 200}
    second = first | {"query": 1, "losses": 2, "reason": 2, "worker": -1}
    times = stream([(0, 100, 110, 90, 30, 45, 70)], [(0, 213, 195, 180)])
    return build_records(done(first, second), [times], ORIGIN)


def test_the_parquet_file_holds_every_column(tmp_path: Path, records: RequestRecords) -> None:
    """Names, values and nulls by hand; the metadata of the schema names the run."""
    path = tmp_path / "requests.parquet"
    write_requests(path, records, {"run_id": "r"})
    table = pq.read_table(path)
    assert tuple(table.column_names) == COLUMNS
    rows = table.to_pylist()
    assert rows[0] == ROW
    unknown = {
        name: None for name in ROW if name.endswith("_ns") and name not in ("issued_ns", "sent_ns")
    } | {"first_arrival_ns": 100, "done_arrival_ns": 200}
    lost = {"query": 1, "worker": -1, "stream": -1, "losses": 2, "continued": True, "finish_reason": "length"}
    assert rows[1] == ROW | unknown | lost
    assert json.loads(table.schema.metadata[b"tokenfleet"]) == {"format": 1, "run_id": "r"}
    assert [path.name for path in tmp_path.iterdir()] == ["requests.parquet"]


def test_numbers_and_indices_have_32_bits_and_times_64(records: RequestRecords) -> None:
    """Readers in other languages see these types."""
    types = {field.name: str(field.type) for field in to_table(records).schema}
    numbers = ("sample", "worker", "stream", "prompt_tokens", "answer_tokens", "losses")
    expected = {name: "int64" for name in COLUMNS if name.endswith("_ns")} | dict.fromkeys(numbers, "int32")
    expected |= {"query": "int64", "continued": "bool"}
    assert expected == {name: found for name, found in types.items() if name != "finish_reason"}
    assert types["finish_reason"].startswith("dictionary<values=")


def test_each_reason_has_its_name() -> None:
    """In the order of the protocol's numbers."""
    records = build_records(done(*({"query": reason, "reason": reason} for reason in range(3))), [], ORIGIN)
    found = [row["finish_reason"] for row in to_table(records).to_pylist()]
    assert ["unspecified", "stop", "length"] == found


@pytest.mark.parametrize("losses", [1, 256, 65_535])
def test_any_number_of_losses_is_a_continuation(losses: int) -> None:
    """Also a multiple of 256, which is 0 in one byte."""
    records = build_records(done({"losses": losses}), [], ORIGIN)
    assert [(losses, True)] == [(row["losses"], row["continued"]) for row in to_table(records).to_pylist()]


def test_json_lines_are_the_rows_of_the_parquet_file(tmp_path: Path, records: RequestRecords) -> None:
    """One object per line, null where a time is unknown."""
    path, lines = tmp_path / "requests.parquet", tmp_path / "requests.jsonl"
    write_requests(path, records, {})
    write_jsonl(lines, path)
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert found == pq.read_table(path).to_pylist()


def test_the_summary_has_a_line_per_quantity(tmp_path: Path, records: RequestRecords) -> None:
    """Counts and figures of the requests that have the quantity; a quantity of no request has no figures."""
    path = tmp_path / "requests_summary.csv"
    write_summary(path, records)
    with path.open(newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert (rows["ttft_from_scheduled"]["count"], rows["ttft_from_scheduled"]["p99"]) == ("0", "")
    # From issue at 10 to the report at 110; (213 - 110) / 4.
    assert (rows["ttft_from_issued"]["count"], rows["ttft_from_issued"]["p99"]) == ("1", "100")
    assert (rows["tpot"]["unit"], rows["tpot"]["mean"]) == ("ns", "25.75")
    assert rows["ttft_prefill"]["max"] == "25"
    assert (rows["answer_tokens"]["unit"], rows["answer_tokens"]["count"]) == ("tokens", "2")


def test_every_line_of_the_summary_is_that_of_its_quantity(tmp_path: Path) -> None:
    """One request, scheduled at 3 and issued at 10: its times by hand, from both; its clocks differ by 2."""
    times = stream([(0, 100, 110, 90, 30, 45, 70)], [(0, 213, 195, 180)])
    row = {"sample": 7, "issued_ns": 10, "sent_ns": 20, "first_ns": 100, "done_ns": 200}
    found = build_records(done(row), [times], ORIGIN)
    found.columns["scheduled_ns"][:] = 3
    path = tmp_path / "requests_summary.csv"
    write_summary(path, found)
    lines = path.read_text().split("\n")
    assert "metric,unit,count,mean,min,p50,p90,p99,p99.9,max" == lines[0]
    expected = {
        "ttft_from_scheduled,ns": "107",
        "latency_from_scheduled,ns": "210",
        "ttft_from_issued,ns": "100",
        "latency_from_issued,ns": "203",
        "tpot,ns": "25.75",
        "ttft_lateness,ns": "7",
        "ttft_coordinator_queue,ns": "10",
        "ttft_network_out,ns": "10",
        "ttft_engine_queue,ns": "15",
        "ttft_prefill,ns": "25",
        "ttft_frame_hold,ns": "20",
        "ttft_network_back,ns": "10",
        "ttft_report,ns": "10",
        "prompt_tokens,tokens": "9",
        "answer_tokens,tokens": "5",
        "clock_error,ns": "2",
    }
    assert [f"{name},1{7 * f',{value}'}" for name, value in expected.items()] == lines[1:-1]
    assert "" == lines[-1]


def test_a_quantity_is_that_of_the_requests_that_have_it(tmp_path: Path) -> None:
    """TPOT needs two tokens, and an unknown error of the clocks is no error."""
    row = {"issued_ns": 10, "sent_ns": 20, "first_ns": 100, "done_ns": 200}
    rows = [row | {"query": query, "num_tokens": query + 1} for query in range(3)]
    begins = [(query, 100, 110, 90, 30, 45, 70) for query in range(2)]
    ends = [(query, 210, 195, 180) for query in range(2)]
    records = build_records(done(*rows), [stream(begins, ends)], ORIGIN)
    path = tmp_path / "requests_summary.csv"
    write_summary(path, records)
    lines = path.read_text().splitlines()
    # The second of three has 2 tokens; the third has neither reports nor times of a worker.
    assert f"tpot,ns,1{7 * ',100'}" in lines
    assert f"clock_error,ns,2{7 * ',2'}" in lines
    # No value leaves the seven figures empty.
    assert f"latency_from_scheduled,ns,0{7 * ','}" in lines


def test_the_summary_has_loadgens_percentiles(tmp_path: Path) -> None:
    """Answers of 1 to 200 tokens: sorted[int(200 * 0.5)] is 101, then sorted[180], [198] and [int(199.8)]."""
    path = tmp_path / "requests_summary.csv"
    records = build_records(done(*({"num_tokens": 200 - row} for row in range(200))), [], ORIGIN)
    write_summary(path, records)
    with path.open(newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    found = [rows["answer_tokens"][name] for name in ("min", "p50", "p90", "p99", "p99.9", "max")]
    assert ["1", "101", "181", "199", "200", "200"] == found


def test_a_run_without_finished_requests_has_an_empty_file(tmp_path: Path) -> None:
    """All columns, no rows."""
    path = tmp_path / "requests.parquet"
    records = build_records(done(), [], ORIGIN)
    write_requests(path, records, {})
    write_summary(tmp_path / "requests_summary.csv", records)
    assert pq.read_table(path).num_rows == 0
    assert tuple(pq.read_schema(path).names) == COLUMNS


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, records: RequestRecords) -> None:
    """A write that fails leaves neither the file nor its partial one."""
    blocked = tmp_path / "requests.parquet.partial"
    blocked.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_requests(tmp_path / "requests.parquet", records, {})
    assert not (tmp_path / "requests.parquet").exists()
