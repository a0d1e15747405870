"""bench.fleet: each part of the command measures its figures and leaves no process running."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.fleet import pair
from bench.fleet.__main__ import main
from bench.fleet.fleet_run import Goal
from bench.fleet.growth import Cost, Growth, Point, fit, off_line
from tests.bench.outliving import check_takes_all_along, run_bench
from tests.fleet import ROOT

HELD = [
    *["--workers", "3", "--queries-per-s", "100", "--answer-tokens", "20", "40", "--prompt-tokens", "8"],
    *["--samples", "50", "--ramp-s", "1", "--hold-s", "1"],
    *["--step-base-ms", "5", "--step-per-seq-us", "25", "--prefill-tokens-per-s", "58600"],
    *["--min-in-flight", "1", "--min-tokens-per-s", "10", "--min-held-s", "0.5"],
]
SERVER = ["--workers", "3", "--queries-per-s", "200", "--queries", "200", "--samples", "100"]
BURST = [
    *["--workers", "3", "--requests", "300", "--max-num-seqs", "20", "--answer-tokens", "4", "12"],
    *["--prompt-tokens", "8", "--samples", "100", "--min-in-flight", "60"],
    *["--step-base-ms", "2", "--step-per-seq-us", "25", "--prefill-tokens-per-s", "58600"],
]
GROWTH = [
    *["--workers", "2", "--in-flight", "10", "--step-ms", "20", "--seconds", "3"],
    *["--by-workers", "2", "4", "--by-in-flight", "10", "10", "--by-step-ms", "20", "20"],
]


def fleet(show: str, flags: list[str], output: Path) -> dict[str, Any]:
    """Run a part of the command to its end and return its figures; a busy machine may miss the goals."""
    done = run_bench(["bench.fleet", show, *flags, "--output", str(output)])
    assert output.exists(), done.stdout + done.stderr
    record: dict[str, Any] = json.loads(output.read_text())
    assert (0 if all(goal["met"] for goal in record["goals"]) else 1) == done.returncode
    goals = {goal["name"]: goal["met"] for goal in record["goals"]}
    assert goals["answers"] and goals["LoadGen errors"], done.stdout
    return record


@pytest.mark.long
def test_held_judges_a_window_before_the_last_query(tmp_path: Path) -> None:
    """All answers of 200 queries are right; the tokens/s of the window match 100 queries/s."""
    figures = fleet("held", HELD, tmp_path / "held.json")["figures"]
    assert 200 == figures["requests"]
    assert pytest.approx(1.0) == figures["window, s"]
    # 100 answers/s of 30 tokens each; random arrivals, so 100 of them vary by a tenth.
    assert 1_500 < figures["tokens/s"] < 6_000
    assert 0 < figures["coordinator, cores"] < len(os.sched_getaffinity(0))
    assert figures["tokens"] == figures["samples"]["tokens"][-1]


@pytest.mark.long
def test_server_knows_when_each_query_was_due(tmp_path: Path) -> None:
    """LoadGen's schedule is recomputed: half of 200 queries are less than 20 ms late.

    The floor sends 200 queries too; each is answered in a frame, which it may share.
    """
    figures = fleet("server", [*SERVER, "--floor"], tmp_path / "server.json")["figures"]
    assert 200 == figures["floor"]["queries"]
    assert 0 < figures["floor"]["frames"] <= 200
    assert 0 < figures["floor"]["us/query"]
    assert 200 == figures["requests"]
    # An answer takes one frame, or shares one.
    assert 0 < figures["frames"] <= 200
    assert 0 <= figures["issue delay, ms"]["p50"] < 20
    # LoadGen counts from a query's scheduled time, the coordinator from its arrival.
    assert figures["TTFT by the coordinator, ms"]["p50"] <= figures["TTFT by LoadGen, ms"]["p50"]


@pytest.mark.long
def test_an_answer_takes_the_frames_asked_for(tmp_path: Path) -> None:
    """20 queries at 10/s, over two workers that answer immediately in two frames: no two share a frame."""
    load = ["--workers", "2", "--queries-per-s", "10", "--queries", "20", "--samples", "20"]
    flags = [*load, "--answer-tokens", "4", "4", "--frames-per-query", "2"]
    figures = fleet("server", flags, tmp_path / "server.json")["figures"]
    assert 80 == figures["tokens"]
    assert 40 == pytest.approx(figures["frames"], abs=4)


@pytest.mark.long
def test_burst_weighs_the_memory_of_one_large_query(tmp_path: Path) -> None:
    """300 samples are issued in one call; the arena has 1,024 slots of 10,240 tokens: 40 MiB."""
    figures = fleet("burst", BURST, tmp_path / "burst.json")["figures"]
    assert 300 == figures["requests"] == figures["samples in the first call"]
    assert 40.0 <= figures["arena reserved, MiB"] < 80.0
    assert 0 < figures["first dispatch after the call, s"] <= figures["last dispatch after the call, s"]
    assert pytest.approx(figures["RSS, highest, MiB"]) == sum(figures["of it, MiB"].values())


@pytest.mark.long
def test_growth_measures_each_point_once(tmp_path: Path) -> None:
    """Two and four workers are two runs; frames/s are workers times steps/s while all requests run."""
    record = fleet("growth", GROWTH, tmp_path / "growth.json")
    rows = record["figures"]["series"]
    assert [[2, 10], [4, 5]] == [[row["workers"], row["in_flight"]] for row in rows["workers"]]
    assert rows["in flight"][0] == rows["in flight"][1] == rows["workers"][0]
    # 3 s are 150 steps of 20 ms; twice 20 requests.
    assert "40 requests, 6,000 tokens" in next(g["seen"] for g in record["goals"] if g["name"] == "answers")
    assert rows["workers"][0]["frames_per_s"] <= 1.1 * 2 * 50


def figures(us_per_query: float, floor: float | None = None) -> pair.Figures:
    """Build the figures of one run in one checkout."""
    return pair.Figures(us_per_query, None, None, 1.0, us_per_query / 10, 7, True, floor)


def test_pair_takes_medians_of_ratios_within_rounds() -> None:
    """New / old is 0.8, 0.5, 0.9; above a floor of 100 us it is 75, 40 and 88 %; medians 0.8 and 0.75."""
    loads = [(500.0, 400.0, 100.0), (600.0, 300.0, 100.0), (900.0, 810.0, 100.0)]
    rounds = [pair.Round(figures(old), figures(new, floor)) for old, new, floor in loads]
    medians = pair.medians_of(rounds)
    assert pytest.approx(0.8) == medians["us_per_query"] == medians["report_p99_ms"]
    assert 1.0 == medians["report_p50_ms"]
    assert "ttft_p50_ms" not in medians
    assert pytest.approx(0.75) == medians["us_per_query above the floor"]


@pytest.mark.long
def test_pair_runs_both_checkouts_and_keeps_what_they_printed(tmp_path: Path) -> None:
    """This checkout against itself: both runs print and write, and the new one has the floor."""
    flags = [
        "--old",
        str(ROOT),
        "--old-python",
        sys.executable,
        "--rounds",
        "1",
        "--output-dir",
        str(tmp_path),
    ]
    done = run_bench(["bench.fleet", "pair", *flags, "server", *SERVER])
    assert 0 == done.returncode, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "pair.json").read_text())["rounds"]
    assert found["old"]["floor_us_per_query"] is None
    assert 0 < found["new"]["floor_us_per_query"]
    assert all("queries/s" in (tmp_path / f"round0-{side}.txt").read_text() for side in ("old", "new"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_fleet(tmp_path: Path, signum: signal.Signals) -> None:
    """When the command is interrupted or killed, the fleet's process and the coordinator end too."""
    check_takes_all_along(["bench.fleet", "held", *HELD, "--ramp-s", "60"], 2, tmp_path, signum)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "held|server|burst|growth"),
        ("all", "'all'"),
        ("held --workers 0", "--workers: 0 is below 1"),
        ("held --queries-per-s 0", "--queries-per-s: 0.0 is not above 0"),
        ("held --queries-per-s nan", "--queries-per-s: nan is not above 0"),
        ("held --hold-s 0", "--hold-s: 0.0 is not above 0"),
        ("held --answer-tokens 5 3", "--answer-tokens: 5 3 does not ascend"),
        ("held --max-new-tokens 1000", "--answer-tokens: 878 1678"),
        ("held --step-base-ms 5", "--step-per-seq-us: missing; the costs of a step are given together"),
        ("burst --step-base-ms=5 --step-per-seq-us=1", "--prefill-tokens-per-s: missing"),
        (
            "held --step-base-ms 1 --step-per-seq-us -1 --prefill-tokens-per-s 1",
            "--step-per-seq-us: -1.0 is below 0",
        ),
        (
            "held --step-base-ms 1 --step-per-seq-us 1 --prefill-tokens-per-s 0",
            "--prefill-tokens-per-s: 0.0 is not above 0",
        ),
        ("held --workers 60000", "--workers: 60000 is above 1000"),
        ("server --frames-per-query 3", "--frames-per-query: 3 is neither 1 nor 2"),
        ("server --queries 0", "--queries: 0 is below 1"),
        ("burst --max-new-tokens 100000000", "--max-num-seqs: 834 at 72 workers are 60048 slots"),
        ("growth --by-workers 3", "--by-workers"),
        ("growth --by-step-ms 0 1", "--by-step-ms"),
        ("growth --by-workers 2000 1", "--by-workers"),
        ("held --output nowhere/a.json", "--output: nowhere is not a directory"),
        ("held --spare 1", "--spare"),
        ("pair server", "--old"),
        ("pair --old nowhere server", "has no folder bench"),
        ("pair --old . --rounds 0 server", "--rounds: 0 is below 1"),
        ("pair --old . burst", "'burst'"),
    ],
)
def test_bad_flags_are_named(flags: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad flag ends the command before any process starts, with exit code 2 and one line that names it."""
    assert 2 == main(flags.split())
    seen = capsys.readouterr()
    (line,) = seen.out.splitlines()
    assert says in line
    assert "" == seen.err


def test_a_goal_is_met_at_its_bound() -> None:
    """`at_most` and `at_least` include the bound itself, and their text has figure and bound."""
    assert Goal("x", True, "5.000 ms, at most 5") == Goal.at_most("x", 5.0, 5.0, "ms")
    assert not Goal.at_most("x", 5.001, 5.0, "ms").met
    assert Goal.at_least("x", 60_000, 60_000, "requests").met
    assert not Goal.at_least("x", 59_999, 60_000, "requests").met


def test_costs_on_a_plane_are_taken_apart() -> None:
    """0.01 cores + 100 us per frame + 2 us per 1,000 tokens: the fit finds all three, with no deviation."""
    loads = [(100.0, 1e5), (200.0, 1e5), (400.0, 4e5), (400.0, 1e5)]
    costs = [
        Cost(window_s=1.0, frames_per_s=f, tokens_per_s=t, cores=0.01 + 1e-4 * f + 2e-9 * t) for f, t in loads
    ]
    assert [0.01, 100.0, 2.0] == pytest.approx(list(fit(costs).values()))
    assert 0.0 == pytest.approx(off_line([costs[0], costs[1], costs[3]]), abs=1e-9)


def test_a_bent_series_is_off_its_line() -> None:
    """Cores 1, 3, 2 over frames 1, 2, 3: the line is 1.5 at 1 and 2 at 2, where 3 is half above it."""
    costs = [
        Cost(window_s=1.0, frames_per_s=f, tokens_per_s=1.0, cores=c)
        for f, c in ((1, 1.0), (2, 3.0), (3, 2.0))
    ]
    assert 0.5 == pytest.approx(off_line(costs))


def test_series_vary_one_thing() -> None:
    """Tokens/s stay at 12,000 by workers and by step time; frames/s stay constant by requests."""
    points = Growth(
        workers=4,
        in_flight=60,
        step_ms=20.0,
        by_workers=(2, 4),
        by_in_flight=(6, 60),
        by_step_ms=(10.0, 20.0),
    ).points
    assert [Point(2, 120, 20.0), Point(4, 60, 20.0)] == points["workers"]
    assert [Point(4, 6, 20.0), Point(4, 60, 20.0)] == points["in flight"]
    assert [Point(4, 30, 10.0), Point(4, 60, 20.0)] == points["frame rate"]
