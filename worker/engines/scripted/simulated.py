"""The simulated engine: continuous batching in real time with a cost model, and the answers of answers.py.

A step decodes one token of each request past its prefill and fills the rest of `max_num_batched_tokens` by
prefilling waiting prompts in order, up to `max_num_seqs` requests, the last one partly (chunked prefill).
The step that completes a request's prefill returns its first token. cost_model.py gives the step time. The KV
cache is assumed to be large enough: no request is preempted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Annotated

import numpy as np

from common.flags import Flag, FlagError, Flags, Parser, add_flags, build, declared
from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import NO_KERNELS, EngineInfo, Load, Step
from worker.engines.scripted.answers import (
    MAX_SEED,
    STOP_TOKEN_ID,
    VOCAB_SIZE,
    AnswerColumns,
    counted_tokens,
)
from worker.engines.scripted.cost_model import CostModel
from worker.engines.scripted.running_batch import RunningBatch
from worker.engines.scripted.step_clock import StepClock

Wait = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConfig(Flags):
    """Limits of the simulated engine, under vLLM's names, and its costs."""

    max_num_seqs: Annotated[
        int, Flag("largest number of requests running at once, including those in prefill", ge=1)
    ] = 1024
    max_num_batched_tokens: Annotated[
        int, Flag("largest number of prefilled and decoded tokens in a step", ge=1)
    ] = 16_384
    max_model_len: Annotated[int, Flag("largest length of prompt and answer together, in tokens", ge=1)] = (
        131_072
    )
    seed: Annotated[int, Flag("number added to each counted token of an answer", ge=0, le=MAX_SEED)] = 0
    costs: CostModel = field(default_factory=CostModel)
    """Time of a step."""

    def _check_together(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            reason = f"{self.max_num_batched_tokens} is below --max-num-seqs {self.max_num_seqs}"
            raise FlagError("--max-num-batched-tokens", reason)


def build_parser() -> Parser:
    """Build the parser of the engine's flags; costs default to None."""
    parser = Parser(allow_abbrev=False)
    add_flags(parser, SimulatedConfig)
    add_flags(parser, CostModel, dict.fromkeys(_fields(CostModel)))
    return parser


def parse_engine_flags(argv: list[str]) -> SimulatedConfig:
    """Read the engine's flags.

    Raises:
        ValueError: An unknown flag, a value out of bounds, or an incomplete cost model.
    """
    values = build_parser().parse_args(argv)
    costs = CostModel.of({name: getattr(values, name) for name in _fields(CostModel)})
    return build(SimulatedConfig, values, costs=costs)


def _fields(config: type[Flags]) -> list[str]:
    return [flag.field for flag in declared(config)]


class SimulatedEngine:
    """The Engine protocol over columns of running and waiting requests."""

    def __init__(self, config: SimulatedConfig, wait: Wait | None = None) -> None:
        """Create an empty engine.

        Args:
            config: Limits and costs.
            wait: Waits for a step time in seconds; None: in real time.
        """
        self._config = config
        self._clock = StepClock()
        self._wait = wait or self._clock.wait
        self._work = asyncio.Event()
        self._running = RunningBatch(counted_tokens, STOP_TOKEN_ID)
        self._waiting = AnswerColumns.empty()
        self._prefilled = 0
        """Prefilled tokens of the first waiting prompt; all other waiting prompts have none."""
        self._begun_ns = 0
        """When that prompt's prefill began, if it has begun."""

    async def start(self) -> EngineInfo:
        """Describe the simulated engine."""
        config = self._config
        limits = {name: getattr(config, name) for name in _fields(SimulatedConfig)}
        return EngineInfo(
            engine="simulated",
            engine_version="1",
            model="simulated",
            model_hash=sha256(b"simulated engine 1").hexdigest(),
            vocab_size=VOCAB_SIZE,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            tensor_parallel_size=1,
            stop_token_ids=(STOP_TOKEN_ID,),
            engine_facts={"seed": str(config.seed)},
            execution_facts={
                "max_num_seqs": str(config.max_num_seqs),
                "max_num_batched_tokens": str(config.max_num_batched_tokens),
            },
            engine_args={name: str(value) for name, value in (limits | asdict(config.costs)).items()},
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Ignore the sampling parameters: the answers are known."""

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests in the order given."""
        self._waiting = self._waiting.append(AnswerColumns.for_prompts(prompts, self._config.seed))
        self._work.set()

    def cancel(self, requests: list[int]) -> None:
        """Drop requests by name."""
        head = self._waiting.requests[:1].tolist()
        if head and head[0] in requests:
            self._prefilled = 0
        self._waiting = self._waiting.without(requests)
        self._running.cancel(requests)

    async def step(self) -> Step:
        """Run steps until one returns tokens; a step that only prefills returns none."""
        while True:
            while not len(self._waiting.requests) and not len(self._running):
                self._work.clear()
                await self._work.wait()
                self._clock.begin()
            num_decoding = len(self._running)
            prefill_tokens = self._prefill(num_decoding)
            await self._wait(self._config.costs.step_s(num_decoding, prefill_tokens))
            if len(self._running):
                return self._running.step()

    def load(self) -> Load:
        """Count running and waiting requests; a partly prefilled one counts as running."""
        begun = int(self._prefilled > 0)
        num_waiting = len(self._waiting.requests) - begun
        return Load(len(self._running) + begun, num_waiting, compiled=NO_KERNELS)

    async def reset(self) -> None:
        """Drop all requests."""
        self._running.clear()
        self._waiting = AnswerColumns.empty()
        self._prefilled = 0

    async def close(self) -> None:
        """Do nothing: no process was started."""

    def _prefill(self, num_decoding: int) -> int:
        """Use the step's prefill budget and start prompts that complete; returns the prompt tokens used."""
        room = self._config.max_num_seqs - num_decoding
        if not room or not len(self._waiting.requests):
            return 0
        budget = self._config.max_num_batched_tokens - num_decoding
        ends = self._waiting.prompt_lens[:room].cumsum(dtype=np.int64) - self._prefilled
        num_complete = int(ends.searchsorted(budget, side="right"))
        spent = min(budget, int(ends[-1]))
        begun_at = int(ends[num_complete - 1]) if num_complete else -self._prefilled
        now_ns = time.monotonic_ns()
        begun_ns = [now_ns] * (num_complete + 1)
        if self._prefilled:
            begun_ns[0] = self._begun_ns
        self._prefilled, self._begun_ns = spent - begun_at, begun_ns[num_complete]
        self._running.add(self._waiting.take(slice(num_complete)), begun_ns[:num_complete])
        self._waiting = self._waiting.take(slice(num_complete, None))
        return spent
