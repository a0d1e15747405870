"""The remaining time of a run, compared with runs that are simulated to their end."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.recording.answer_lengths import AnswerLengths, RunLoad

BUDGET = 10_240


def lengths(*values: int) -> NDArray[np.int64]:
    """Make a column of token counts."""
    return np.array(values, np.int64)


def test_running_answers_lengthen_the_mean() -> None:
    """Ten answers of 10 tokens ended and ten others have 20 and go on until 40: the true mean is 25.

    Half of all answers survive 10 tokens. The mean of the finished ones would be 10.
    """
    running = np.full(10, 20)
    early = AnswerLengths(np.full(10, 10), running, 40)
    assert early.mean > 15
    later = AnswerLengths(np.array([10] * 10 + [40] * 10), lengths(), 40)
    assert 25 == pytest.approx(later.mean, abs=1)


@pytest.mark.parametrize(
    ("finished", "running", "known"),
    [
        (np.full(9, 10), lengths(), False),
        (np.full(10, 10), lengths(), True),
        # 10 of 30 have ended: two thirds are longer.
        (np.full(10, 10), np.full(20, 11), False),
        (np.full(10, 10), np.full(10, 11), True),
    ],
)
def test_no_estimate_before_the_median_is_known(
    finished: NDArray[np.int64], running: NDArray[np.int64], known: bool
) -> None:
    """The time is unknown with few answers, or while most answers are longer than any that has ended."""
    left_s = AnswerLengths(finished, running, BUDGET).remaining_s(RunLoad(0, 5, 20, 100.0, 1.0))
    assert known == (left_s is not None)


@pytest.mark.parametrize(
    "load",
    [RunLoad(5, 0, 10, 100.0, 0.0), RunLoad(0, 5, 10, 0.0, 1.0)],
    ids=["nothing-issued", "no-tokens"],
)
def test_no_estimate_without_a_rate(load: RunLoad) -> None:
    """Without tokens or queries issued the time is unknown."""
    assert AnswerLengths(np.full(10, 10), lengths(), BUDGET).remaining_s(load) is None


def test_estimate_between_two_queries() -> None:
    """While no request runs, the queries that LoadGen has still to issue give the time.

    30 queries at 2/s are 15 s; an answer of 10 tokens at 100 tokens/s takes 0.1 s more.
    """
    left_s = AnswerLengths(np.full(10, 10), lengths(), BUDGET).remaining_s(RunLoad(30, 0, 0, 100.0, 2.0))
    assert left_s is not None
    assert 15.1 == pytest.approx(left_s, abs=0.05)


def test_equal_answers_are_exact() -> None:
    """Answers of 100 tokens: 60 waiting ones on 10 slots of 10 tokens/s take 60 s, the last 10 s more."""
    estimate = AnswerLengths(np.full(20, 100), np.full(10, 0), BUDGET)
    left_s = estimate.remaining_s(RunLoad(0, 60, 10, 100.0, 1.0))
    assert left_s == pytest.approx(70, rel=0.02)


def simulate(offline: bool, lens: NDArray[np.float64], slots: int, rate: float, qps: float) -> list[float]:
    """Run answers in steps of 1 s at `rate` tokens/s each; returns estimate / truth, once in 20 s."""
    due_s = (
        np.zeros(len(lens))
        if offline
        else np.cumsum(np.random.default_rng(1).exponential(1 / qps, len(lens)))
    )
    received, started = np.zeros(len(lens)), np.zeros(len(lens), bool)
    now_s, estimates, totals = 0, [], [0.0]
    while (running := started & (received < lens)).any() or not started.all():
        waiting = np.flatnonzero((due_s <= now_s) & ~started)
        started[waiting[: max(slots - int(running.sum()), 0)]] = True
        running = started & (received < lens)
        received[running] = np.minimum(received[running] + rate, lens[running])
        now_s += 1
        totals.append(received.sum())
        running = started & (received < lens)
        num_issued = int((due_s <= now_s).sum())
        if now_s % 20 == 0 and running.any():
            load = RunLoad(
                num_unissued=len(lens) - num_issued,
                num_waiting=num_issued - int(started.sum()),
                num_in_flight=int(running.sum()),
                tokens_per_s=(totals[-1] - totals[-10]) / 9,
                issued_per_s=num_issued / now_s,
            )
            done = started & ~running
            found = AnswerLengths(lens[done].astype(int), received[running].astype(int), BUDGET)
            estimates.append((now_s, found.remaining_s(load)))
    return [
        left_s / (now_s - at_s) for at_s, left_s in estimates if left_s is not None and now_s - at_s >= 40
    ]


@pytest.mark.parametrize("offline", [True, False])
def test_estimates_are_near_the_truth(offline: bool) -> None:
    """Log-normal answers of 1,268 tokens on average: no estimate is off by a factor of 2, half by 20 %.

    At the end of Offline a few long answers run; the rate of completions would promise the end in seconds.
    """
    lens = np.minimum(np.round(np.random.default_rng(0).lognormal(6.75, 0.9, 3000)), BUDGET)
    ratios = simulate(offline, lens, 1000, 20.0 if offline else 60.0, 8.0)
    assert len(ratios) >= 15
    assert all(0.5 < ratio < 2 for ratio in ratios), ratios
    assert np.median(np.abs(np.array(ratios) - 1)) < 0.2, ratios


def test_an_answer_beyond_all_others_has_time_left() -> None:
    """One answer is longer than 1,000 finished ones: the time is above 0 and within its budget."""
    estimate = AnswerLengths(np.arange(1, 1001), lengths(3000), BUDGET)
    left_s = estimate.remaining_s(RunLoad(0, 0, 1, 50.0, 1.0))
    assert left_s is not None
    assert 0 < left_s <= math.ceil((BUDGET - 3000) / 50)
