"""The counting engine: answers of answers.py at constant step times, for tests and benchmarks.

A step that admits n prompts lasts n * prefill_ms + step_ms and gives every running request one token.
"""

import asyncio
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from common.flags import Flag, Flags, Parser, add_flags, build
from protos.columns import PromptColumns
from worker.engine_protocol import EngineInfo
from worker.engines.scripted.answers import (
    MAX_SEED,
    STOP_TOKEN_ID,
    VOCAB_SIZE,
    AnswerColumns,
    counted_tokens,
)
from worker.engines.scripted.batch_engine import BatchEngine, StepTimes
from worker.engines.scripted.running_batch import RunningBatch


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


class CountingEngine(BatchEngine):
    """The Engine protocol with the answers of answers.py."""

    def __init__(self, config: CountingConfig) -> None:
        times = StepTimes(config.step_ms / 1e3, config.prefill_ms / 1e3)
        super().__init__(config.max_num_seqs, times, RunningBatch(counted_tokens, STOP_TOKEN_ID))
        self._config = config

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

    def _answers(self, prompts: PromptColumns) -> AnswerColumns:
        return AnswerColumns.for_prompts(prompts, self._config.seed)
