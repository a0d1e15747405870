"""`tokenfleet spans`: the traces of a run's requests, and what is refused."""

import gzip
import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sut.results.timing.requests_file import COLUMNS, write_parquet
from tests.full_disk import files_of_at_most
from tokenfleet.spans.sampled_requests import Part, choose_rows, parts
from tokenfleet.spans.spans_command import main

# Of one request, in us since the first query's issue; the engine does not tell when it began the prefill.
TIMES_US = {
    "scheduled_ns": 90,
    "issued_ns": 100,
    "sent_ns": 130,
    "received_ns": 200,
    "admitted_ns": None,
    "first_token_ns": 1_000,
    "first_frame_ns": 1_010,
    "first_arrival_ns": 1_100,
    "first_reported_ns": 1_105,
    "last_token_ns": 4_990,
    "last_frame_ns": 5_000,
    "done_arrival_ns": 5_100,
    "done_reported_ns": 5_110,
    "clock_error_ns": 20,
}
PARTS_US = [
    ("lateness", 90, 100),
    ("coordinator queue", 100, 130),
    ("network out", 130, 200),
    ("engine queue, prefill", 200, 1_000),
    ("frame hold", 1_000, 1_010),
    ("network back", 1_010, 1_100),
    ("report of the first token", 1_100, 1_105),
    ("decode", 1_105, 5_100),
    ("report of the answer", 5_100, 5_110),
]


def row(query: int = 0) -> dict[str, Any]:
    """Make a request; the later ones are each 1 ms later."""
    facts = {"query": query, "sample": 7, "worker": 1, "stream": 0, "prompt_tokens": 5, "answer_tokens": 40}
    facts |= {"finish_reason": "stop", "losses": 0, "continued": False}
    times = {name: None if us is None else 1000 * (us + 1000 * query) for name, us in TIMES_US.items()}
    return facts | times


def write_run(directory: Path, num: int) -> Path:
    """Write a run's directory."""
    rows = [row(query) for query in range(num)]
    table = pa.table({name: [one[name] for one in rows] for name in COLUMNS})
    write_parquet(directory / "requests.parquet", table, {"run_id": "server-1"})
    record = {
        "run_id": "server-1",
        "scenario": "server",
        "mode": "performance",
        "started_utc": "2026-11-30T00:00:00+00:00",
        "ready_s": 2.5,
        "verdict": {"outcome": "VALID"},
        "summary": {"workers": [{"address": "a:1"}, {"address": "b:1"}]},
    }
    (directory / "run.json").write_text(json.dumps(record))
    return directory


def test_the_parts_follow_each_other_and_unknown_times_join_them() -> None:
    """They reach from the scheduled time to the report of the answer; queue and prefill are one part."""
    assert [Part(name, 1000 * begin, 1000 * end) for name, begin, end in PARTS_US] == list(parts(row()))
    unscheduled = row() | {"scheduled_ns": None}
    assert Part("coordinator queue", 100_000, 130_000) == next(parts(unscheduled))


def test_a_part_that_would_end_before_it_begins_has_no_length() -> None:
    """A worker's clock may be off: the time that is too early becomes the begin of the part."""
    early = row() | {"received_ns": 120_000}
    found = list(parts(early))
    assert Part("network out", 130_000, 130_000) == found[2]
    assert all(earlier.end_ns == later.begin_ns for earlier, later in itertools.pairwise(found))


def test_a_sample_is_evenly_spaced_and_has_the_slowest() -> None:
    """Of 9 requests 3 are the first, middle and last; the two slowest ones, 6 and 4, come in addition."""
    ttft_ns = np.array([1, 1, 1, 1, 5, 1, 9, 1, 1])
    assert [0, 4, 8] == choose_rows(ttft_ns, 3, 0)
    assert [0, 4, 6, 8] == choose_rows(ttft_ns, 3, 2)
    assert [0, 1, 2] == choose_rows(np.array([1, 1, 1]), 1000, 20)


def test_the_file_has_a_trace_for_each_request(tmp_path: Path) -> None:
    """Each child lies in its root, which has the request's facts; ids are hexadecimal, times absolute."""
    out = tmp_path / "spans.jsonl"
    assert 0 == main([str(write_run(tmp_path, 2)), "--output", str(out)])
    (line,) = out.read_text().splitlines()
    (resource,) = json.loads(line)["resourceSpans"]
    spans = [span for scope in resource["scopeSpans"] for span in scope["spans"]]
    roots = [span for span in spans if "parentSpanId" not in span]
    assert 2 == len(roots) == len({span["traceId"] for span in spans})
    assert 2 * (1 + len(PARTS_US)) == len(spans)
    # 2026-11-30T00:00:02.5 plus 90 us; seconds since 1970: 1,795,996,800.
    first = min(roots, key=lambda span: int(span["startTimeUnixNano"]))
    assert 1_795_996_800_000_000_000 + 2_500_000_000 + 90_000 == int(first["startTimeUnixNano"])
    assert 5_020_000 == int(first["endTimeUnixNano"]) - int(first["startTimeUnixNano"])
    children = [span for span in spans if span.get("parentSpanId") == first["spanId"]]
    assert [name for name, *_ in PARTS_US] == [span["name"] for span in children]
    facts = {entry["key"]: next(iter(entry["value"].values())) for entry in first["attributes"]}
    assert ("5", "40", "b:1", "7") == tuple(
        facts[name]
        for name in (
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "server.address",
            "tokenfleet.sample",
        )
    )
    assert all(int(span["traceId"], 16) and len(span["spanId"]) == 16 for span in spans)


def test_spans_that_do_not_fit_on_the_disk_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the file; the next call with the same flags is not refused for a part of it."""
    run_dir, out = write_run(tmp_path, 2), tmp_path / "spans.jsonl"
    before = {*tmp_path.iterdir()}
    with files_of_at_most(100):
        assert 2 == main([str(run_dir), "--output", str(out)])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"spans: --output {out}: File too large" == line
    assert before == {*tmp_path.iterdir()}
    assert 0 == main([str(run_dir), "--output", str(out)])


def test_an_endpoint_gets_all_spans(tmp_path: Path) -> None:
    """600 spans arrive in two messages; an endpoint that refuses them gives exit code 1."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    sizes: list[int] = []
    status = 200

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            found = ExportTraceServiceRequest.FromString(body)
            sizes.append(sum(len(s.spans) for r in found.resource_spans for s in r.scope_spans))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        argv = [str(write_run(tmp_path, 60)), "--endpoint", endpoint]
        assert 0 == main(argv)
        assert [512, 88] == sizes
        status = 400
        assert 1 == main(argv)
        server.shutdown()


@pytest.mark.parametrize(
    "flags, line",
    [
        ("", "--output: give either --output or --endpoint"),
        ("--output {d}/run.json", "--output {d}/run.json: exists"),
        ("--endpoint localhost:4318", "--endpoint: 'localhost:4318' does not begin with http:// or https://"),
        ("--sample 0 --output x", "--sample: 0 is below 1"),
        ("--output {d}/spans", "{d}/requests.parquet: No such file or directory"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path, flags: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2; no file is written."""
    write_run(tmp_path, 1)
    (tmp_path / "requests.parquet").unlink()
    assert 2 == main([str(tmp_path), *flags.format(d=tmp_path).split()])
    assert f"spans: {line.format(d=tmp_path)}\n" == capsys.readouterr().err
    assert [tmp_path / "run.json"] == list(tmp_path.iterdir())
