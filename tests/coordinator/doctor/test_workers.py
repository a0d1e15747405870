"""The doctor's rules over a fleet, by hand: what was seen of it -> rows."""

import pytest

from coordinator.doctor.capacity import REFERENCE_FRAME_US, Plan, diagnose_rate, frame_us
from coordinator.doctor.findings import Check, Finding, Level, Row, exit_code, layout
from coordinator.doctor.visits import Clock, Trouble, Visit, clock_of
from coordinator.doctor.workers import diagnose_fleet, differing
from protos import worker_pb2 as pb

READY = pb.WORKER_STATE_READY
MS = 1_000_000


def visit(address: str, **changed: object) -> Visit:
    """Make what a good worker shows, with changes to its info."""
    values = {
        "protocol_version": 3,
        "instance_id": f"instance of {address}",
        "state": READY,
        "engine": "vllm",
        "engine_version": "0.32.0",
        "model_hash": "abc",
        "engine_args": {"max_num_seqs": "1024"},
    }
    info = pb.WorkerInfo(**(values | changed))  # type: ignore[arg-type]
    return Visit(address, health="SERVING", info=info, round_trips_ns=[MS, MS, 2 * MS], load=pb.WorkerLoad())


def troubles(visits: list[Visit], model_hash: str | None = None) -> dict[str, tuple[Level, str]]:
    """Give level and words of each check that is not well; one row each."""
    rows = [row for row in diagnose_fleet(visits, model_hash) if row.level is not Level.OK]
    assert len(rows) == len({row.check for row in rows})
    assert all(row.advice for row in rows)
    return {row.check: (row.level, row.seen) for row in rows}


def test_alike_workers_have_no_trouble() -> None:
    """Two good workers, and one alone, give nothing but ok."""
    assert {} == troubles([visit("a:1")])
    assert {} == troubles([visit("a:1"), visit("b:2")], "abc")


def test_nobody_is_no_good_fleet() -> None:
    """Where nobody answers one row fails, and none says that all is well."""
    rows = diagnose_fleet([Visit("a:1", trouble=Trouble("refused", "start it"))], "abc")
    assert [Row("workers", "reachable", Level.FAIL, "a:1: refused", "start it")] == rows


def test_round_trip_is_the_median() -> None:
    """One slow call of three is nothing; two are a warning."""
    fine, slow = visit("a:1"), visit("b:2")
    fine.round_trips_ns = [MS, 50 * MS, MS]
    slow.round_trips_ns = [50 * MS, 11 * MS, MS]
    assert {"round trip": (Level.WARN, "b:2: 11 ms, more than 10")} == troubles([fine, slow])
    slow.round_trips_ns = []
    assert {"round trip": (Level.WARN, "b:2: answers too slowly to be timed")} == troubles([fine, slow])


@pytest.mark.parametrize("state", ["LOADING", "DRAINING", "FAILED", "STARTING"])
def test_worker_that_does_not_serve_fails(state: str) -> None:
    """Whatever it does instead is said; what it will be is not held against others while it loads."""
    odd = visit("b:2", state=f"WORKER_STATE_{state}", engine="", model_hash="")
    odd.health = "NOT_SERVING"
    assert {"health": (Level.FAIL, f"b:2: NOT_SERVING, {state}")} == troubles([visit("a:1"), odd])


def test_state_of_the_future_is_a_number() -> None:
    """A state that this coordinator does not know is no crash."""
    odd = visit("b:2", state=77)
    assert {"health": (Level.FAIL, "b:2: SERVING, state 77")} == troubles([visit("a:1"), odd])


def test_restarted_replica_is_a_warning() -> None:
    """A replica that is up and has been started again is told with what ended it; one that is not fails."""
    node = visit("n:1", engine="", state=pb.WORKER_STATE_DEGRADED)
    node.info.replicas.add(port=2, state=READY, restarts=2, reason="signal 9")
    expected = (Level.WARN, "n:1 replica 0: restarts: 2: signal 9")
    assert {"replicas": expected} == troubles([node, visit("n:2")])
    node.info.replicas[0].state = pb.WORKER_STATE_STARTING
    assert {"replicas": (Level.FAIL, "n:1 replica 0: STARTING: signal 9")} == troubles([node, visit("n:2")])


def test_what_decides_answers_must_be_equal() -> None:
    """The one of three that differs is named, wherever it stands."""
    odd = visit("a:1", model_hash="abd", engine_version="0.33.0")
    assert {
        "model_hash": (Level.FAIL, "a:1: abd where b:2, c:3 has abc"),
        "engine_version": (Level.FAIL, "a:1: 0.33.0 where b:2, c:3 has 0.32.0"),
    } == troubles([odd, visit("b:2"), visit("c:3")])


