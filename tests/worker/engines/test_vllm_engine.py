"""VllmEngine over the real vLLM: a tiny gpt-oss of random weights in float32, so that greedy is exact."""

import asyncio
import json
import logging
import multiprocessing
from collections.abc import Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

from protos import worker_pb2 as pb
from tests.worker.asks import Ask, submit
from tests.worker.engines.engine_contract import EngineContract, Served, reason_of_death
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
from worker.engines.vllm.vllm_engine import VllmEngine, parse_engine_flags

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # vLLM's and torch's imports warn

NUM_PROMPTS = 8
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
FLAGS = ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "64"]
FLAGS += ["--kv-cache-memory-bytes", "64M", "--cudagraph-capture-sizes", "480"]


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


class Start(NamedTuple):
    """What was seen while the engine started."""

    turns: list[int]
    """One entry for each turn of the event loop."""
    log: list[str]


@pytest.fixture(scope="module")
def start_of_engine() -> Start:
    """Make it; `served` fills it."""
    return Start([], [])


@pytest.fixture(scope="module")
def served(
    runner: asyncio.Runner,
    flags: list[str],
    checkpoint: Path,
    prompts: list[list[int]],
    endless: list[list[int]],
    start_of_engine: Start,
) -> Iterator[Served]:
    """Start the engine that all tests share; its first answer is the short one."""
    engine = VllmEngine(parse_engine_flags(flags, str(checkpoint)))
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    worker_log, handler = logging.getLogger("worker.engines.vllm.vllm_engine"), QueueHandler(records)
    worker_log.addHandler(handler)
    worker_log.setLevel(logging.INFO)

    async def start() -> Served:
        starting = asyncio.create_task(engine.start())
        while not starting.done():
            await asyncio.wait({starting}, timeout=0.05)
            start_of_engine.turns.append(1)
        start_of_engine.log.extend(records.get().getMessage() for _ in range(records.qsize()))
        answers = (prompts[0], endless[0][:10]), (prompts[1], endless[1][:12])
        return Served(engine, starting.result(), *answers)

    try:
        yield runner.run(bounded(start(), 300))
    finally:
        worker_log.removeHandler(handler)
        worker_log.setLevel(logging.NOTSET)
        runner.run(bounded(engine.close(), 60))


class TestVllmEngine(EngineContract):
    """The contract of an engine."""

    def test_the_kv_cache_is_reported(self, runner: asyncio.Runner, served: Served) -> None:
        """64 requests of a few dozen tokens use some of 64 MB."""

        async def walk() -> float | None:
            served.engine.open(GREEDY)
            submit(served.engine, {name: Ask(served.long[0], 200) for name in range(64)})
            await bounded(answers_of(served.engine, lambda answers: len(answers) == 64))
            kv_use = served.engine.load().kv_use
            await bounded(served.engine.reset())
            return kv_use

        kv_use = runner.run(walk())
        assert kv_use is not None and 0 < kv_use < 1


def test_greedy_answers_are_those_of_vllm(
    runner: asyncio.Runner, served: Served, prompts: list[list[int]], expected: list[Answer]
) -> None:
    """Tokens equal those of vllm.LLM; a stop id ends an answer and is its last token."""
    assert (10, STOP) == (len(expected[0].tokens), expected[0].reason)
    assert LENGTH in [answer.reason for answer in expected]
    assert expected == runner.run(generate(served.engine, prompts, [ANSWER_LEN] * NUM_PROMPTS))


@pytest.mark.usefixtures("served")
def test_step_sizes_are_run_before_the_engine_serves(start_of_engine: Start) -> None:
    """A start runs 1 + 4 prompts and one group of sizes above 480, 481, 484, 496, 511: nothing compiles."""
    log = start_of_engine.log
    assert any(line.startswith("warmed up on 9 prompts in ") for line in log), log


def test_engine_says_what_it_is(served: Served, checkpoint: Path, stop_id: int) -> None:
    """The EngineInfo has the values of the checkpoint, the flags and vLLM."""
    import vllm

    engine_info = served.info
    assert ("vllm", str(checkpoint)) == (engine_info.engine, engine_info.model)
    assert vllm.__version__.startswith(engine_info.engine_version)
    assert tuple(sorted((stop_id, 4002))) == engine_info.stop_token_ids
    assert (4096, 512, 64) == (engine_info.vocab_size, engine_info.max_model_len, engine_info.max_num_seqs)
    assert 1 == engine_info.tensor_parallel_size
    args = engine_info.engine_args
    assert ("false", '"torch.float32"') == (args["enable_prefix_caching"], args["dtype"])


@pytest.mark.usefixtures("served")
def test_event_loop_goes_on_while_the_model_loads(start_of_engine: Start) -> None:
    """The event loop is not blocked during the load, so health checks are answered."""
    assert len(start_of_engine.turns) > 20


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


def test_killed_engine_core_is_noticed(runner: asyncio.Runner, served: Served) -> None:
    """An idle engine whose process was killed raises EngineDead from step(); the shared engine ends here."""
    (engine_core,) = multiprocessing.active_children()
    assert "engine core" in runner.run(reason_of_death(served.engine, engine_core.kill))
    assert [] == children()
