"""The sides of the transport benchmark, and the figures of one round of one of them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.rounds import Round, Side

# A token takes this much longer than a step where a side falls behind: its figures are then those of a queue.
SATURATED = 1.1
OURS = "frames"
SIDES = (
    Side(
        OURS,
        "python -m coordinator, python -m worker: one gRPC stream per worker, columnar frames",
        ("worker", "--engine", "counting"),
        ("coordinator",),
    ),
    Side(
        "grpc-1",
        "one gRPC stream per request, one message per token",
        ("bench.peers.serve", "grpc"),
        ("bench.peers.drive", "grpc"),
    ),
    Side(
        "grpc-10",
        "one gRPC stream per request, ten tokens per message, the first token at once",
        ("bench.peers.serve", "grpc", "--tokens-per-message", "10"),
        ("bench.peers.drive", "grpc"),
    ),
    Side(
        "sse",
        "HTTP server-sent events, aiohttp, one JSON chunk per token",
        ("bench.peers.serve", "sse"),
        ("bench.peers.drive", "sse"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What one round of one side did and took; every side's come from the same places."""

    requests: int
    tokens: int
    answers_sha256: str
    window_s: float
    """From the first query's issue to the last completion, as LoadGen logs it."""
    coordinator_cpu_s: float
    """Of the whole process in that window."""
    coordinator_cpu_s_per_mtok: float
    workers_cpu_s_per_mtok: float
    """Of all worker processes together, from the coordinator's start to its end."""
    process_cpu_s: float
    """Of the coordinator's whole life, imports included."""
    tokens_per_s: float

    @staticmethod
    def fields_of(run: Round) -> dict[str, Any]:
        """Take them from a run, by name."""
        return {
            "requests": run.answers.requests,
            "tokens": run.answers.tokens,
            "answers_sha256": run.answers.sha256,
            "window_s": run.window_s,
            "coordinator_cpu_s": run.coordinator_cpu_s,
            "coordinator_cpu_s_per_mtok": run.per_mtok(run.coordinator_cpu_s),
            "workers_cpu_s_per_mtok": run.per_mtok(run.workers_cpu_s),
            "process_cpu_s": run.ended.cpu_s,
            "tokens_per_s": run.answers.tokens / run.window_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(Costs):
    """One Server round of one side."""

    in_flight: float
    """Mean over the window: latencies' sum divided by its length."""
    tpot_ms: float
    """LoadGen's mean."""
    added_p50_ms: float
    """From the engine's hand-over to the return of LoadGen's call."""
    added_p99_ms: float
    num_reports: int
    """Calls that these two describe; frames with a first token or an end on our side."""
    saturated: bool

    @classmethod
    def of(cls, run: Round, step_ms: float) -> "Figures":
        """Take them from a Server run whose engine steps last `step_ms`."""
        delay = Delay.of(run.record["summary"]["report_delay_ns"])
        tpot_ms = run.loadgen_number("result_time_to_output_token_mean") / 1e6
        latencies_s = run.loadgen_number("result_mean_latency_ns") / 1e9 * run.answers.requests
        return cls(
            **Costs.fields_of(run),
            in_flight=latencies_s / run.window_s,
            tpot_ms=tpot_ms,
            added_p50_ms=delay.p50_ms,
            added_p99_ms=delay.p99_ms,
            num_reports=delay.num_reports,
            saturated=tpot_ms > SATURATED * step_ms,
        )


class Delay(NamedTuple):
    """`report_delay_ns` of a run.json."""

    num_reports: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, spread: dict[str, Any]) -> "Delay":
        """Read it."""
        marks = spread["percentiles"]
        return cls(spread["count"], marks["p50"] / 1e6, marks["p99"] / 1e6)
