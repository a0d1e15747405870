"""The live view's lines at several sizes of a terminal, as a person reads them."""

import math
import re
from pathlib import Path

import pytest

from coordinator.recording.live_screen import Screen, compose, duration, ms
from coordinator.recording.run_snapshot import LatencyFigures, LiveFigures, RunPhase, Snapshot, WorkerFigures
from coordinator.scheduling.failover import Loss

LIVE_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "live.md").read_text(encoding="utf-8")
MS = 1_000_000
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
RUN = LiveFigures(
    elapsed_s=100.0,
    num_done=1_599,
    num_expected=6_396,
    num_in_flight=512,
    num_waiting=3,
    tokens_per_s=45_678.4,
    remaining_s=431.2,
    latencies=[
        LatencyFigures("TTFT", 2_000, 180 * MS, 923 * MS, 3_000 * MS, 12, 45),
        LatencyFigures("TPOT", 1_500, 21 * MS, 95 * MS, 80 * MS, 46, 45),
    ],
    lateness_ns=3 * MS,
    losses=[Loss("10.0.0.9:50051", 0, "silent for 10 s", 34, 5, 6)],
)


def fleet_of(num: int, num_lost: int = 0) -> list[WorkerFigures]:
    """Make workers of 1,000, 1,001, ... tokens/s, the last ones lost."""
    return [
        WorkerFigures(
            address=f"10.0.0.{i}:50051",
            host=f"node-{i}",
            state="lost" if i >= num - num_lost else "live",
            outstanding=8,
            running=7,
            waiting=1,
            kv_use=0.5 + i / 200,
            tokens_per_s=1_000.0 + i,
            quiet_s=0.2,
        )
        for i in range(num)
    ]


def shown(workers: list[WorkerFigures], columns: int, lines: int, run: LiveFigures | None = RUN) -> list[str]:
    """Draw, and leave out the escapes of colors."""
    snapshot = Snapshot("server performance", RunPhase.TEST, 100.0, workers, run)
    return [ESCAPES.sub("", line) for line in Screen().lines(snapshot, columns, lines)]


def test_each_figure_is_on_the_screen() -> None:
    """A quarter is done; TTFT is within its limit and its allowance, TPOT in neither; docs/live.md has it."""
    lines = [
        "server performance  test 1 min 40 s",
        "[######------------------] 1,599/6,396 done  ETA 7 min 12 s",
        "45,678 tokens/s  in flight 512  waiting 3",
        "from issue        p50       p99     limit  over limit (early stopping)",
        "TTFT           180 ms    923 ms  3,000 ms  12 of 45 allowed: can be met",
        "TPOT          21.0 ms   95.0 ms   80.0 ms  46 of 45 allowed: cannot be met",
        "issue up to 3.0 ms late in the last 10 s, which LoadGen's TTFT includes",
        "workers 2/2 live  running 14  waiting 2  tokens/s 1,000 to 1,001  KV up to 50%",
        "worker          state    tokens/s   running   waiting      KV   last frame  host",
        "10.0.0.0:50051  live        1,000         7         1     50%          1 s  node-0",
        "10.0.0.1:50051  live        1,001         7         1     50%          1 s  node-1",
        "lost 10.0.0.9:50051: 34 requests moved: silent for 10 s",
    ]
    assert lines == shown(fleet_of(2), 100, 40)
    assert lines == LIVE_PAGE.split("```")[1].strip().splitlines()


def test_the_page_has_every_phase() -> None:
    """docs/live.md explains each phase that the first line can have, in order."""
    rows = LIVE_PAGE.partition("| phase | what happens |\n")[2].partition("\n\n")[0].splitlines()[1:]
    assert list(RunPhase) == [row.split("`")[1] for row in rows]


def test_a_run_without_limits_names_none() -> None:
    """Offline: LoadGen measures no TTFT and has no limit."""
    latencies = [LatencyFigures("TTFT", 2_000, 180 * MS, 923 * MS, None, 0, None)]
    assert [
        "from issue        p50       p99",
        "TTFT           180 ms    923 ms",
        "issue up to 3.0 ms late in the last 10 s",
    ] == shown(fleet_of(1), 100, 40, RUN._replace(latencies=latencies))[3:6]


def test_released_workers_are_not_shown_as_lost() -> None:
    """After the test no link to a worker is live; none of them was lost."""
    snapshot = Snapshot("server performance", RunPhase.GRADING, 3.0, fleet_of(2, num_lost=2), None)
    assert ["server performance  grading 3 s"] == [text.plain for text in compose(snapshot, 80, 23)]


def test_a_worker_whose_query_was_moved_is_not_called_lost() -> None:
    """The line of a move begins with the address alone."""
    move = RUN.losses[0]._replace(reason="overdue", requests=1, is_move=True)
    found = shown(fleet_of(2), 80, 23, RUN._replace(losses=[move]))
    assert "10.0.0.9:50051: 1 requests moved: overdue" == found[-1]


