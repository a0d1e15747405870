"""VllmEngine over the real vLLM: a tiny gpt-oss of random weights in float32, so that greedy is exact."""

import asyncio
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from protos import worker_pb2 as pb
from tests.worker.engines.greedy import (
    ANSWER_LEN,
    GREEDY,
    Answer,
    Reference,
    answers_of,
    bounded,
    children,
    columns,
    engine_prompts,
    environment_kept,
    finished,
    generate,
)
from worker.engine_protocol import EngineDead, EngineInfo, Load
from worker.engines.vllm.vllm_engine import VllmEngine, parse_engine_flags

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # vLLM's and torch's imports warn

NUM_PROMPTS = 8
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
FLAGS = ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "64"]
FLAGS += ["--kv-cache-memory-bytes", "64M", "--cudagraph-capture-sizes", "480"]


class Served(NamedTuple):
    """A started engine and what was seen while it started."""

    engine: VllmEngine
    engine_info: EngineInfo
    num_turns: int
    log: list[str]


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment variables that parsing and vLLM change."""
    with environment_kept():
        yield


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Draw them."""
    return engine_prompts()


@pytest.fixture(scope="module")
def endless(reference: Reference) -> list[list[int]]:
    """Take vLLM's own greedy answers, 24 tokens each, no stop ids."""
    return reference.endless


@pytest.fixture(scope="module")
def stop_id(endless: list[list[int]]) -> int:
    """Choose a stop id: the tenth token of the first answer, where that answer has it first."""
    assert endless[0].index(endless[0][9]) == 9
    return endless[0][9]


@pytest.fixture(scope="module")
def expected(endless: list[list[int]], stop_id: int) -> list[Answer]:
    """Cut each answer after its first stop id; the checkpoint's config.json adds 4002."""
    answers = []
    for tokens in endless:
        ends = [i + 1 for i, token in enumerate(tokens) if token in (stop_id, 4002)]
        answers.append(Answer(tokens[: ends[0]], STOP) if ends else Answer(tokens, LENGTH))
    return answers


@pytest.fixture(scope="module")
def flags(stop_id: int, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Name the chosen stop id in a generation config of its own."""
    folder = tmp_path_factory.mktemp("generation")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop_id}))
    return [*FLAGS, "--generation-config", str(folder)]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Keep one event loop for the tests of this file: vLLM's front end lives in it."""
    with asyncio.Runner() as loop_runner:
        yield loop_runner


@pytest.fixture(scope="module")
def served(runner: asyncio.Runner, flags: list[str], checkpoint: Path) -> Iterator[Served]:
    """Start the engine that all tests but the last few share."""
    engine = VllmEngine(parse_engine_flags(flags, str(checkpoint)))

    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    worker_log, handler = logging.getLogger("worker.engines.vllm.vllm_engine"), QueueHandler(records)
    worker_log.addHandler(handler)
    worker_log.setLevel(logging.INFO)

    async def start() -> Served:
        starting, num_turns = asyncio.create_task(engine.start()), 0
        while not starting.done():
            await asyncio.wait({starting}, timeout=0.05)
            num_turns += 1
        log = [records.get().getMessage() for _ in range(records.qsize())]
        return Served(engine, starting.result(), num_turns, log)

    try:
        yield runner.run(bounded(start(), 300))
    finally:
        worker_log.removeHandler(handler)
        worker_log.setLevel(logging.NOTSET)
        runner.run(bounded(engine.close(), 60))


def test_greedy_answers_are_those_of_vllm(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]], expected: list[Answer]
) -> None:
    """Tokens equal those of vllm.LLM; a stop id ends an answer and is its last token."""
    assert (10, STOP) == (len(expected[0].tokens), expected[0].reason)
    assert LENGTH in [answer.reason for answer in expected]
    assert expected == runner.run(generate(served.engine, prompts, [ANSWER_LEN] * NUM_PROMPTS))


def test_step_sizes_are_run_before_the_engine_serves(served: Served) -> None:
    """A start runs 1 + 4 prompts and one group of sizes above 480, 481, 484, 496, 511: nothing compiles."""
    assert any(line.startswith("warmed up on 9 prompts in ") for line in served.log), served.log


def test_engine_says_what_it_is(served: Served, checkpoint: Path, stop_id: int) -> None:
    """The EngineInfo has the values of the checkpoint, the flags and vLLM."""
    import vllm

    engine_info = served.engine_info
    assert ("vllm", str(checkpoint)) == (engine_info.engine, engine_info.model)
    assert vllm.__version__.startswith(engine_info.engine_version)
    assert tuple(sorted((stop_id, 4002))) == engine_info.stop_token_ids
    assert (4096, 512, 64) == (engine_info.vocab_size, engine_info.max_model_len, engine_info.max_num_seqs)
    assert 1 == engine_info.tensor_parallel_size
    args = engine_info.engine_args
    assert ("false", '"torch.float32"') == (args["enable_prefix_caching"], args["dtype"])


