"""The sides of the flat-out benchmark, the figures of one round of one of them, and what is asked of them."""

from dataclasses import dataclass
from typing import NamedTuple

from bench.rounds import Round, Side
from bench.sides import OURS, SIDES, Costs

BY_STEP = "frames-step"
"""Ours without merging: frames as an engine with a GPU's pace makes them."""
FLAT_SIDES = (
    *SIDES,
    Side(
        BY_STEP,
        "ours, but each engine step in a frame of its own, as at a GPU's pace: nothing waits, nothing merges",
        ("bench.step_worker", "--engine", "counting", "--frame-hold-ms", "0"),
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
    Side(
        "zmq-pickle",
        "ZMQ, pickled lists: a first token, all others at the end, None for each request; as AMD in Server",
        ("bench.peers.serve", "zmq-pickle", "--tokens-per-message", "1000000"),
        ("bench.peers.drive", "zmq-pickle"),
    ),
    Side(
        "zmq-pickle-all",
        "ZMQ, one pickle per worker with all its answers, when the last has ended; as AMD in Offline",
        ("bench.peers.serve", "zmq-pickle-all"),
        ("bench.peers.drive", "zmq-pickle-all"),
    ),
    Side(
        "zmq-frames",
        f"the frames of {BY_STEP} and the product's ledger over ZMQ: the transport's limit",
        ("bench.peers.serve", "zmq-frames"),
        ("bench.peers.drive", "zmq-frames"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFigures(Costs):
    """One Offline round of one side, its engine ahead of the transport."""

    mtok_per_core_s: float
    """Million tokens for each CPU second of the coordinator."""
    messages: int
    """Messages with tokens that came to the coordinator: frames on our sides."""
    tokens_per_message: float

    @classmethod
    def of(cls, run: Round) -> "FlatFigures":
        """Take them from a run."""
        summary = run.record["summary"]
        messages = summary.get("num_messages")
        if messages is None:
            messages = sum(worker["frames"] for worker in summary["workers"])
        return cls(
            **Costs.fields_of(run),
            mtok_per_core_s=1.0 / run.per_mtok(run.coordinator_cpu_s),
            messages=messages,
            tokens_per_message=run.answers.tokens / messages,
        )


class Goal(NamedTuple):
    """What is asked of one of our sides."""

    peer: str | None
    """Whose coordinator CPU per token is divided by ours; None: our million tokens per core-second."""
    bound: float
    """The least that is enough."""


GOALS = (
    Goal(None, 5.0),
    Goal("grpc-1", 100.0),
    Goal("sse", 100.0),
    Goal("grpc-10", 10.0),
    Goal("zmq-msgspec", 5.0),
)
JUDGED = (OURS, BY_STEP)
