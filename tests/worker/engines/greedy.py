"""Greedy runs of an engine, and the answers of vLLM's own LLM class to compare them with."""

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import Engine, Step

T = TypeVar("T")
_Engine = TypeVar("_Engine", bound=Engine)
ANSWER_LEN = 24
"""Of vLLM's own answers, in tokens at most."""
START_TIMEOUT_S = 300.0
GREEDY = pb.RunSpec(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=256)


class Answer(NamedTuple):
    """One request's outcome."""

    tokens: list[int]
    reason: int | None


class Reference(NamedTuple):
    """Greedy answers of vLLM's own LLM class, at most 24 tokens each."""

    walk: list[list[int]]
    """To walk_prompts(), up to the checkpoint's stop ids."""
    endless: list[list[int]]
    """To engine_prompts(), without stop ids."""


def walk_prompts() -> list[list[int]]:
    """Draw 40 prompts of 4 to 40 tokens below the tiny model's stop ids."""
    rng = random.Random(3)
    return [[rng.randrange(3990) for _ in range(rng.randrange(4, 41))] for _ in range(40)]


def engine_prompts() -> list[list[int]]:
    """Draw 8 prompts of 16 tokens, the same in every run."""
    drawn: list[list[int]] = np.random.default_rng(1).integers(4096, size=(8, 16)).tolist()
    return drawn


def stop_ids_of(checkpoint: Path) -> list[int]:
    """Read the stop ids of a checkpoint's generation config."""
    stop_ids: list[int] = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    return stop_ids


def ask_vllm(checkpoint: Path, path: Path) -> Reference:
    """Run vllm.LLM in a child process, because vLLM has global state; `path` is its scratch file.

    The child is forked when vLLM is imported, which takes 13 s of CPU; nothing of it has run here before.
    """
    with warnings.catch_warnings(action="ignore"), environment_kept():
        # In-process engine: one start-up less.
        os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"})
        import vllm

        assert vllm.LLM
        child = multiprocessing.get_context("fork").Process(target=_generate, args=(str(checkpoint), path))
        child.start()
    try:
        child.join(START_TIMEOUT_S)
        assert path.exists(), child.exitcode
    finally:
        child.kill()
    return Reference(*json.loads(path.read_text()))


def _generate(checkpoint: str, path: Path) -> None:
    """Write the answers of Reference as JSON."""
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        checkpoint,
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        kv_cache_memory_bytes=1 << 26,
        enable_prefix_caching=False,
        seed=0,
    )
    answers = []
    for prompts, stop_ids in ((walk_prompts(), stop_ids_of(Path(checkpoint))), (engine_prompts(), [])):
        params = SamplingParams(
            temperature=0, max_tokens=ANSWER_LEN, stop_token_ids=stop_ids, detokenize=False
        )
        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        answers.append([list(output.outputs[0].token_ids) for output in outputs])
    path.write_text(json.dumps(answers))


async def bounded(awaitable: Awaitable[T], timeout_s: float = 60) -> T:
    """Wait with a timeout."""
    return await asyncio.wait_for(awaitable, timeout_s)


def columns(names: list[int], prompts: list[list[int]], budgets: list[int]) -> PromptColumns:
    """Put prompts into columns."""
    return PromptColumns(
        requests=np.array(names, np.uint64),
        prompt_lens=np.array([len(prompt) for prompt in prompts], np.uint32),
        prompt_tokens=np.concatenate(prompts).astype(np.int32),
        max_new_tokens=np.array(budgets, np.uint32),
        produced=np.zeros(len(names), np.uint32),
    )


def add(answers: dict[int, Answer], step: Step) -> None:
    """Append a step's rows to the answers so far."""
    taken = 0
    rows = step.columns.requests.tolist()
    counts = [1] * len(rows) if step.columns.counts is None else step.columns.counts.tolist()
    ends = dict(zip(step.columns.finished_rows.tolist(), step.columns.finish_reasons.tolist(), strict=True))
    assert len(set(rows)) == len(rows)
    for row, (name, count) in enumerate(zip(rows, counts, strict=True)):
        before = answers.get(name, Answer([], None))
        assert before.reason is None
        # A first token or an end never waits.
        assert step.urgent or (before.tokens and row not in ends)
        tokens = step.columns.tokens[taken : taken + count].tolist()
        answers[name] = Answer(before.tokens + tokens, ends.get(row))
        taken += count
    assert taken == len(step.columns.tokens)


async def answers_of(
    engine: Engine, until: Callable[[dict[int, Answer]], bool], answers: dict[int, Answer] | None = None
) -> dict[int, Answer]:
    """Take steps until the answers fulfil a condition."""
    answers = {} if answers is None else answers
    while not until(answers):
        add(answers, await engine.step())
    return answers


def finished(*names: int) -> Callable[[dict[int, Answer]], bool]:
    """Return a condition: these requests have ended."""
    return lambda answers: all(name in answers and answers[name].reason for name in names)


async def generate(engine: Engine, prompts: list[list[int]], budgets: list[int]) -> list[Answer]:
    """Run one greedy run from open to the last answer, then reset the engine."""
    engine.open(GREEDY)
    names = list(range(len(prompts)))
    engine.submit(columns(names, prompts, budgets))
    answers = await bounded(answers_of(engine, finished(*names)))
    await engine.reset()
    return [answers[name] for name in names]


@contextlib.contextmanager
def environment_kept() -> Iterator[None]:
    """Restore the environment variables that parsing and vLLM change."""
    saved = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


@contextlib.asynccontextmanager
async def open_engine(engine: _Engine) -> AsyncIterator[_Engine]:
    """Yield an engine, and close it at the end of the block, whatever happens in it; twice does no harm."""
    try:
        yield engine
    finally:
        await bounded(engine.close(), 60)


def children() -> list[str]:
    """List this process's children, except multiprocessing's helper processes.

    Raises:
        psutil.ZombieProcess: A child has ended and was not reaped.
    """
    import psutil  # type: ignore[import-untyped]  # vLLM brings it, nobody its stubs

    commands = []
    for child in psutil.Process().children(recursive=True):
        try:
            commands.append(" ".join(child.cmdline()))
        except psutil.ZombieProcess:
            raise
        except psutil.NoSuchProcess:
            # It ended just now, and has been collected.
            continue
    own = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
    return [command for command in commands if not any(name in command for name in own)]
