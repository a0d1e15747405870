"""SglangEngine over the real SGLang: the contract of an engine, on a tiny checkpoint of random weights.

TOKENFLEET_SGLANG_MODEL is a checkpoint in place of the tiny gpt-oss, TOKENFLEET_SGLANG_FLAGS are flags of
SGLang. Answers are greedy: the flags should make a token independent of the other requests of a step.
"""

import asyncio
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.asks import Ask, submit
from tests.worker.engines.engine_contract import EngineContract, Served
from tests.worker.engines.greedy import GREEDY, answers_of, bounded, children, finished
from worker.engines.sglang.sglang_engine import SglangEngine, parse_server_flags

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]

START_TIMEOUT_S = 600
SLOTS = 4
FLAGS = ["--context-length", "1024", "--max-running-requests", str(SLOTS), "--max-total-tokens", "16384"]
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


def with_stop_id(model: Path, copy: Path, stop_id: int) -> Path:
    """Copy a checkpoint and give it one stop id."""
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("generation_config.json"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"eos_token_id": stop_id}))
    return copy


async def greedy_answers(engine: SglangEngine, prompts: list[list[int]]) -> list[list[int]]:
    """Answer each prompt alone with 450 tokens."""
    answers = []
    try:
        await bounded(engine.start(), START_TIMEOUT_S)
        for prompt in prompts:
            engine.open(GREEDY)
            submit(engine, {0: Ask(prompt, 450)})
            answers.append((await bounded(answers_of(engine, finished(0))))[0].tokens)
            await engine.reset()
    finally:
        await engine.close()
    return answers


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
def served(
    runner: asyncio.Runner, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Draw answers without a stop id, choose one, and start the engine that the tests share."""
    model = Path(os.environ.get("TOKENFLEET_SGLANG_MODEL", checkpoint))
    scratch = tmp_path_factory.mktemp("models")
    drawn = random.Random(1)
    prompts = [[drawn.randrange(10, 3990) for _ in range(6)] for _ in range(4)]
    endless = make(with_stop_id(model, scratch / "endless", NEVER))
    answers = runner.run(greedy_answers(endless, prompts))
    row, other, num, stop_id = choose(prompts, answers)
    engine = make(with_stop_id(model, scratch / "stopping", stop_id))
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
