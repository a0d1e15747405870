"""`tokenfleet qualify reference`: greedy answers of vLLM's own LLM class, on a node without a worker.

It takes the worker's flags beside its own, loads the model as the worker does, and writes the prompts and
answers to a file, which `tokenfleet qualify --reference` compares with answers through the harness.
Exit codes: 0 written, 1 the engine failed, 2 bad input, 130 interrupted.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from common import config_file
from common.flags import Flag, FlagError, Flags, Parser, add_flags, build
from common.named_refusals import naming_output
from common.signals import CLEAN_UP_S, Interrupts
from sut import dataset
from sut.dataset import Dataset
from tokenfleet.engine_program import run_engine_program
from tokenfleet.qualify.greedy_answers import REFERENCE_FORMAT, GreedyReference
from worker.config import EngineKind
from worker.config import parse as parse_worker
from worker.engine_protocol import EngineInfo
from worker.engines.vllm.engine_args import parse_engine_flags
from worker.engines.vllm.greedy_reference import GreedyAnswer, generate_greedily


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig(Flags):
    """Flags of the program beside the worker's."""

    input_file: Annotated[Path, Flag("data set from which the prompts are taken, evenly spaced")]
    output: Annotated[Path, Flag("file of the answers, JSON; it must not exist")]
    num_prompts: Annotated[int, Flag("prompts to answer", ge=1)] = 64
    max_new_tokens: Annotated[int, Flag("longest answer in tokens", ge=1)] = 256


def run_reference(argv: list[str]) -> int:
    """Run the program and return its exit code."""
    Interrupts(patience_s=CLEAN_UP_S)
    return run_engine_program("qualify reference", partial(_generate, argv))


def _generate(argv: list[str]) -> None:
    """Answer the prompts and write the file.

    Raises:
        ValueError: Bad input; names flag, file, value and bound.
        EngineDead: The engine failed.
    """
    parser = Parser(
        prog="tokenfleet qualify reference",
        allow_abbrev=False,
        description="Write greedy answers of vLLM's own LLM class.",
        epilog="All other flags are the worker's and vLLM's: --model (required), --preset, --config, ... "
        "Flags of the worker's port and of its replicas have no effect.",
    )
    add_flags(parser, ReferenceConfig)
    config_file.refuse_printing(argv, "`tokenfleet worker`")
    values, rest = parser.parse_known_args(argv)
    config = build(ReferenceConfig, values)
    _check_output(config.output)
    worker, model, engine_argv = parse_worker(rest)
    if worker.engine is not EngineKind.VLLM:
        raise FlagError("--engine", f"{worker.engine} has no LLM class: the answers are vLLM's")
    if model is None:
        raise FlagError("--model", "missing")
    data = dataset.load(config.input_file)
    rows = np.unique(np.linspace(0, data.num_samples - 1, config.num_prompts).astype(int)).tolist()
    prompts = [data.prompt(row).tolist() for row in rows]
    flags = parse_engine_flags(engine_argv, model)
    engine, answers = generate_greedily(flags, prompts, config.max_new_tokens)
    reference = _reference(engine, data, rows, prompts, answers, config.max_new_tokens)
    with naming_output("--output", config.output):
        reference.write(config.output)
    sys.stdout.write(f"{len(answers)} answers written to {config.output}\n")


def _reference(
    engine: EngineInfo,
    data: Dataset,
    rows: list[int],
    prompts: list[list[int]],
    answers: list[GreedyAnswer],
    max_new_tokens: int,
) -> GreedyReference:
    return GreedyReference(
        format=REFERENCE_FORMAT,
        engine={
            "engine": engine.engine,
            "engine_version": engine.engine_version,
            "model": engine.model,
            "model_hash": engine.model_hash,
            "engine_facts": engine.engine_facts,
        },
        dataset_sha256=data.sha256,
        rows=rows,
        max_new_tokens=max_new_tokens,
        prompts=prompts,
        answers=[answer.tokens for answer in answers],
        runner_ups=[answer.runner_ups for answer in answers],
        margins=[answer.margins for answer in answers],
    )


def _check_output(path: Path) -> None:
    """Refuse an existing file, and a directory that cannot be written, before the model loads."""
    if path.exists():
        raise FlagError("--output", "exists already", path)
    if not path.parent.is_dir():
        raise FlagError("--output", f"{path.parent} is no directory", path)