@pytest.mark.parametrize(
    "columns, lines", [(80, 23), (79, 23), (40, 23), (20, 10), (19, 4), (100, 6), (10, 1), (1, 1)]
)
def test_the_view_never_exceeds_the_terminal(columns: int, lines: int) -> None:
    """72 workers with long host names, and a long reason of a loss, at any size."""
    long = [worker._replace(host="h" * 300) for worker in fleet_of(72)]
    run = RUN._replace(losses=[RUN.losses[0]._replace(reason="r" * 300)] * 5)
    found = shown(long, columns, lines, run)
    assert 1 <= len(found) <= lines
    assert max(map(len, found)) <= columns


@pytest.mark.parametrize("columns, lines", [(0, 0), (0, 4), (4, 0)])
def test_a_terminal_of_one_line_or_column_shows_nothing(columns: int, lines: int) -> None:
    """Its last line and column are left free."""
    assert "" == "".join(shown(fleet_of(72), columns, lines))


def test_a_rate_that_is_not_known_yet_is_no_zero() -> None:
    """In the first second of a test."""
    workers = [worker._replace(tokens_per_s=math.nan) for worker in fleet_of(2)]
    found = shown(workers, 100, 40, RUN._replace(tokens_per_s=math.nan))
    assert "? tokens/s  in flight 512  waiting 3" == found[2]
    assert "workers 2/2 live  running 14  waiting 2  KV up to 50%" == found[7]
    assert ["10.0.0.0:50051", "live", "?", "7"] == found[9].split()[:4]


def test_of_many_workers_the_worst_are_shown() -> None:
    """Of 72 workers 13 fit: the two lost ones, the silent one, the slowest others; the sum is of all."""
    workers = fleet_of(72, num_lost=2)
    workers[50] = workers[50]._replace(quiet_s=6.0)
    found = shown(workers, 80, 23)
    rows = [line.split()[0] for line in found if re.match(r"10\.", line)]
    addresses = [70, 71, 50, *range(10)]
    assert [f"10.0.0.{i}:50051" for i in addresses[: len(rows)]] == rows
    assert 13 == len(rows)
    assert any(line.startswith("workers 70/72 live  running 490  waiting 70") for line in found)


def test_a_narrow_terminal_keeps_the_first_columns() -> None:
    """40 columns hold the worker, its state and its tokens/s."""
    header = next(line for line in shown(fleet_of(2), 40, 23) if line.startswith("worker "))
    assert ["worker", "state", "tokens/s"] == header.split()


def test_a_small_terminal_keeps_progress_and_latencies() -> None:
    """Eight lines hold the summary of the workers in place of the table, and no loss."""
    found = shown(fleet_of(72), 80, 8)
    assert 8 == len(found)
    assert found[-1].startswith("workers 72/72 live")


def test_before_the_test_the_workers_and_what_they_wait_for_are_shown() -> None:
    """A worker that loads has its health as its state; there are no figures yet."""
    workers = [WorkerFigures("10.0.0.1:50051", "", "NOT_SERVING")]
    snapshot = Snapshot("offline accuracy", RunPhase.WAITING, 59.0, workers, None)
    found = [text.plain.rstrip() for text in compose(snapshot, 80, 23)]
    assert "offline accuracy  waiting for workers 59 s" == found[0]
    assert "workers 0/1 live" == found[1]
    assert ["10.0.0.1:50051", "NOT_SERVING", "?", "?", "?", "?", "-"] == found[3].split()


@pytest.mark.parametrize(
    "variables, color", [({"TERM": "xterm-256color"}, "\x1b[1;31m"), ({"NO_COLOR": "1"}, None)]
)
def test_colors_are_those_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], color: str | None
) -> None:
    """A p99 above its limit is bold red; with NO_COLOR the line has no escapes."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    snapshot = Snapshot("server performance", RunPhase.TEST, 100.0, fleet_of(3), RUN)
    lines = Screen().lines(snapshot, 90, 23)
    tpot = next(line for line in lines if line.startswith("TPOT"))
    assert f"{color}   95.0 ms" in tpot if color else "\x1b" not in "".join(lines)


def test_text_of_a_worker_is_shown_as_it_is() -> None:
    """Brackets are no markup of rich, and an escape that was left in is not drawn."""
    worker = fleet_of(1)[0]._replace(host="[red]x[/red]")
    assert any(line.endswith("[red]x[/red]") for line in shown([worker], 100, 23))


def test_durations() -> None:
    """Seconds are rounded up; ms have a digit below 100."""
    assert ["1 s", "59 s", "1 min 0 s", "1 h 1 min"] == [duration(s) for s in (0.1, 59, 59.1, 3_661)]
    assert ["0.5 ms", "99.9 ms", "100 ms", "3,000 ms"] == [ms(int(x * MS)) for x in (0.5, 99.9, 100, 3_000)]
