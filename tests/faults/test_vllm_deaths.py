"""Real vLLM in a worker daemon whose coordinator, and whose engine core, are killed with requests running."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # vLLM brings it, nobody its stubs
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.worker.engines.greedy import ANSWER_LEN, Reference, engine_prompts, stop_ids_of
from tests.worker.raw_client import Stream, connected

pytestmark = [pytest.mark.vllm, pytest.mark.long]

FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16")
START_TIMEOUT_S = 240.0
GREEDY = {"temperature": 0.0, "max_new_tokens": 400}

# Opens a sampled run on argv[1] with twice as many requests as run at once, and reads until it is killed.
COORDINATOR = """
import asyncio, sys
from tests.worker.raw_client import Stream, connected
async def main():
    async with connected(sys.argv[1]) as channel:
        stream = Stream(channel)
        await stream.open("doomed", max_new_tokens=400)
        await stream.submit({name: [5, 6, 7 + name] for name in range(32)}, budget=400)
        await stream.take()
        print("running", flush=True)
        while True:
            await stream.take()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def worker(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Start one daemon; the last test here ends it."""
    flags = ("--model", str(checkpoint), *FLAGS)
    directory = tmp_path_factory.mktemp("worker")
    with fleet.workers(directory, 1, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as (started,):
        yield started


def until_stop(answer: list[int], stop_ids: list[int]) -> list[int]:
    """Cut vLLM's answer without stop ids behind its first stop id."""
    ends = [place for place, token in enumerate(answer) if token in stop_ids]
    return answer[: ends[0] + 1] if ends else answer


def test_a_killed_coordinator_leaves_an_empty_engine(
    worker: fleet.WorkerProcess, checkpoint: Path, reference: Reference
) -> None:
    """A killed coordinator's requests are aborted; the worker stays SERVING, and the next run is exact."""
    doomed = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, worker.address], cwd=fleet.ROOT, stdout=subprocess.PIPE
    )
    try:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == b"running\n"
    finally:
        doomed.kill()
        doomed.communicate(timeout=10)

    prompts = engine_prompts()

    async def next_run() -> dict[int, list[int]]:
        async with asyncio.timeout(60), connected(worker.address) as channel:
            stub = rpc.WorkerStub(channel)
            while True:
                if not (await stub.GetLoad(pb.GetLoadRequest())).run_id:
                    break
                await asyncio.sleep(0.05)
            stream = Stream(channel)
            await stream.open("next", **GREEDY)
            load = await stub.GetLoad(pb.GetLoadRequest())
            assert (load.running, load.waiting) == (0, 0)
            assert (await stream.ping(1)).produced_tokens == 0
            await stream.submit(dict(enumerate(prompts)), budget=ANSWER_LEN)
            await stream.take_until_ended(*range(len(prompts)))
            await stream.end()
            return stream.answers

    answers = asyncio.run(next_run())
    assert fleet.health(worker.address) == "SERVING"
    stop_ids = stop_ids_of(checkpoint)
    assert {name: until_stop(answer, stop_ids) for name, answer in enumerate(reference.endless)} == answers


def test_a_name_may_come_again_after_its_cancel(worker: fleet.WorkerProcess) -> None:
    """A request cancelled and sent again under its name is answered once."""

    async def answers(address: str) -> tuple[list[int], list[int]]:
        async with asyncio.timeout(60), connected(address) as channel:
            stream = Stream(channel)
            await stream.open("again", **GREEDY)
            prompt = engine_prompts()[0]
            await stream.submit({2: prompt}, budget=16)
            # Stopped, so that neither ends before its cancel comes, however slow this process is.
            engine = psutil.Process(engine_core(worker.process.pid))
            engine.suspend()
            try:
                await stream.submit({1: [9, 9, 9]}, budget=16)
                # Two at once: the second comes while the abort of the first is under way.
                for _ in range(2):
                    await stream.send(cancel=pb.Cancel(requests=(1).to_bytes(8, "little")))
                    await stream.submit({1: prompt}, budget=16)
                # The worker has read them all.
                await stream.ping(1)
            finally:
                engine.resume()
            await stream.take_until_ended(1, 2)
            await stream.end()
            # Tokens of the earlier requests of that name may have been on their way.
            return stream.answers[1][-len(stream.answers[2]) :], stream.answers[2]

    again, once = asyncio.run(answers(worker.address))
    assert once == again
    assert fleet.health(worker.address) == "SERVING"


