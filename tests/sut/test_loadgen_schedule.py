"""LoadGen's schedule after a run: from its trace, or from its seed if LoadGen's figures confirm it."""

import dataclasses
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


@pytest.mark.parametrize("seed", [5489, 5489 + (7 << 32)])
def test_the_times_between_queries_are_those_of_the_standard_library(seed: int) -> None:
    """The standard's mt19937 of seed 5489 begins with 3499211612, 581869302, 3890346734 and 3586334585.

    They make u = (3499211612 + 581869302 * 2**32) / 2**64 = 0.135477 and then 0.835009, and at 2.5 queries/s
    gaps of -log(1 - u) / 2.5 s; the seed counts modulo 2**32.
    """
    assert [0, 58230949, 58230949 + 720744746] == due_times(Seeded(seed, 2.5), 3).tolist()
    # At 0.001 queries/s the low word makes 200 ns.
    assert [0, 145577374208] == due_times(Seeded(seed, 0.001), 2).tolist()
    assert [0, 0, 0] == due_times(Seeded(seed, 0.0), 3).tolist()


def late_run() -> RequestRecords:
    """Make a run whose issues bound the begin of the schedule nowhere near it."""
    records = run(MS)
    records.columns["issued_ns"] += MS
    return records


def begin_of(records: RequestRecords, found: Schedule | None) -> tuple[int, int]:
    """Return how far the begin of the schedule is from the true one, and its error; every query has it."""
    assert found is not None
    (off_ns,) = set((records.columns["scheduled_ns"] - BEGIN - due_times(SEEDED, NUM)).tolist())
    return off_ns, found.error_ns


def shifted(spread: LoadGenSpread, figure: str, by_ns: int) -> LoadGenSpread:
    """Change one figure."""
    if figure in spread.percentiles:
        marks = spread.percentiles | {figure: spread.percentiles[figure] + by_ns}
        return dataclasses.replace(spread, percentiles=marks)
    return dataclasses.replace(spread, **{figure: getattr(spread, figure) + by_ns})


@pytest.mark.parametrize("figure", ["mean", "minimum", "maximum", "p50", "p90", "p95", "p97", "p99", "p99.9"])
@pytest.mark.parametrize("quantity", ["ttft_ns", "latency_ns"])
def test_each_figure_of_loadgen_bounds_the_begin(quantity: str, figure: str) -> None:
    """LoadGen's stamp is 5 us from both ends of its call, and 1 us is left to rounding: +-6 us.

    A figure that is 4 us larger makes that -6 to 2 us, and one that is 4 us smaller -2 to 6 us; one that is
    13 us off leaves no begin at all.
    """
    records = late_run()
    figures = loadgens(records)
    assert (0, 6 * US) == begin_of(records, add_seeded_schedule(records, SEEDED, figures))
    for by_ns, off_ns in ((4 * US, -2 * US), (-4 * US, 2 * US)):
        changed = figures | {quantity: shifted(figures[quantity], figure, by_ns)}
        assert (off_ns, 4 * US) == begin_of(records, add_seeded_schedule(records, SEEDED, changed))
    for by_ns in (13 * US, -13 * US):
        changed = figures | {quantity: shifted(figures[quantity], figure, by_ns)}
        assert add_seeded_schedule(records, SEEDED, changed) is None


def test_no_query_is_issued_before_it_is_due() -> None:
    """Query 0 is issued when it is due: of +-6 us only -6 to 0 us remain; then query 1 leaves 1 us more."""
    records = run(MS)
    figures = loadgens(records)
    assert (-3 * US, 3 * US) == begin_of(records, add_seeded_schedule(records, SEEDED, figures))
    records.columns["issued_ns"][0] += MS
    assert (-2500, 3500) == begin_of(records, add_seeded_schedule(records, SEEDED, figures))


def test_a_quantity_that_loadgen_does_not_report_bounds_nothing() -> None:
    """The latencies alone give the schedule."""
    records = late_run()
    figures = {"latency_ns": loadgens(records)["latency_ns"]}
    assert (0, 6 * US) == begin_of(records, add_seeded_schedule(records, SEEDED, figures))


@pytest.mark.parametrize("name", ["first_reported_ns", "first_returned_ns"])
def test_a_quantity_with_an_unknown_time_bounds_nothing(name: str) -> None:
    """The TTFTs would move the begin by 2 us; with one of them unknown only the latencies count."""
    records = late_run()
    figures = loadgens(records)
    figures["ttft_ns"] = shifted(figures["ttft_ns"], "maximum", -4 * US)
    records.columns[name][0] = UNKNOWN_NS
    assert (0, 6 * US) == begin_of(records, add_seeded_schedule(records, SEEDED, figures))


def test_a_schedule_needs_the_latencies_of_every_query() -> None:
    """TTFT alone, or queries whose numbers are not 0 to N - 1, give no schedule, though all figures fit."""
    records = run(0)
    figures = loadgens(records)
    assert add_seeded_schedule(records, SEEDED, {"ttft_ns": figures["ttft_ns"]}) is None
    records.columns["query"] += 1
    assert add_seeded_schedule(records, SEEDED, figures) is None
    assert (records.columns["scheduled_ns"] == UNKNOWN_NS).all()


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


