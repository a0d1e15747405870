"""Sides of bench.peers, the figures of one round of a side, and the goals."""

from dataclasses import dataclass
from typing import NamedTuple

from bench.peers.side_fleet import Round, Side

OURS = "frames"
BY_STEP = "frames-step"
"""The product without merging; an engine at GPU speed produces the same frames."""
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
    Side(
        BY_STEP,
        "ours with one frame per engine step, as at GPU speed: no step waits, none are merged",
        ("bench.peers.step_worker", "--engine", "counting", "--frame-hold-ms", "0"),
        ("coordinator",),
    ),
    Side(
        "grpc-50",
        "one gRPC stream per request, fifty tokens per message, the first token at once",
        ("bench.peers.serve", "grpc", "--tokens-per-message", "50"),
        ("bench.peers.drive", "grpc"),
    ),
    Side(
        "zmq-msgspec",
        "ZMQ, msgspec MessagePack, one message per token, as MLCommons endpoints",
        ("bench.peers.serve", "zmq-msgspec"),
        ("bench.peers.drive", "zmq-msgspec"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFigures:
    """Figures of one Offline round of one side, whose engine is faster than its transport."""

    requests: int
    tokens: int
    answers_sha256: str
    window_s: float
    """Time from the first query's issue to the last completion, by LoadGen's log."""
    coordinator_cpu_s: float
    """CPU time of the whole process in that window."""
    coordinator_cpu_s_per_mtok: float
    workers_cpu_s_per_mtok: float
    """CPU time of all worker processes together, from the coordinator's start to its end."""
    process_cpu_s: float
    """CPU time of the coordinator's whole life, imports included."""
    tokens_per_s: float
    mtok_per_core_s: float
    """Million tokens per CPU second of the coordinator."""
    messages: int
    """Messages with tokens that the coordinator received; frames on our sides."""
    tokens_per_message: float

    @classmethod
    def of(cls, run: Round) -> "FlatFigures":
        """Compute the figures of a run."""
        summary = run.record["summary"]
        messages = summary.get("num_messages")
        if messages is None:
            messages = sum(worker["frames"] for worker in summary["workers"])
        return cls(
            requests=run.answers.requests,
            tokens=run.answers.tokens,
            answers_sha256=run.answers.sha256,
            window_s=run.window_s,
            coordinator_cpu_s=run.coordinator_cpu_s,
            coordinator_cpu_s_per_mtok=run.per_mtok(run.coordinator_cpu_s),
            workers_cpu_s_per_mtok=run.per_mtok(run.workers_cpu_s),
            process_cpu_s=run.ended.cpu_s,
            tokens_per_s=run.answers.tokens / run.window_s,
            mtok_per_core_s=1.0 / run.per_mtok(run.coordinator_cpu_s),
            messages=messages,
            tokens_per_message=run.answers.tokens / messages,
        )


class Goal(NamedTuple):
    """A goal for our sides."""

    peer: str | None
    """Side whose coordinator CPU per token is divided by ours; None: our million tokens per core-second."""
    bound: float
    """Lower bound of the figure."""


GOALS = (
    Goal(None, 5.0),
    Goal("grpc-1", 100.0),
    Goal("sse", 100.0),
    Goal("grpc-10", 10.0),
    Goal("zmq-msgspec", 5.0),
)
JUDGED = (OURS, BY_STEP)
