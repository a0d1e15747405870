"""LoadGen's schedule after a run: from its trace, or from its seed if LoadGen's figures confirm it."""

from pathlib import Path

import numpy as np
import pytest

from sut.results.loadgen_figures import LoadGenSpread
from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.loadgen_schedule import (
    Schedule,
    Seeded,
    add_seeded_schedule,
    add_traced_schedule,
    due_times,
    read_trace,
)
from sut.results.timing.request_records import RequestRecords, build_records
from tests.sut.timed_requests import ORIGIN, done, stream

US, MS = 1000, 1_000_000
SEEDED = Seeded(seed=0x1234ABCD + (7 << 32), target_qps=50.0)
BEGIN = 3 * MS
NUM = 200


def run(lateness_ns: int) -> RequestRecords:
    """Make a run whose first query was due at BEGIN and whose query n was issued late by n us or less.

    Each first token comes 20 ms after the issue and each end 40 ms after it; LoadGen is called 15 us after
    the arrival, for 10 us.
    """
    due_ns = (BEGIN + due_times(SEEDED, NUM)).tolist()
    issued_ns = [due + min(query * US, lateness_ns) for query, due in enumerate(due_ns)]
    rows = [
        {"query": query, "issued_ns": at, "sent_ns": at, "first_ns": at + 20 * MS, "done_ns": at + 40 * MS}
        for query, at in enumerate(issued_ns)
    ]
    begins, ends = [], []
    for query, at in enumerate(issued_ns):
        begins.append((query, at + 20 * MS, at + 20 * MS + 15 * US, at + 20 * MS, at, at, at + 20 * MS))
        ends.append((query, at + 40 * MS + 15 * US, at + 40 * MS, at + 40 * MS))
    return build_records(done(*rows), [stream(begins, ends, call_ns=10 * US)], ORIGIN)


def spread_of(values: np.ndarray) -> LoadGenSpread:
    """Describe values as LoadGen does."""
    ordered = np.sort(values)
    marks = {f"p{q:g}": float(ordered[int(len(ordered) * (q / 100))]) for q in (50, 90, 95, 97, 99, 99.9)}
    return LoadGenSpread(float(values.mean()), float(ordered[0]), marks, float(ordered[-1]))


def loadgens(records: RequestRecords, late_ns: int = 20 * US) -> dict[str, LoadGenSpread]:
    """Make LoadGen's figures: its stamps are 20 us after each arrival."""
    due_ns = BEGIN + due_times(SEEDED, NUM)
    columns = records.columns
    return {
        "ttft_ns": spread_of(columns["first_arrival_ns"] + late_ns - due_ns),
        "latency_ns": spread_of(columns["done_arrival_ns"] + late_ns - due_ns),
    }


@pytest.mark.parametrize("lateness_ns", [0, 150 * US, MS])
def test_the_seed_and_loadgens_figures_give_the_schedule(lateness_ns: int) -> None:
    """The begin is known to half of 10 us, the time of LoadGen's calls; every query is due when it was."""
    records = run(lateness_ns)
    found = add_seeded_schedule(records, SEEDED, loadgens(records))
    assert found is not None
    assert (found.source, found.error_ns <= 6 * US) == ("seed", True)
    off_ns = records.columns["scheduled_ns"] - BEGIN - due_times(SEEDED, NUM)
    assert np.abs(off_ns).max() <= found.error_ns


@pytest.mark.parametrize("wrong", [Seeded(1, 50.0), Seeded(SEEDED.seed, 50.1), Seeded(SEEDED.seed, 0.0)])
def test_a_schedule_that_loadgen_does_not_confirm_is_not_taken(wrong: Seeded) -> None:
    """Another seed, another rate, no rate: no scheduled time, instead of a wrong one."""
    records = run(0)
    assert add_seeded_schedule(records, wrong, loadgens(records)) is None
    assert (records.columns["scheduled_ns"] == UNKNOWN_NS).all()


