"""SglangEngine over a stand-in for SGLang: real processes and sockets, a model that counts down."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from protos import worker_pb2 as pb
from tests.worker.asks import Ask, submit
from tests.worker.engines.engine_contract import EngineContract, Served, reason_of_death
from tests.worker.engines.greedy import GREEDY, Answer, answers_of, bounded, children, finished, open_engine
from worker.engine_protocol import EngineDead
from worker.engines.sglang.sglang_engine import SglangEngine, parse_server_flags

STAND_IN = Path(__file__).parent / "sglang_stand_in"
END = 200_002
CRASH = [1_000]
FLAGS = ["--device", "cpu", "--max-running-requests", "4", "--context-length", "4096"]


@pytest.fixture(scope="module", autouse=True)
def stand_in() -> Iterator[None]:
    """Put the stand-in where SGLang would be found; spawned processes inherit the path."""
    sys.path.insert(0, str(STAND_IN))
    yield
    sys.path.remove(str(STAND_IN))
    for name in [name for name in sys.modules if name.partition(".")[0] == "sglang"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of which only the sizes and the stop id are read."""
    path = tmp_path_factory.mktemp("model")
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8}
    sizes = {"vocab_size": 201_088, "max_position_embeddings": 131_072, "eos_token_id": END}
    (path / "config.json").write_text(json.dumps(heads | sizes))
    return path


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Keep one event loop for the tests of this file."""
    with asyncio.Runner() as loop_runner:
        yield loop_runner


def make(model: Path, *flags: str) -> SglangEngine:
    """Make an engine with random weights: the checkpoint has none."""
    return SglangEngine(parse_server_flags([*FLAGS, "--load-format", "dummy", *flags], str(model)))


@pytest.fixture(scope="module")
def served(runner: asyncio.Runner, model: Path) -> Iterator[Served]:
    """Start the engine that most tests share."""
    engine = make(model)
    try:
        info = runner.run(bounded(engine.start()))
        yield Served(engine, info, ([7, 4], [3, 2, 1, END]), ([9, 600], [*range(599, 587, -1)]))
    finally:
        runner.run(bounded(engine.close()))
        assert [] == children()


def socket_directories() -> set[Path]:
    """Find the directories with the sockets of this process's engines."""
    sockets = [c.laddr for c in psutil.Process().net_connections("unix") if "/" in c.laddr]
    return {path for path in (Path(name).parent for name in sockets) if path.name.startswith("tokenfleet-")}


class TestSglangEngine(EngineContract):
    """The contract of an engine."""

    def test_it_says_what_it_is(self, served: Served, model: Path) -> None:
        """The EngineInfo has the values of the checkpoint, of the flags and of SGLang's scheduler."""
        info = served.info
        assert ("sglang", "0.5.15", str(model)) == (info.engine, info.engine_version, info.model)
        # SGLang keeps 6 tokens of the context for itself.
        assert (201_088, 4090, 4, 1) == (
            info.vocab_size,
            info.max_model_len,
            info.max_num_seqs,
            info.tensor_parallel_size,
        )
        assert (END,) == info.stop_token_ids
        assert ("true", '"dummy"') == (
            info.engine_facts["disable_radix_cache"],
            info.engine_args["load_format"],
        )

    def test_what_sglang_refuses_is_one_line(self, runner: asyncio.Runner, served: Served) -> None:
        """SGLang's own check of the sampling parameters is made before the run."""
        with pytest.raises(ValueError, match=r"^temperature must be .* got -1\.0\.$"):
            served.engine.open(pb.RunSpec(temperature=-1.0, top_p=1.0, top_k=-1, max_new_tokens=8))

    def test_a_seed_that_sglang_would_not_use_is_refused(self, served: Served, model: Path) -> None:
        """SGLang uses a request's seed only in its deterministic mode, and says nothing otherwise."""
        seeded = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8, seed=1)
        with pytest.raises(ValueError, match=r"^seed: .* only with --enable-deterministic-inference$"):
            served.engine.open(seeded)
        make(model, "--enable-deterministic-inference").open(seeded)

    def test_the_kv_cache_is_polled(self, runner: asyncio.Runner, served: Served) -> None:
        """The load has the use of the KV cache, which SGLang's scheduler is asked for once a second."""
        engine = served.engine

        async def walk() -> float | None:
            engine.open(GREEDY)
            submit(engine, {1: Ask([3900] * 100, 3900)})
            while not engine.load().kv_use:
                await bounded(engine.step())
            kv_use = engine.load().kv_use
            await bounded(engine.reset())
            return kv_use

        kv_use = runner.run(walk())
        assert kv_use is not None and 0 < kv_use < 0.1

    def test_nothing_is_left_in_the_temporary_directory(self, served: Served) -> None:
        """The sockets are in a directory of this engine, which only this user can read."""
        (directory,) = socket_directories()
        assert 0o700 == directory.stat().st_mode & 0o777

    def test_a_step_may_have_several_tokens_of_a_request(
        self, runner: asyncio.Runner, served: Served
    ) -> None:
        """With three tokens per step, which the stand-in takes from top_k, answers end as they should."""
        engine = served.engine

        async def walk() -> dict[int, Answer]:
            engine.open(pb.RunSpec(temperature=1.0, top_p=1.0, top_k=3, max_new_tokens=99))
            submit(engine, {1: Ask([9, 20], 7), 2: Ask([7, 4]), 3: Ask([7, 20])})
            answers = await bounded(answers_of(engine, finished(1, 2, 3)))
            await bounded(engine.reset())
            return answers

        assert runner.run(walk()) == {
            1: Answer([*range(19, 12, -1)], pb.FINISH_REASON_LENGTH),
            2: Answer([3, 2, 1, END], pb.FINISH_REASON_STOP),
            3: Answer([*range(19, 0, -1), END], pb.FINISH_REASON_STOP),
        }


