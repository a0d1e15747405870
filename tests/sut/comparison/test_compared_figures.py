"""The figures of a run that a comparison reads, and what it claims of them."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from sut.results.comparison.compared_figures import error_rates, shown_figures
from sut.results.comparison.compared_runs import ComparedRun, Side
from sut.results.comparison.comparison import compare
from sut.results.comparison.ratio_interval import student_quantile

MS = 10**6


def spread(mean: int) -> dict[str, object]:
    """Make one of LoadGen's latencies, in ns: the mean, and each percentile by its name."""
    marks = {f"p{mark}": (mean + 1 + at) * MS for at, mark in enumerate(("50", "90", "99", "99.9"))}
    return {"mean": mean * MS, "percentiles": marks}


RECORD: dict[str, object] = {
    "scenario": "server",
    "loadgen": {"result_completed_tokens_per_second": 5000.0, "result_completed_samples_per_sec": 20.5},
    "loadgen_latencies": {"ttft_ns": spread(10), "tpot_ns": spread(20), "latency_ns": spread(30)},
    # 13 s of CPU for 1000 answers of 1300 tokens: 10 s per million.
    "test_cpu_s": 13.0,
    "summary": {"answer_tokens": {"count": 1000, "mean": 1300.0}},
}
SHOWN = [
    ("tokens/s", "tokens/s", "faster", "slower", 5000.0),
    ("tokens/s before the tail", "tokens/s", "faster", "slower", 6000.0),
    ("samples/s", "samples/s", "faster", "slower", 20.5),
    *(
        (f"{name} {mark}", "ms", "slower", "faster", first + at)
        for name, first in (("TTFT", 10.0), ("TPOT", 20.0), ("latency", 30.0))
        for at, mark in enumerate(("mean", "p50", "p90", "p99", "p99.9"))
    ),
    ("answer length mean", "tokens", "longer", "shorter", 1300.0),
    ("accuracy score", "%", "higher", "lower", 83.0),
    ("coordinator CPU", "s per million tokens", "higher", "lower", 10.0),
]


def test_every_figure_is_read_from_its_place() -> None:
    """In the order of the table, with its unit and the words for larger and smaller."""
    run = ComparedRun(Path("run"), RECORD, tokens_per_s_before_tail=6000.0, score_percent=83.0)
    found = [
        (figure.name, figure.unit, figure.larger, figure.smaller, figure.read(run))
        for figure in shown_figures()
    ]
    assert SHOWN == found


def test_offline_has_its_own_rates() -> None:
    """LoadGen logs them under other keys."""
    rates = {"result_tokens_per_second": 7000.0, "result_samples_per_second": 5.5}
    run = ComparedRun(Path("run"), RECORD | {"loadgen": rates})
    found = {figure.name: figure.read(run) for figure in shown_figures()}
    assert (7000.0, 5.5, None) == (
        found["tokens/s"],
        found["samples/s"],
        found["tokens/s before the tail"],
    )


def test_a_figure_that_is_no_positive_number_is_none() -> None:
    """Neither 0, of which no ratio is defined, nor what no float can hold."""
    empty = {"answer_tokens": {"count": 0, "mean": 0.0}}
    for number in (0, -1, "5", True, float("nan"), 10**400, 1e300):
        rates = dict.fromkeys(("result_completed_tokens_per_second", "result_tokens_per_second"), number)
        run = ComparedRun(Path("run"), {"loadgen": rates, "test_cpu_s": 1.0, "summary": empty}, None, {}, 0.0)
        assert {None} == {figure.read(run) for figure in shown_figures()}


def test_the_error_rate_is_divided_among_the_tested_figures() -> None:
    """All shares of a scenario add up to the whole."""
    offline = {"tokens/s": 0.4, "tokens/s before the tail": 0.4, "coordinator CPU": 0.2}
    server = {"TPOT p50": 0.4, "TTFT p99": 0.15, "TPOT p99": 0.15, "tokens/s": 0.15, "coordinator CPU": 0.15}
    assert pytest.approx(offline) == error_rates("offline", 1.0)
    assert pytest.approx(server) == error_rates("server", 1.0) == error_rates("interactive", 1.0)
    assert pytest.approx(0.02) == error_rates("offline", 0.05)["tokens/s"]


def side(name: str, rates: Sequence[float], minutes: Sequence[int | None] = ()) -> Side:
    """Make the runs of a side from their tokens/s in Offline, and when they began."""
    runs = []
    for at, rate in enumerate(rates):
        minute = minutes[at] if minutes else None
        started = {} if minute is None else {"started_utc": f"2026-12-01T01:{minute:02}:00+00:00"}
        record = {"scenario": "offline", "loadgen": {"result_tokens_per_second": rate}, **started}
        runs.append(ComparedRun(Path(f"{name}{at}"), record))
    return Side(name, Path(name), tuple(runs))


def around(centre: float) -> list[float]:
    """Make two rates whose logarithms are 0.01 from that of the centre."""
    return [centre * math.exp(sign * 0.01) for sign in (-1, 1)]


def test_a_smaller_figure_is_told_as_a_decrease() -> None:
    """B is 0.9 of A: with t(2) = 6.965 at 2 %, times sqrt(2) * 0.01, it is 0.816 to 0.993 of it.

    A third side halves the error rate: t(2) = 9.925 at 1 %, so 0.782 to 1.036, which includes 1.
    """
    assert [6.965, 9.925] == [round(student_quantile(rate, 2), 3) for rate in (0.02, 0.01)]
    a, b = side("A", around(100.0)), side("B", around(90.0))
    (claim,) = compare([a, b]).claims
    assert "B is 10.0 % (0.7 to 18.4) slower than A in tokens/s: more than noise" == claim.text
    assert claim.is_more_than_noise
    first, second = compare([a, b, side("C", around(100.0))]).claims
    assert "B is 10.0 % (-3.6 to 21.8) slower than A in tokens/s: not more than noise" == first.text
    # exp(0.1404) is 1.1507, and exp(-0.1404) is 0.8690.
    assert "C is 0.0 % (-13.1 to 15.1) faster than A in tokens/s: not more than noise" == second.text


def test_what_cannot_be_claimed_is_explained() -> None:
    """No tested figure, one run on one side, sides that do not alternate; else only the confidence."""
    untested = Side("B", Path("B"), (ComparedRun(Path("B0"), {"scenario": "offline"}),))
    pair = side("A", [100.0, 101.0])
    none = "no figure that is tested in this scenario is in the runs of all sides"
    assert none == compare([side("A", [100.0]), untested]).notes[-1]
    once = compare([pair, side("B", [100.0])])
    assert "tokens/s: no claim about B against A: a side has one run" == once.claims[0].text
    assert once.notes[-1].startswith("With one run a side the noise between runs is unknown")
    confidence = "The intervals of the sentences above hold together with 95% confidence. "
    unknown = compare([pair, side("B", [100.0, 102.0])]).notes
    assert unknown[-2].startswith(confidence)
    assert unknown[-1].startswith("The runs of the sides do not alternate in time")
    rates = [100.0, 101.0, 100.5]
    turns = side("A", rates, [0, 2, 4]), side("B", rates, [1, 3, 5])
    assert compare(turns).notes[-1].startswith(confidence)
    # One start that is not known leaves the drift of that pair unknown.
    later = side("C", rates, [1, None, 5])
    assert compare([*turns, later]).notes[-1].startswith("The runs of the sides do not alternate in time")