def test_a_killed_engine_core_ends_run_and_daemon(worker: fleet.WorkerProcess) -> None:
    """When the engine core is killed, the stream ends with UNAVAILABLE and the cause, the daemon with 1."""

    async def kill_engine() -> tuple[str, str]:
        async with asyncio.timeout(60), connected(worker.address) as channel:
            stream = Stream(channel)
            await stream.open("doomed", max_new_tokens=400)
            await stream.submit({name: [5, 6, 7 + name] for name in range(32)}, budget=400)
            await stream.take()
            os.kill(engine_core(worker.process.pid), signal.SIGKILL)
            async with asyncio.timeout(20):
                return await stream.refusal()

    status, reason = asyncio.run(kill_engine())
    assert (status, reason[:13]) == ("UNAVAILABLE", "engine died: ")
    assert worker.process.wait(timeout=30) == 1
    assert "engine died" in worker.log.read_text()


def test_no_engine_outlives_a_killed_node(checkpoint: Path, tmp_path: Path) -> None:
    """After kill -9 of the node alone its replicas and their engine processes end within seconds."""
    flags = ("--model", str(checkpoint), *FLAGS)
    with fleet.node(tmp_path, 2, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as node:
        left = psutil.Process(node.process.pid).children(recursive=True)
        assert 2 == sum("EngineCore" in process.name() for process in left)
        node.process.kill()
        assert [] == psutil.wait_procs(left, timeout=20)[1]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_no_engine_outlives_a_killed_worker(checkpoint: Path, tmp_path: Path, num_ranks: int) -> None:
    """After kill -9 of a worker without a node its engine core and ranks end within seconds."""
    flags = ("--model", str(checkpoint), *FLAGS, "--tensor-parallel-size", str(num_ranks))
    with fleet.workers(tmp_path, 1, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as (worker,):
        left = psutil.Process(worker.process.pid).children(recursive=True)
        assert 1 == sum("EngineCore" in process.name() for process in left)
        assert num_ranks == sum("Worker" in process.name() for process in left)
        worker.process.kill()
        assert [] == psutil.wait_procs(left, timeout=20)[1]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_terminal_signal_drains_a_worker(checkpoint: Path, tmp_path: Path, signum: signal.Signals) -> None:
    """Ctrl-C and a closed terminal reach vLLM's processes too: the run ends, and then the worker with 0."""
    flags = ("--model", str(checkpoint), *FLAGS)

    async def run_and_interrupt(worker: fleet.WorkerProcess) -> None:
        async with asyncio.timeout(60), connected(worker.address) as channel:
            stream = Stream(channel)
            await stream.open("drained", max_new_tokens=400)
            await stream.submit({name: [5, 6, 7 + name] for name in range(8)}, budget=400)
            await stream.take()
            os.killpg(worker.process.pid, signum)
            await stream.take_until_ended(*range(8))
            await stream.end()

    with fleet.workers(tmp_path, 1, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as (worker,):
        asyncio.run(run_and_interrupt(worker))
        assert 0 == worker.process.wait(timeout=60)
        # A library of vLLM would report leaks behind the last line.
        assert "leaked" not in worker.log.read_text()


def engine_core(pid: int) -> int:
    """Find vLLM's EngineCore among a daemon's processes."""
    (found,) = (c.pid for c in psutil.Process(pid).children(recursive=True) if "EngineCore" in c.name())
    return int(found)
