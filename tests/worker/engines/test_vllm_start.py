"""VllmEngine failures: refused configurations, interrupted loads, failures inside vLLM."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from protos import worker_pb2 as pb
from tests.worker.engines.failing_scheduler import FATAL_PROMPT_LEN, SCHEDULER, WORDS
from tests.worker.engines.greedy import (
    bounded,
    children,
    columns,
    environment_kept,
    generate,
    open_engine,
)
from worker.engine_protocol import EngineDead
from worker.engines.vllm import engine_core, vllm_engine
from worker.engines.vllm.causes import VARIABLE, CauseLog
from worker.engines.vllm.engine_args import build_engine, describe
from worker.engines.vllm.vllm_engine import VllmEngine, parse_engine_flags, sampling_params

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # vLLM's and torch's imports warn


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Restore the environment variables that parsing and vLLM change, and check that no engine is open.

    A started engine has a directory for its sockets, and sets a variable until it is closed.
    """
    with environment_kept():
        yield
        assert VARIABLE not in os.environ


@pytest.mark.parametrize(
    ("argv", "changes", "message"),
    [
        (
            ["--max-model-len", "200000"],
            {},
            r"^User-specified max_model_len \(200000\) is greater than .*=131072",
        ),
        (["--gpu-memory-utilization", "1.5"], {}, "less than or equal to 1"),
        ([], {"architectures": ["NoSuchModel"]}, "NoSuchModel"),
    ],
)
def test_configuration_that_vllm_refuses_is_one_line(
    argv: list[str], changes: dict[str, object], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    """A configuration that vLLM refuses is a ValueError with one line."""
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    engine = VllmEngine(parse_engine_flags(argv, str(tmp_path)))

    async def start() -> None:
        async with open_engine(engine):
            with pytest.raises(ValueError, match=message) as caught:
                await bounded(engine.start())
            assert "\n" not in str(caught.value)

    asyncio.run(start())


@pytest.mark.parametrize(
    ("argv", "slots"),
    [
        ([], 4),
        (["--data-parallel-size", "3"], 12),
        # One rank behind each front end.
        (["--data-parallel-size", "3", "--data-parallel-rank", "1"], 4),
        # Two of the four ranks behind this front end.
        (["-dp", "4", "--data-parallel-size-local", "2", "--data-parallel-hybrid-lb"], 8),
    ],
)
def test_slots_are_those_of_all_engines_behind_the_worker(
    argv: list[str], slots: int, checkpoint: Path
) -> None:
    """Each of vLLM's data parallel engines runs --max-num-seqs requests at once."""
    from vllm.usage.usage_lib import UsageContext

    flags = parse_engine_flags(["--max-num-seqs", "4", *argv], str(checkpoint))
    config = flags.engine_args.create_engine_config(UsageContext.OPENAI_API_SERVER)
    model = flags.hash_model(threading.Event())
    assert slots == describe(flags, config, model).max_num_seqs


def test_parameters_that_vllm_refuses_are_one_line(checkpoint: Path) -> None:
    """Sampling parameters that vLLM refuses are a ValueError, whichever exception vLLM raises."""
    engine = VllmEngine(parse_engine_flags([], str(checkpoint)))
    with pytest.raises(ValueError, match=r"^temperature must be in \[0, 2\], got 2.5\."):
        engine.open(pb.RunSpec(temperature=2.5, top_p=1, top_k=-1, max_new_tokens=1))


@pytest.mark.parametrize(
    ("argv", "installed"),
    [
        ([], True),
        (["--distributed-executor-backend", "mp"], True),
        (["--distributed-executor-backend", "ray"], False),
        (["--data-parallel-backend", "ray"], False),
    ],
)
def test_a_file_of_this_machine_configures_no_log_of_another(
    argv: list[str], installed: bool, checkpoint: Path
) -> None:
    """With Ray, whose processes may run on other machines, no logging configuration file is set."""
    causes = CauseLog(parse_engine_flags(argv, str(checkpoint)).is_local)
    try:
        assert installed == (VARIABLE in os.environ)
    finally:
        causes.close()


@pytest.mark.parametrize("stream", ["ext://sys.stderr", "ext://sys.stdout"])
def test_vllms_processes_log_where_the_variable_says(stream: str) -> None:
    """Also if it was set after this process had imported vLLM, which reads it then."""
    import vllm.logger

    assert vllm.logger.DEFAULT_LOGGING_CONFIG
    os.environ["VLLM_LOGGING_STREAM"] = stream
    causes = CauseLog(is_local=True)
    try:
        config = json.loads(Path(os.environ[VARIABLE]).read_text())
        assert stream == config["handlers"]["vllm"]["stream"]
    finally:
        causes.close()


def test_vllm_adds_no_stop_id_to_those_that_the_worker_reports() -> None:
    """A tokenizer or a generation config of --hf-config-path may have other ids; no answer ends there.

    The coordinator would take such an end for a wrong one, and the worker would be lost.
    """
    params = sampling_params(pb.RunSpec(temperature=0, top_p=1, top_k=-1, max_new_tokens=8), (7, 9))
    params.update_from_generation_config({"eos_token_id": [5, 7]}, 6)
    assert (None, [7, 9], 8) == (params.eos_token_id, params.stop_token_ids, params.max_tokens)


def test_a_core_that_stops_before_it_answers_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine core that dies before it answers is an EngineDead; vLLM would wait forever."""
    monkeypatch.setattr(engine_core, "PREPARE_TIMEOUT_S", 0.1)

    async def prepare() -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        llm = SimpleNamespace(
            engine_core=None, input_processor=None, output_handler=None, get_supported_tasks=lambda: answer
        )
        with pytest.raises(EngineDead, match=f"^{engine_core.STOPPED}$"):
            await engine_core.CoreClient(llm).prepare()

    asyncio.run(bounded(prepare(), 20))


def test_a_core_whose_ranks_hang_is_dead_after_a_run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine core that waits for a rank reads no message, so the requests of a run stay in it."""
    monkeypatch.setattr(vllm_engine, "RESET_TIMEOUT_S", 0.1)

    async def abort(_: list[str]) -> None:
        """Send a message that nobody reads."""

    async def end_run() -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with open_engine(VllmEngine(parse_engine_flags([], str(checkpoint)))) as engine:
            engine._core = SimpleNamespace(answer=lambda: answer, abort=abort)
            await engine.reset()
            with pytest.raises(EngineDead, match=r"^its requests were not aborted within "):
                await engine.step()

    asyncio.run(bounded(end_run(), 20))


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_close_interrupts_loading(checkpoint: Path, num_processes: int) -> None:
    """An engine closed while its engine core, or its rank too, is starting leaves no process."""
    engine = VllmEngine(parse_engine_flags([], str(checkpoint)))

    async def interrupt() -> None:
        async with open_engine(engine):
            starting = asyncio.create_task(engine.start())
            while len(children()) < num_processes:
                await asyncio.wait({starting}, timeout=0.1)
            starting.cancel()

    asyncio.run(bounded(interrupt()))
    assert [] == children()


@pytest.mark.long
def test_failed_load_says_what_failed(checkpoint: Path) -> None:
    """The error of a failed load is the engine core's own message."""
    engine = VllmEngine(parse_engine_flags(["--kv-cache-memory-bytes", "1000"], str(checkpoint)))

    async def start() -> None:
        async with open_engine(engine):
            with pytest.raises(
                EngineDead, match=r"^ValueError: No available memory for the cache blocks"
            ) as caught:
                await engine.start()
            assert "\n" not in str(caught.value)

    asyncio.run(bounded(start(), 120))


@pytest.mark.long
def test_failure_in_mid_run_says_what_failed(checkpoint: Path) -> None:
    """An engine core that runs out of memory during a run ends the engine with its own message."""
    flags = ["--max-model-len", "512", "--no-async-scheduling", "--scheduler-cls", SCHEDULER]
    engine = VllmEngine(parse_engine_flags(flags, str(checkpoint)))

    async def fail() -> None:
        async with open_engine(engine):
            await engine.start()
            answers = await generate(engine, [[1, 2, 3], [4, 5]], [2, 2])
            assert [2, 2] == [len(answer.tokens) for answer in answers]
            engine.submit(columns([7], [[1] * FATAL_PROMPT_LEN], [8]))
            with pytest.raises(EngineDead, match=rf"^vLLM's engine core has stopped: MemoryError: {WORDS}$"):
                await engine.step()

    asyncio.run(bounded(fail(), 120))
    assert [] == children()


def test_a_model_that_cannot_be_downloaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face's error for a machine without network lacks the model's name; the refusal has it."""
    flags = parse_engine_flags([], "data/nothing")

    def refuse(*_: object) -> None:
        raise OSError("We couldn't connect to\n'https://huggingface.co'")

    monkeypatch.setattr(type(flags.engine_args), "create_engine_config", refuse)
    with pytest.raises(ValueError, match=r"^--model data/nothing: We couldn't connect to 'https"):
        build_engine(flags)


def test_a_package_that_does_not_fit_vllm_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AttributeError of NVIDIA's packages, as vLLM 0.33.0 met it, names the engine and is no traceback."""
    flags = parse_engine_flags([], "data/nothing")

    def fail(*_: object) -> None:
        raise AttributeError("module 'cuda.bindings.runtime' has no attribute 'cudaLibrary_t'")

    monkeypatch.setattr(type(flags.engine_args), "create_engine_config", fail)
    refusal = r"^engine vllm: vllm \S+ fails: AttributeError: module 'cuda\.bindings\.runtime' has no"
    with pytest.raises(ValueError, match=refusal):
        build_engine(flags)
