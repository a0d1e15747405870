"""The interface between the worker and an engine: prompts in, the new tokens of each step out."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from protos import worker_pb2 as pb
from protos.columns import PromptColumns, TokenColumns, TokenTimes


class EngineDead(RuntimeError):
    """The engine will produce no more tokens; the message gives the cause."""


class RunFailed(RuntimeError):
    """The engine cannot finish this run; it serves the next one after `reset`."""


class Step(NamedTuple):
    """The output of one engine step."""

    columns: TokenColumns
    """New tokens of the step's requests, one row per request."""
    urgent: bool
    """The step has a request's first token or finishes a request."""


def step_times(
    first_rows: list[int], admitted_ns: list[int], num_finished: int, produced_ns: int
) -> TokenTimes | None:
    """Compose the times of a step; the session and the outbox add when requests came and the frame went.

    Args:
        first_rows: (K,) rows with their request's first token, ascending.
        admitted_ns: (K,) when the engine began their prefill, time.monotonic_ns(); 0: unknown.
        num_finished: Number of requests that the step finishes.
        produced_ns: When the engine returned the step.
    """
    if not first_rows and not num_finished:
        return None
    num = len(first_rows)
    return TokenTimes(
        0, first_rows, [0] * num, admitted_ns, [produced_ns] * num, [produced_ns] * num_finished
    )


class CompiledKernels(NamedTuple):
    """Kernels that the engine compiled since `open`; fields as in pb.CompiledKernels."""

    num: int = 0
    num_untimed: int = 0
    ms: int = 0
    names: tuple[str, ...] = ()


NO_KERNELS = CompiledKernels()
"""Of an engine that compiles none."""


class Load(NamedTuple):
    """Requests in the engine, the memory that they use, and compilations of this run."""

    running: int
    waiting: int
    kv_use: float | None = None
    """Share of the KV cache in use, 0 to 1; None if the engine does not report it."""
    compiled: CompiledKernels | None = None
    """None if the engine does not report compilations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Properties of a started engine; fields as in pb.WorkerInfo, except the last one."""

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
    engine_facts: dict[str, str] = field(default_factory=dict)
    execution_facts: dict[str, str] = field(default_factory=dict)
    weights_sha256: str = ""
    warnings: tuple[str, ...] = ()
    other_hosts: tuple[pb.HostInfo, ...] = ()
    """Machines of the engine's other nodes, by node rank."""


class Engine(Protocol):
    """One replica of the model. Every method is called on the worker's event loop and must not block it."""

    async def start(self) -> EngineInfo:
        """Load the model and warm up on synthetic prompts.

        Raises:
            ValueError: The configuration cannot be served; the message names value and bound.
            EngineDead: The engine failed while starting.
        """
        ...

    def open(self, spec: pb.RunSpec) -> None:
        """Set the sampling parameters of the next run; the engine is empty.

        Raises:
            ValueError: The engine refuses the parameters.
        """
        ...

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests; their names, tokens and lengths have been checked."""
        ...

    def cancel(self, requests: list[int]) -> None:
        """Cancel requests by name; unknown and finished names are ignored."""
        ...

    async def step(self) -> Step:
        """Wait for the new tokens of the next step.

        Raises:
            EngineDead: The engine will produce no more tokens.
            RunFailed: The engine will produce no more tokens of this run.
        """
        ...

    def load(self) -> Load:
        """Count the requests running and waiting; costs no more than reading a few values."""
        ...

    async def reset(self) -> None:
        """Drop all requests and all tokens not yet returned by `step`; returns when the engine is empty."""
        ...

    async def close(self) -> None:
        """Stop the engine and all processes it started.

        Also called when `start` failed or was not called, and again after a `close`.
        """
        ...
