"""SglangEngine over the real SGLang: the contract of an engine, on a tiny checkpoint of random weights.

    pytest -m gpu tests/worker/engines/test_sglang_real.py

TOKENFLEET_SGLANG_MODEL is a checkpoint in place of the tiny gpt-oss, TOKENFLEET_SGLANG_FLAGS are further
flags of SGLang.
"""

import asyncio
import json
import os
import random
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil  # type: ignore[import-untyped]  # SGLang brings it, nobody its stubs
import pytest
from safetensors.numpy import load_file, save_file

from tests.worker.asks import Ask, submit
from tests.worker.engines.engine_contract import EngineContract, Served, reason_of_death
from tests.worker.engines.greedy import GREEDY, answers_of, bounded, children, finished
from worker.engines.sglang.sglang_engine import SglangEngine, parse_server_flags

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]

START_TIMEOUT_S = 600
SLOTS = 4
FLAGS = ["--context-length", "1024", "--max-running-requests", str(SLOTS), "--max-total-tokens", "16384"]
# Two loads within a minute: graphs of a prefill take SGLang as long again, and no test needs them.
FLAGS += ["--cuda-graph-max-bs-decode", str(SLOTS), "--cuda-graph-backend-prefill", "disabled"]
BRANCH_GAIN = 0.1
NEVER = 3
"""A stop id that no answer has, while the answers are drawn."""


def make(model: Path) -> SglangEngine:
    """Make an engine."""
    return SglangEngine(
        parse_server_flags([*FLAGS, *os.environ.get("TOKENFLEET_SGLANG_FLAGS", "").split()], str(model))
    )


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Keep one event loop for the tests of this file."""
    with asyncio.Runner() as loop_runner:
        yield loop_runner


def walking(model: Path, copy: Path) -> Path:
    """Copy a checkpoint and change its head, so that each token has its own successor, by a wide margin.

    Greedy answers then do not depend on how the numbers of a step are rounded, in which the other requests of
    the step have a part, and yet all kernels run.

    SGLang's gpt-oss takes the type of some weights from the checkpoint and of others from --dtype, and its
    attention kernels have no float32: so the checkpoint names bfloat16.
    """
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    weights = load_file(copy / "model.safetensors")
    embedded = weights["model.embed_tokens.weight"]
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    embedded *= embedded.shape[1] ** 0.5
    weights["lm_head.weight"] = embedded[np.random.default_rng(1).permutation(len(embedded))]
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weights[name] = weight * BRANCH_GAIN
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def with_stop_id(model: Path, copy: Path, stop_id: int) -> Path:
    """Copy a checkpoint and give it one stop id."""
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("generation_config.json"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"eos_token_id": stop_id}))
    return copy


def process_of(title: str) -> psutil.Process:
    """Find the process of an engine by the title that SGLang gives it."""
    tree = psutil.Process().children(recursive=True)
    (found,) = (process for process in tree if "".join(process.cmdline()).startswith(f"sglang::{title}"))
    return found


class Drawn(NamedTuple):
    """What the first engine has answered, and why it has died."""

    answers: list[list[int]]
    reason: str


async def greedy_answers(engine: SglangEngine, prompts: list[list[int]]) -> Drawn:
    """Answer each prompt alone with 450 tokens, then kill the detokenizer."""
    answers = []
    try:
        await bounded(engine.start(), START_TIMEOUT_S)
        for prompt in prompts:
            engine.open(GREEDY)
            submit(engine, {0: Ask(prompt, 450)})
            answers.append((await bounded(answers_of(engine, finished(0)), START_TIMEOUT_S))[0].tokens)
            await engine.reset()
        reason = await reason_of_death(engine, process_of("detokenizer").kill)
    finally:
        await engine.close()
    return Drawn(answers, reason)


def choose(prompts: list[list[int]], answers: list[list[int]]) -> tuple[int, int, int, int]:
    """Choose a stop id: token 4 to 10 of one answer, where it has it first, and in no token of another.

    Returns:
        The two rows, the number of tokens of the first answer, and the stop id.
    """
    for row, answer in enumerate(answers):
        for num in range(4, 11):
            stop_id = answer[num - 1]
            others = [other for other in range(len(prompts)) if stop_id not in answers[other]]
            if answer.index(stop_id) == num - 1 and others:
                return row, others[0], num, stop_id
    raise AssertionError("no token can be the stop id")


@pytest.fixture(scope="module")
def model(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the checkpoint of all tests."""
    found = Path(os.environ.get("TOKENFLEET_SGLANG_MODEL", checkpoint))
    return walking(found, tmp_path_factory.mktemp("model") / "walking")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Draw them."""
    rng = random.Random(1)
    return [[rng.randrange(10, 3990) for _ in range(6)] for _ in range(4)]


@pytest.fixture(scope="module")
def drawn(
    runner: asyncio.Runner, model: Path, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Drawn:
    """Take answers without a stop id."""
    endless = with_stop_id(model, tmp_path_factory.mktemp("model") / "endless", NEVER)
    return runner.run(greedy_answers(make(endless), prompts))


@pytest.fixture(scope="module")
def served(
    runner: asyncio.Runner,
    model: Path,
    prompts: list[list[int]],
    drawn: Drawn,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """Choose a stop id, and start the engine that the tests share."""
    answers = drawn.answers
    row, other, num, stop_id = choose(prompts, answers)
    engine = make(with_stop_id(model, tmp_path_factory.mktemp("model") / "stopping", stop_id))
    try:
        info = runner.run(bounded(engine.start(), START_TIMEOUT_S))
        yield Served(engine, info, (prompts[row], answers[row][:num]), (prompts[other], answers[other][:12]))
    finally:
        runner.run(bounded(engine.close()))
        assert [] == children()


class TestSglang(EngineContract):
    """The contract of an engine."""

    def test_sglang_sends_the_stop_id_itself(self, runner: asyncio.Runner, served: Served) -> None:
        """The scheduler's own message has the stop id as its last token: nothing is restored."""
        engine, seen = served.engine, []
        assert isinstance(engine, SglangEngine)

        async def walk() -> None:
            engine.open(GREEDY)
            submit(engine, {0: Ask(served.short[0])})
            while not any(output.finish_reasons[0] for output in seen):
                await asyncio.sleep(0.01)
                seen.extend(output for output, _ in engine._steps)
            await bounded(engine.reset())

        runner.run(bounded(walk()))
        last = next(output for output in seen if output.finish_reasons[0])
        assert served.short[1][-1] == last.new_token_ids[0][-1]
        assert {"type": "stop", "matched": served.short[1][-1]} == last.finish_reasons[0]


def test_tokens_have_their_own_successors(drawn: Drawn) -> None:
    """In no answer does a token follow two tokens, or two tokens one: requests and steps do not mix."""
    pairs = {pair for answer in drawn.answers for pair in pairwise(answer)}
    assert len(pairs) == len({before for before, _ in pairs}) == len({after for _, after in pairs})
    assert len(pairs) > 450


def test_a_killed_detokenizer_ends_the_engine(drawn: Drawn) -> None:
    """It has no work, but SGLang ends with it."""
    assert "SGLang's detokenizer process has ended: signal SIGKILL" == drawn.reason


def test_a_killed_scheduler_ends_the_engine(runner: asyncio.Runner, served: Served) -> None:
    """An idle engine notices it, and leaves no process; the shared engine ends here."""
    reason = runner.run(reason_of_death(served.engine, process_of("scheduler").kill))
    assert "SGLang's scheduler process has ended: signal SIGKILL" == reason
    assert [] == children()
