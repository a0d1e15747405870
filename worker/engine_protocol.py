"""The engine as the worker sees it: prompts in, the new tokens of every step out."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from protos import worker_pb2 as pb
from protos.columns import PromptColumns, TokenColumns


class EngineDead(RuntimeError):
    """The engine will produce nothing more; the message says why."""


class Step(NamedTuple):
    """What one engine step produced."""

    columns: TokenColumns
    """New tokens of all requests of the step; each request has one row."""
    urgent: bool
    """A first token or a finished request is among them."""


class Load(NamedTuple):
    """Requests in the engine."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine is once it has started; fields as in pb.WorkerInfo."""

    engine: str
    engine_version: str
    model: str
    model_hash: str
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    tensor_parallel_size: int
    stop_token_ids: tuple[int, ...]
    engine_args: dict[str, str] = field(default_factory=dict)


class Engine(Protocol):
    """One replica of the model. Every method is called from the worker's event loop, none may block it."""

    async def start(self) -> EngineInfo:
        """Load the model and warm up on synthetic prompts.

        Raises:
            ValueError: The configuration cannot be served; the message names value and bound.
            EngineDead: The engine failed while starting.
        """
        ...

    def open(self, spec: pb.RunSpec) -> None:
        """Take the sampling parameters of the run that begins; the engine is empty.

        Raises:
            ValueError: The engine refuses them.
        """
        ...

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests whose names, tokens and lengths have been checked."""
        ...

    def cancel(self, requests: list[int]) -> None:
        """Stop requests by name; unknown or finished names are ignored."""
        ...

    async def step(self) -> Step:
        """Wait for the next step's new tokens.

        Raises:
            EngineDead: No more will come.
        """
        ...

    def load(self) -> Load:
        """Count the requests running and waiting."""
        ...

    async def reset(self) -> None:
        """Drop every request and every token not yet taken; returns when the engine is empty."""
        ...

    async def close(self) -> None:
        """Stop the engine and every process it started."""
        ...
