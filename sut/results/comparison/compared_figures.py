"""The figures that a comparison shows, and those of which it may claim a difference."""

from collections.abc import Callable
from typing import NamedTuple

from sut.results.comparison.compared_runs import ComparedRun
from sut.settings import Scenario

LATENCIES = {"ttft_ns": "TTFT", "tpot_ns": "TPOT", "latency_ns": "latency"}
"""LoadGen's quantities by their key in run.json."""
PERCENTILES = ("p50", "p90", "p99", "p99.9")
Read = Callable[[ComparedRun], float | None]


class ComparedFigure(NamedTuple):
    """One figure of a run."""

    name: str
    unit: str
    read: Read
    larger: str
    """What side B is if its figure is larger: "faster", "slower", "more"."""
    smaller: str


def _tokens_per_s(run: ComparedRun) -> float | None:
    """Return LoadGen's rate of tokens, Offline or Server."""
    offline = run.number("loadgen", "result_tokens_per_second")
    return offline or run.number("loadgen", "result_completed_tokens_per_second")


def _tokens_per_s_before_tail(run: ComparedRun) -> float | None:
    """Return the rate until the last request began, without the end of the run in which slots are empty."""
    return run.tokens_per_s_before_tail


def _samples_per_s(run: ComparedRun) -> float | None:
    offline = run.number("loadgen", "result_samples_per_second")
    return offline or run.number("loadgen", "result_completed_samples_per_sec")


def _answer_len(run: ComparedRun) -> float | None:
    return run.number("summary", "answer_tokens", "mean")


def _score(run: ComparedRun) -> float | None:
    # The ratio of a score of 0 is not defined.
    return run.score_percent or None


def _cpu_s_per_million_tokens(run: ComparedRun) -> float | None:
    """Return the CPU time of the coordinator's process during LoadGen's test, per million answer tokens."""
    cpu_s = run.number("test_cpu_s")
    count, mean = (
        run.number("summary", "answer_tokens", "count"),
        run.number("summary", "answer_tokens", "mean"),
    )
    return cpu_s / (count * mean) * 1e6 if cpu_s and count and mean else None


def _latency(key: str, mark: str) -> ComparedFigure:
    """Return the figure of one of LoadGen's latencies: its mean or a percentile."""
    keys = (key, "mean") if mark == "mean" else (key, "percentiles", mark)

    def read(run: ComparedRun) -> float | None:
        value_ns = run.number("loadgen_latencies", *keys)
        return None if value_ns is None else value_ns / 1e6

    return ComparedFigure(f"{LATENCIES[key]} {mark}", "ms", read, "slower", "faster")


TOKENS_PER_S = ComparedFigure("tokens/s", "tokens/s", _tokens_per_s, "faster", "slower")
BEFORE_TAIL = ComparedFigure(
    "tokens/s before the tail", "tokens/s", _tokens_per_s_before_tail, "faster", "slower"
)
SAMPLES_PER_S = ComparedFigure("samples/s", "samples/s", _samples_per_s, "faster", "slower")
CPU = ComparedFigure("coordinator CPU", "s per million tokens", _cpu_s_per_million_tokens, "higher", "lower")
ANSWER_LEN = ComparedFigure("answer length mean", "tokens", _answer_len, "longer", "shorter")
SCORE = ComparedFigure("accuracy score", "%", _score, "higher", "lower")


# Figures of which a difference may be claimed, with their shares of the error rate. In Offline, LoadGen's
# latencies are times to the end of the run: they say what tokens/s says. In Server and Interactive the rate
# is that of LoadGen's schedule, unless the workers are overloaded.
_OFFLINE = {TOKENS_PER_S: 0.4, BEFORE_TAIL: 0.4, CPU: 0.2}
_SERVER = {
    _latency("tpot_ns", "p50"): 0.4,
    _latency("ttft_ns", "p99"): 0.15,
    _latency("tpot_ns", "p99"): 0.15,
    TOKENS_PER_S: 0.15,
    CPU: 0.15,
}


def error_rates(scenario: str, error_rate: float) -> dict[str, float]:
    """Divide the error rate among the figures that are tested in a scenario, by name (weighted Bonferroni).

    The probability that any of them is called different without a difference is then at most `error_rate`.
    """
    shares = _OFFLINE if scenario == Scenario.OFFLINE else _SERVER
    return {figure.name: share * error_rate for figure, share in shares.items()}


def shown_figures() -> list[ComparedFigure]:
    """Return all figures in the order of the table."""
    latencies = [_latency(key, mark) for key in LATENCIES for mark in ("mean", *PERCENTILES)]
    return [TOKENS_PER_S, BEFORE_TAIL, SAMPLES_PER_S, *latencies, ANSWER_LEN, SCORE, CPU]