def sglang_processes() -> list[psutil.Process]:
    """List launcher, scheduler and detokenizer."""
    spawned = []
    for process in psutil.Process().children(recursive=True):
        # One may end while it is looked at.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(process.cmdline()):
                spawned.append((process.create_time(), process.pid, process))
    return [process for _, _, process in sorted(spawned)]


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, whether its parent has waited for it or not."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        pytest.param(0, "SGLang's launcher has ended: signal SIGKILL", marks=pytest.mark.long),
        (1, "SGLang's scheduler process has ended: signal SIGKILL"),
        pytest.param(2, "SGLang's detokenizer process has ended: signal SIGKILL", marks=pytest.mark.long),
    ],
    ids=["launcher", "scheduler", "detokenizer"],
)
def test_a_killed_process_ends_the_engine(
    runner: asyncio.Runner, model: Path, index: int, reason: str
) -> None:
    """While no step is awaited too: the reason names the process and the signal; no process is left."""

    async def walk() -> None:
        async with open_engine(make(model)) as engine:
            await bounded(engine.start())
            processes = sglang_processes()[-3:]
            assert reason == await reason_of_death(engine, processes[index].kill)
            async with asyncio.timeout(60):
                while not all(map(has_ended, processes)):  # noqa: ASYNC110 - the kernel ends them
                    await asyncio.sleep(0.01)

    runner.run(walk())


def test_an_unreadable_message_ends_the_engine(runner: asyncio.Runner, model: Path) -> None:
    """The reason names the error; `reset` and `close` still end."""

    async def walk() -> None:
        before = socket_directories()
        async with open_engine(make(model)) as engine:
            await bounded(engine.start())
            (directory,) = socket_directories() - before
            with zmq.Context() as context, context.socket(zmq.PUSH) as outputs:
                outputs.connect(f"ipc://{directory}/tokenizer")
                outputs.send(b"no message")
                with pytest.raises(EngineDead, match=r"^UnpicklingError: "):
                    await bounded(engine.step())
            await bounded(engine.reset())

    runner.run(walk())


def test_a_failure_of_the_scheduler_ends_the_engine(runner: asyncio.Runner, served: Served) -> None:
    """An error inside SGLang is a loss; the shared engine ends here."""

    async def walk() -> None:
        served.engine.open(GREEDY)
        submit(served.engine, {1: Ask(CRASH)})
        with pytest.raises(EngineDead, match=r"^one of SGLang's processes has failed; see its log above$"):
            await bounded(served.engine.step())
        await bounded(served.engine.reset())

    runner.run(walk())


@pytest.mark.parametrize("knob", ["fail_to_load", "load_in_another_way"])
def test_a_load_that_fails_ends_the_engine(runner: asyncio.Runner, model: Path, knob: str) -> None:
    """An error while the model loads is reported by `start`, and no process is left.

    Random weights that the changed loader did not make are an error too.
    """

    async def walk() -> None:
        flags = "--json-model-override-args", json.dumps({knob: True})
        async with open_engine(make(model, *flags)) as engine:
            with pytest.raises(EngineDead, match="SGLang"):
                await bounded(engine.start())

    runner.run(walk())


@pytest.mark.long
def test_a_load_can_be_interrupted(runner: asyncio.Runner, model: Path) -> None:
    """`close` ends SGLang's processes also before the scheduler is ready."""

    async def walk() -> None:
        before = len(sglang_processes())
        async with open_engine(make(model)) as engine:
            starting = asyncio.ensure_future(engine.start())
            async with asyncio.timeout(60):
                while len(sglang_processes()) == before:  # noqa: ASYNC110 - nothing tells when one starts
                    await asyncio.sleep(0.01)
            starting.cancel()
        assert before == len(sglang_processes())

    runner.run(walk())
