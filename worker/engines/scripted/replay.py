"""The replaying engine: answers from a file, at a limited rate, for rehearsals without a GPU.

A step gives every running request one token. It lasts `--step-ms`, or longer if the running requests would
otherwise get more than `--tokens-per-s` together.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.flags import Flag, Flags, Parser, add_flags, build
from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import EngineInfo
from worker.engines.scripted.answers import VOCAB_SIZE, AnswerColumns
from worker.engines.scripted.batch_engine import BatchEngine, StepTimes
from worker.engines.scripted.recorded_answers import STOP_TOKEN_IDS, RecordedAnswers
from worker.engines.scripted.running_batch import RunningBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig(Flags):
    """Flags of the replaying engine."""

    answers: Annotated[Path, Flag("parquet file of answers, with the columns input_tokens and output_tokens")]
    tokens_per_s: Annotated[
        float,
        Flag(
            "largest number of tokens per second of all requests together; inf: no limit",
            gt=0,
            finite=False,
            metavar="TOKENS/S",
        ),
    ] = 15_000.0
    step_ms: Annotated[float, Flag("shortest time of a step, in ms", ge=0, metavar="MS")] = 5.0
    max_num_seqs: Annotated[int, Flag("largest number of requests running at once", ge=1)] = 1024
    max_model_len: Annotated[int, Flag("largest length of prompt and answer together, in tokens", ge=1)] = (
        131_072
    )


def build_parser() -> Parser:
    """Build the parser of the engine's flags."""
    parser = Parser(allow_abbrev=False)
    add_flags(parser, ReplayConfig)
    return parser


def parse_engine_flags(argv: list[str]) -> ReplayConfig:
    """Read the engine's flags.

    Raises:
        ValueError: An unknown or missing flag, or a value out of bounds.
    """
    return build(ReplayConfig, build_parser().parse_args(argv))


class ReplayEngine(BatchEngine):
    """The Engine protocol with recorded answers."""

    def __init__(self, config: ReplayConfig, answers: RecordedAnswers) -> None:
        times = StepTimes(config.step_ms / 1e3, tokens_per_s=config.tokens_per_s)
        super().__init__(config.max_num_seqs, times, RunningBatch(answers.tokens_at))
        self._config = config
        self._recorded = answers

    async def start(self) -> EngineInfo:
        """Describe the replaying engine; its model is the answers file."""
        config = self._config
        return EngineInfo(
            engine="replay",
            engine_version="1",
            model="replay",
            model_hash=self._recorded.sha256,
            vocab_size=VOCAB_SIZE,
            max_model_len=config.max_model_len,
            max_num_seqs=config.max_num_seqs,
            tensor_parallel_size=1,
            stop_token_ids=STOP_TOKEN_IDS,
            execution_facts={"max_num_seqs": str(config.max_num_seqs)},
            engine_args={
                "answers": os.fsencode(config.answers).decode(errors="replace"),
                "tokens_per_s": str(config.tokens_per_s),
                "step_ms": str(config.step_ms),
            },
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Begin with the first answer of each prompt; the sampling parameters are ignored."""
        super().open(spec)
        self._recorded.begin_run()

    def _answers(self, prompts: PromptColumns) -> AnswerColumns:
        return self._recorded.for_prompts(prompts)
