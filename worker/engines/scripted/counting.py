"""The counting engine: answers of answers.py at constant step times, for tests and benchmarks.

A step that admits n prompts lasts n * prefill_ms + step_ms and gives every running request one token.
"""

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from common.flags import Flag, Flags, Parser, add_flags, build
from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import EngineInfo, Load, Step
from worker.engines.scripted.answers import MAX_SEED, STOP_TOKEN_ID, VOCAB_SIZE, AnswerColumns
from worker.engines.scripted.running_batch import RunningBatch
from worker.engines.scripted.step_clock import StepClock


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingConfig(Flags):
    """Flags of the counting engine."""

    prefill_ms: Annotated[
        float, Flag("time that each newly admitted prompt adds to its step, in ms", ge=0, metavar="MS")
    ] = 0.0
    step_ms: Annotated[float, Flag("time of a step without prefill, in ms", ge=0, metavar="MS")] = 1.0
    load_ms: Annotated[
        float, Flag("time for which the engine is NOT_SERVING at start, in ms", ge=0, metavar="MS")
    ] = 0.0
    max_num_seqs: Annotated[int, Flag("largest number of requests running at once", ge=1)] = 256
    max_model_len: Annotated[int, Flag("largest length of prompt and answer together, in tokens", ge=1)] = (
        131_072
    )
    seed: Annotated[int, Flag("number added to each counted token of an answer", ge=0, le=MAX_SEED)] = 0


def build_parser() -> Parser:
    """Build the parser of the engine's flags."""
    parser = Parser(allow_abbrev=False)
    add_flags(parser, CountingConfig)
    return parser


def parse_engine_flags(argv: list[str]) -> CountingConfig:
    """Read the engine's flags.

    Raises:
        ValueError: An unknown flag, or a value out of bounds.
    """
    return build(CountingConfig, build_parser().parse_args(argv))


class CountingEngine:
    """The Engine protocol over columns of running and waiting requests."""

    def __init__(self, config: CountingConfig) -> None:
        self._config = config
        self._waiting = AnswerColumns.empty()
        self._running = RunningBatch()
        self._clock = StepClock()
        self._work = asyncio.Event()

    async def start(self) -> EngineInfo:
        """Wait for `load_ms`."""
        await asyncio.sleep(self._config.load_ms / 1e3)
        return EngineInfo(
            engine="counting",
            engine_version="1",
            model="counting",
            model_hash=sha256(b"counting engine 1").hexdigest(),
            vocab_size=VOCAB_SIZE,
            max_model_len=self._config.max_model_len,
            max_num_seqs=self._config.max_num_seqs,
            tensor_parallel_size=1,
            stop_token_ids=(STOP_TOKEN_ID,),
            engine_facts={"seed": str(self._config.seed)},
            execution_facts={"max_num_seqs": str(self._config.max_num_seqs)},
            engine_args={
                "prefill_ms": str(self._config.prefill_ms),
                "step_ms": str(self._config.step_ms),
            },
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Ignore the sampling parameters: counting has none."""

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests in the order given."""
        self._waiting = self._waiting.append(AnswerColumns.for_prompts(prompts, self._config.seed))
        self._work.set()

    def cancel(self, requests: list[int]) -> None:
        """Drop requests by name."""
        self._waiting = self._waiting.without(requests)
        self._running.cancel(requests)

    async def step(self) -> Step:
        """Admit waiting requests, wait for the step time, and give each running request its next token."""
        while not len(self._waiting.requests) and not len(self._running):
            self._work.clear()
            await self._work.wait()
        await self._pass_time(self._admit())
        return self._advance()

    def load(self) -> Load:
        """Count the requests running and waiting."""
        return Load(len(self._running), len(self._waiting.requests))

    async def reset(self) -> None:
        """Drop all requests."""
        self._waiting = AnswerColumns.empty()
        self._running.clear()

    async def close(self) -> None:
        """Do nothing: no process was started."""

    def _admit(self) -> int:
        room = self._config.max_num_seqs - len(self._running)
        admitted = self._waiting.take(slice(room))
        self._waiting = self._waiting.take(slice(room, None))
        self._running.add(admitted)
        return len(admitted.requests)

    async def _pass_time(self, num_admitted: int) -> None:
        await self._clock.wait((num_admitted * self._config.prefill_ms + self._config.step_ms) / 1e3)

    def _advance(self) -> Step:
        return self._running.step()