def write_trace(
    path: Path, records: RequestRecords, late_ns: int = 20 * US, seventh_ns: int | None = None
) -> Path:
    """Write the trace of a run whose first query is due 7 us after the trace's origin.

    LoadGen's stamps are `late_ns` after each arrival, or `seventh_ns` after that of query 7.
    """
    lines = ['{"traceEvents":[\n']
    issued, arrival = (records.columns[name] - BEGIN for name in ("issued_ns", "done_arrival_ns"))
    for row, query in enumerate(records.columns["query"].tolist()):
        due_ns = int(due_times(SEEDED, NUM)[query])
        stamp_ns = int(arrival[row]) + (seventh_ns if seventh_ns and query == 7 else late_ns)
        words = due_ns / US + 7, int(issued[row]) - due_ns, stamp_ns - due_ns
        lines.append(SAMPLE.format(query, *words))
    path.write_text("".join(lines))
    return path


def test_the_begin_of_a_traced_schedule_lies_within_loadgens_calls(tmp_path: Path) -> None:
    """LoadGen's stamps are 5 us from both ends of its calls, and query 0 is issued when it is due."""
    path = write_trace(tmp_path / "trace.json", run(MS))
    records = run(MS)
    assert (-2500, 2500) == begin_of(records, add_traced_schedule(records, path))
    # Query 1 is issued when the trace has it, 1 us late.
    records.columns["issued_ns"][0] += MS
    assert (-2500, 2500) == begin_of(records, add_traced_schedule(records, path))
    records = late_run()
    assert (0, 5 * US) == begin_of(records, add_traced_schedule(records, path))
    # The call of query 7 is 15 to 25 us behind its arrival, so its stamp leaves -2 to 8, or -9 to 1 us.
    for seventh_us, expected in ((17, (1500, 3500)), (24, (-2000, 3000))):
        write_trace(path, run(MS), seventh_ns=seventh_us * US)
        assert expected == begin_of(records, add_traced_schedule(records, path))
    # 8 to 18 us, and -17 to -7 us.
    for seventh_us in (7, 32):
        write_trace(path, run(MS), seventh_ns=seventh_us * US)
        assert add_traced_schedule(records, path) is None


@pytest.mark.parametrize(
    ("call_ns", "expected"), [(0, (0, 0)), (40 * MS, (20 * MS, 20 * MS)), (40 * MS + 2, None), (-2, None)]
)
def test_a_begin_is_known_to_20_ms_or_not_at_all(
    tmp_path: Path, call_ns: int, expected: tuple[int, int] | None
) -> None:
    """LoadGen stamps at the begin of its call, which takes up to 40 ms: the begin is in the middle."""
    records = late_run()
    records.columns["issued_ns"] += 100 * MS
    path = write_trace(tmp_path / "trace.json", run(MS), late_ns=15 * US)
    records.columns["done_returned_ns"] = records.columns["done_reported_ns"] + call_ns
    found = add_traced_schedule(records, path)
    assert expected == (None if found is None else begin_of(records, found))


def test_a_trace_may_have_other_queries_than_the_run_finished(tmp_path: Path) -> None:
    """Queries 3 and 199 did not finish, and query 5 is not in the trace: each of the others has its time."""
    records = run(MS)
    path = write_trace(tmp_path / "trace.json", records)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"id":5,' not in line))
    kept = [query for query in range(NUM) if query not in (3, 199)]
    finished = RequestRecords({name: column[kept] for name, column in records.columns.items()}, 0)
    assert Schedule("trace", 2500) == add_traced_schedule(finished, path)
    expected = BEGIN + due_times(SEEDED, NUM)[kept] - 2500
    expected[kept.index(5)] = UNKNOWN_NS
    assert expected.tolist() == finished.columns["scheduled_ns"].tolist()


def test_a_traced_run_without_returns_has_no_schedule(tmp_path: Path) -> None:
    """No end of a call of LoadGen is known, so nothing bounds the begin from above and below."""
    records = run(MS)
    path = write_trace(tmp_path / "trace.json", records)
    records.columns["done_returned_ns"][:] = UNKNOWN_NS
    assert add_traced_schedule(records, path) is None


def test_times_of_a_trace_are_read_to_the_nanosecond(tmp_path: Path) -> None:
    """LoadGen prints us with up to three decimals."""
    path = tmp_path / "trace.json"
    line = SAMPLE.replace("{1:.3f}", "{1}")
    path.write_text(
        "".join(line.format(number, ts, 1, 2) for number, ts in enumerate(("12", "1.5", "0.0625")))
    )
    assert [[0, 12_000, 1, 2], [1, 1500, 1, 2], [2, 62, 1, 2]] == read_trace(path).tolist()


def test_a_trace_that_tells_nothing_changes_nothing(tmp_path: Path) -> None:
    """The empty file of a run without a trace, and one that was cut off before its first sample."""
    path = tmp_path / "mlperf_log_trace.json"
    records = run(0)
    for text in ("", '{"traceEvents":[\n{"name":"Sample","cat":"default","ph":"b","pid":1,"id":0,"ts":1'):
        path.write_text(text)
        assert add_traced_schedule(records, path) is None
    assert (records.columns["scheduled_ns"] == UNKNOWN_NS).all()
    assert Schedule("seed", 1) == Schedule("seed", 1)