def test_a_run_without_loadgens_figures_has_no_schedule() -> None:
    """A failed run, or one with unfinished requests: LoadGen's figures would be of other requests."""
    records = run(0)
    assert add_seeded_schedule(records, SEEDED, {}) is None
    columns = {name: column[1:] for name, column in records.columns.items()}
    assert add_seeded_schedule(RequestRecords(columns, 0), SEEDED, loadgens(records)) is None


def test_offline_queries_are_due_together() -> None:
    """Without a rate all samples of the one query are due at its begin, which LoadGen's latencies tell."""
    num = 5
    rows = [
        {"query": q, "issued_ns": 5 * MS, "sent_ns": 6 * MS, "first_ns": 7 * MS, "done_ns": (8 + q) * MS}
        for q in range(num)
    ]
    ends = [(q, (8 + q) * MS + 15 * US, (8 + q) * MS, (8 + q) * MS) for q in range(num)]
    records = build_records(done(*rows), [stream([], ends, call_ns=10 * US)], ORIGIN)
    latency_ns = records.columns["done_arrival_ns"] + 20 * US - 2 * MS
    found = add_seeded_schedule(records, Seeded(1, 0.0), {"latency_ns": spread_of(latency_ns)})
    assert found is not None
    assert np.abs(records.columns["scheduled_ns"] - 2 * MS).max() <= found.error_ns <= 6 * US


SAMPLE = (
    '{{"name":"Sample","cat":"default","ph":"b","pid":6489,"id":{0},"ts":{1:.3f},"args":{{"sample_seq":{0},'
    '"query_seq":{0},"sample_idx":4,"issue_start_ns":{2},"complete_ns":{3}}}}},\n'
)


@pytest.mark.parametrize("origin_ns", [7 * US, 62 * MS, 600_000 * MS])
def test_the_trace_gives_the_schedule(tmp_path: Path, origin_ns: int) -> None:
    """Scheduled times of the trace, in us since its own origin, on our clock; other lines are skipped.

    Its origin is before the first query by the time in which LoadGen asks for names and loads samples.
    """
    path = tmp_path / "mlperf_log_trace.json"
    records = run(MS)
    columns = records.columns
    due_ns = (due_times(SEEDED, NUM) + origin_ns).tolist()
    lines = ['{"traceEvents":[\n', '{"name":"LogDetail","args":{"key":""loadgen_version""}},\n']
    for query in reversed(range(NUM)):
        issued_ns, done_ns = int(columns["issued_ns"][query]), int(columns["done_arrival_ns"][query])
        delay_ns = issued_ns - BEGIN - due_ns[query] + origin_ns
        latency_ns = done_ns + 20 * US - BEGIN - due_ns[query] + origin_ns
        lines.append(SAMPLE.format(query, due_ns[query] / US, delay_ns, latency_ns))
    path.write_text("".join(lines))
    traced = read_trace(path)
    assert (traced.shape, traced[3, 0], traced[3, 1]) == ((NUM, 4), 3, due_ns[3])
    found = add_traced_schedule(records, path)
    assert found is not None
    assert found.source == "trace"
    assert found.error_ns <= 6 * US
    off_ns = columns["scheduled_ns"] - BEGIN - due_times(SEEDED, NUM)
    assert np.abs(off_ns).max() <= found.error_ns


def test_a_trace_that_tells_nothing_changes_nothing(tmp_path: Path) -> None:
    """The empty file of a run without a trace, and one that was cut off before its first sample."""
    path = tmp_path / "mlperf_log_trace.json"
    records = run(0)
    for text in ("", '{"traceEvents":[\n{"name":"Sample","cat":"default","ph":"b","pid":1,"id":0,"ts":1'):
        path.write_text(text)
        assert add_traced_schedule(records, path) is None
    assert (records.columns["scheduled_ns"] == UNKNOWN_NS).all()
    assert Schedule("seed", 1) == Schedule("seed", 1)