def test_event_loop_goes_on_while_the_model_loads(served: Served) -> None:
    """The event loop is not blocked during the load, so health checks are answered."""
    assert served.num_turns > 20


def test_budget_ends_an_answer(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]], endless: list[list[int]]
) -> None:
    """Each row has its own budget; an answer of that many tokens ends with LENGTH."""
    answers = runner.run(generate(served.engine, [prompts[0]] * 3, [1, 5, 9]))
    assert [Answer(endless[0][:num_tokens], LENGTH) for num_tokens in (1, 5, 9)] == answers


def test_answer_goes_on_after_tokens_produced_elsewhere(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]], endless: list[list[int]]
) -> None:
    """A prompt that ends with four tokens of the answer gets the other six, up to the stop id."""
    answers = runner.run(generate(served.engine, [prompts[0] + endless[0][:4]], [ANSWER_LEN - 4]))
    assert [Answer(endless[0][4:10], STOP)] == answers


def test_seeded_run_repeats(runner: asyncio.Runner, served: Served, prompts: list[list[int]]) -> None:
    """Temperature and seed reach the sampler: a seed repeats its answer, another one differs."""

    async def sample(seed: int) -> list[int]:
        spec = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8, seed=seed)
        served.engine.open(spec)
        served.engine.submit(columns([0], [prompts[0]], [8]))
        answers = await bounded(answers_of(served.engine, finished(0)))
        await served.engine.reset()
        return answers[0].tokens

    first, again, other = (runner.run(sample(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_cancelled_requests_say_nothing_more(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]], endless: list[list[int]]
) -> None:
    """A request cancelled while running or before it starts never ends; the others do; unknown names pass."""
    engine = served.engine

    async def cancel() -> dict[int, Answer]:
        engine.open(GREEDY)
        engine.submit(columns([1, 2, 3], [prompts[1], prompts[0], prompts[0]], [200, ANSWER_LEN, 9]))
        engine.cancel([3])
        answers = await bounded(answers_of(engine, lambda so_far: {1, 2} <= set(so_far)))
        assert (2, 0) == engine.load()[:2]
        engine.cancel([1, 77])
        await bounded(answers_of(engine, finished(2), answers))
        await asyncio.sleep(0)
        assert (0, 0) == engine.load()[:2]
        await engine.reset()
        return answers

    answers = runner.run(cancel())
    assert {1, 2} == set(answers)
    assert (None, Answer(endless[0][:10], STOP)) == (answers[1].reason, answers[2])


def test_load_counts_requests_before_and_after_their_first_token(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]]
) -> None:
    """Of 70 requests on 64 slots all wait at first; six still wait when the others have a token."""
    engine = served.engine

    async def count() -> tuple[Load, Load]:
        engine.open(GREEDY)
        engine.submit(columns(list(range(70)), [prompts[1]] * 70, [200] * 70))
        before = engine.load()
        await bounded(answers_of(engine, lambda answers: len(answers) == 64))
        after = engine.load()
        await engine.reset()
        return before, after

    before, after = runner.run(count())
    assert [(0, 70), (64, 6)] == [load[:2] for load in (before, after)]
    # 64 requests of a few dozen tokens use some of 64 MB; an idle engine none.
    assert after.kv_use is not None and 0 < after.kv_use < 1


def test_reset_empties_the_engine(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]], expected: list[Answer]
) -> None:
    """After a reset nothing of the old run is left, and the same names serve the next."""
    engine = served.engine

    async def abandon() -> Load:
        engine.open(GREEDY)
        engine.submit(columns(list(range(70)), [prompts[1]] * 70, [400] * 70))
        await bounded(engine.step())
        await bounded(engine.reset())
        return engine.load()

    assert (0, 0) == runner.run(abandon())[:2]
    assert expected == runner.run(generate(engine, prompts, [ANSWER_LEN] * NUM_PROMPTS))


def test_killed_engine_core_is_noticed(runner: asyncio.Runner, served: Served) -> None:
    """An idle engine whose process was killed raises EngineDead from step(); the shared engine ends here."""
    (engine_core,) = multiprocessing.active_children()
    assert engine_core.pid is not None
    os.kill(engine_core.pid, signal.SIGKILL)
    with pytest.raises(EngineDead, match="engine core"):
        runner.run(bounded(served.engine.step(), 20))
    runner.run(bounded(served.engine.reset()))
    runner.run(bounded(served.engine.close()))
    assert [] == children()