def test_unequal_engine_flags_are_a_warning() -> None:
    """Unequal nodes may serve one run, and a run goes by the flags that they have."""
    odd = visit("b:2", engine_args={"max_num_seqs": "512", "seed": "1"})
    expected = "b:2: max_num_seqs 512 where a:1 has 1024; b:2: seed 1 where a:1 has absent"
    assert {"engine flags": (Level.WARN, expected)} == troubles([visit("a:1"), odd])


def test_difference_is_from_what_most_have() -> None:
    """Two of three are right; of two equally common values the first is."""
    found, usual = differing({"a": "x", "b": "y", "c": "y"}, Level.WARN, "do")
    assert ([Finding("a", Level.WARN, "x where b, c has y", "do")], "y") == (found, usual)
    found, usual = differing({"a": "x", "b": "y"}, Level.WARN, "do")
    assert ([Finding("b", Level.WARN, "y where a has x", "do")], "x") == (found, usual)
    assert ([], "x") == differing({"a": "x", "b": "x"}, Level.WARN, "do")


def test_large_fleet_makes_a_short_table() -> None:
    """A hundred workers with one trouble are one row with three names; another advice is another row."""
    findings = [Finding(f"n{i}:1", Level.WARN, "full", "empty it") for i in range(100)]
    findings.append(Finding("m:1", Level.FAIL, "burnt", "replace it"))
    assert [
        Row("machines", "disk", Level.WARN, "n0:1, n1:1, n2:1 and 97 more: full", "empty it"),
        Row("machines", "disk", Level.FAIL, "m:1: burnt", "replace it"),
    ] == Check("machines", "disk").rows(findings, "fine")


def test_layout_is_aligned_and_counts() -> None:
    """A group has its heading once; below what is not well stands what to do; the last line counts."""
    rows = [
        Row("workers", "reachable", Level.OK, "all"),
        Row("workers", "free", Level.FAIL, "a:1: run\nx", "wait"),
        Row("machines", "load", Level.WARN, "9", "look"),
    ]
    assert (
        "workers\n"
        "  ok    reachable  all\n"
        "  FAIL  free       a:1: run?x\n"
        "                   -> wait\n"
        "machines\n"
        "  warn  load       9\n"
        "                   -> look\n"
        "not checked: x\n"
        "1 fail, 1 warn, 1 ok"
    ) == layout(rows, ["x"])
    assert (1, 0) == (exit_code(rows), exit_code([rows[0], rows[2]]))


@pytest.mark.parametrize("ahead_ns", [0, 5_000_000_000, -5_000_000_000])
@pytest.mark.parametrize("out_ms, back_ms", [(1, 1), (0, 2), (2, 0)])
def test_clock_offset_is_within_its_error(ahead_ns: int, out_ms: int, back_ms: int) -> None:
    """However the way is shared between out and back, and however long the look took, the bound holds."""
    # Asked at 100 ms, looked for 300 ms, its monotonic clock elsewhere; ours says 1 s at 100 ms.
    read_ms = 100 + out_ms + 300
    got_ms = read_ms + back_ms
    host = pb.HostInfo(
        received_ns=7_000 * MS,
        answered_ns=7_300 * MS,
        wall_ns=(read_ms + 900) * MS + 10_000_000_000 + ahead_ns,
    )
    clock = clock_of(host, 100 * MS, got_ms * MS, (got_ms + 900) * MS + 10_000_000_000)
    # 2 ms on the way: 1 ms either side, exact where out and back are alike.
    assert Clock(ahead_ns + (out_ms - 1) * MS, MS) == clock


def test_planned_rate_is_an_estimate_from_published_costs() -> None:
    """One core of the published kind carries a small fleet; more workers, queries or a slower core do not."""
    # 0.017 + 55e-6 x (50 x 2 + 2 x 100) + 18e-9 x 127,820 + 380e-6 x 100 = 0.017 + 0.0165 + 0.0023 + 0.038.
    (row,) = diagnose_rate(Plan(100, 2, REFERENCE_FRAME_US))
    assert (Level.OK, "planned rate") == (row.level, row.check)
    assert row.seen.startswith(
        "estimate: at most 0.07 core for 100 queries/s, 300 frames/s, 127,820 tokens/s"
    )
    # 0.017 + 55e-6 x 7,600 + 18e-9 x 2,556,400 + 380e-6 x 2,000 = 0.017 + 0.418 + 0.046 + 0.76 = 1.241.
    (row,) = diagnose_rate(Plan(2_000, 72, REFERENCE_FRAME_US))
    assert (Level.WARN, True) == (row.level, "at most 1.24 core" in row.seen)
    (row,) = diagnose_rate(Plan(2_000, 72, 2 * REFERENCE_FRAME_US))
    assert (Level.FAIL, True) == (row.level, "at most 2.48 core" in row.seen)
    assert "2.00 times" in row.seen


def test_core_is_timed() -> None:
    """A frame of 64 tokens takes this machine some time, and no millisecond."""
    assert 0 < frame_us() < 1_000
