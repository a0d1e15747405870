"""Metrics of a worker and a node, scraped over HTTP while they serve."""

import asyncio
import socket
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests import fleet
from tests.worker.raw_client import Stream, connected, refusal_of
from worker.config import BadInput, EngineKind, WorkerConfig
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.server import Server

WAIT_S = 60.0


def scrape(port: int) -> dict[str, float]:
    """Read every series by its name with labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (li.rsplit(" ", 1) for li in lines if li[0] != "#")}


def test_memory_that_is_free_again_does_not_count() -> None:
    """64 MiB that the worker's process allocates and frees again raise its resident memory and lower it."""
    port = fleet.free_port()
    config = WorkerConfig(engine=EngineKind.COUNTING, port=fleet.free_port(), metrics_port=port)
    name = 'tokenfleet_worker_resident_memory_bytes{replica="0"}'

    async def wait_for_change(sign: int, from_bytes: float) -> float:
        while True:
            found = (await asyncio.to_thread(scrape, port)).get(name, from_bytes)
            if sign * (found - from_bytes) > 32 << 20:
                return found
            await asyncio.sleep(0.1)

    async def run() -> None:
        server = Server(config, CountingEngine(CountingConfig(step_ms=0.1)))
        serving = asyncio.ensure_future(server.serve())
        await server.serving.wait()
        before = (await asyncio.to_thread(scrape, port))[name]
        held = [np.ones(64 << 20, np.uint8)]
        highest = await wait_for_change(1, before)
        held.clear()
        await wait_for_change(-1, highest)
        server.stop()
        await serving

    asyncio.run(asyncio.wait_for(run(), WAIT_S))


def test_a_worker_tells_what_it_has_served() -> None:
    """One run of 2 requests: 2 + 3 prompt tokens, answers of 3 and 5 tokens, one further run refused."""
    config = WorkerConfig(engine=EngineKind.COUNTING, port=fleet.free_port(), metrics_port=fleet.free_port())

    async def run() -> dict[str, float]:
        server = Server(config, CountingEngine(CountingConfig(step_ms=0.1)))
        serving = asyncio.ensure_future(server.serve())
        await server.serving.wait()
        async with connected(f"127.0.0.1:{config.port}") as channel:
            stream = Stream(channel)
            await stream.open()
            await refusal_of(channel)
            await stream.submit({1: [3, 9], 2: [5, 9, 9]})
            await stream.take_until_ended(1, 2)
            found: dict[str, float] = {}
            deadline_s = time.monotonic() + WAIT_S
            while found.get('tokenfleet_worker_tokens_total{replica="0"}') != 8:
                assert time.monotonic() < deadline_s, found
                assert config.metrics_port is not None
                found = await asyncio.to_thread(scrape, config.metrics_port)
            await stream.end()
        server.stop()
        await serving
        return found

    found = asyncio.run(asyncio.wait_for(run(), WAIT_S))
    expected = {
        'info{replica="0",engine="counting",engine_version="1"}': 1,
        'state{replica="0",state="ready"}': 1,
        'state{replica="0",state="loading"}': 0,
        'runs_total{replica="0"}': 1,
        'run_active{replica="0"}': 1,
        'failed_calls_total{replica="0",status="FAILED_PRECONDITION"}': 1,
        'failed_calls_total{replica="0",status="UNAUTHENTICATED"}': 0,
        'requests_total{replica="0"}': 2,
        'finished_requests_total{replica="0"}': 2,
        'prompt_tokens_total{replica="0"}': 5,
        'running_requests{replica="0"}': 0,
        'waiting_requests{replica="0"}': 0,
        'max_running_requests{replica="0"}': CountingConfig().max_num_seqs,
    }
    as_served = {_with_sorted_labels(f"tokenfleet_worker_{name}"): value for name, value in expected.items()}
    assert as_served == {name: found.get(name) for name in as_served}
    assert found['tokenfleet_worker_steps_total{replica="0"}'] >= 5
    assert found['tokenfleet_worker_frames_total{replica="0"}'] >= 1


def _with_sorted_labels(name: str) -> str:
    """Order the labels as the text does."""
    metric, _, labels = name.rstrip("}").partition("{")
    return f"{metric}{{{','.join(sorted(labels.split(',')))}}}"


def test_a_port_in_use_is_refused_before_the_engine_loads() -> None:
    """The refusal names flag and address; the engine's load of ten minutes has not begun."""
    config = WorkerConfig(engine=EngineKind.COUNTING, port=fleet.free_port(), metrics_port=fleet.free_port())
    engine = CountingEngine(CountingConfig(load_ms=600_000))

    async def run() -> None:
        with socket.create_server(("127.0.0.1", config.metrics_port or 0)):
            await Server(config, engine).serve()

    with pytest.raises(BadInput) as refused:
        asyncio.run(asyncio.wait_for(run(), WAIT_S))
    expected = f"--metrics-port: cannot listen on 127.0.0.1:{config.metrics_port}, is it in use?"
    assert expected == str(refused.value)


@pytest.mark.long
def test_a_node_serves_the_metrics_of_its_replicas_at_one_port(tmp_path: Path) -> None:
    """Each replica has its number as label, its state and its restarts beside its own metrics."""
    port = fleet.free_port()
    with fleet.node(tmp_path, 2, "--metrics-port", str(port)):
        deadline_s = time.monotonic() + WAIT_S
        found: dict[str, float] = {}
        names = {f'tokenfleet_worker_max_running_requests{{replica="{index}"}}' for index in (0, 1)}
        while not names <= set(found):
            assert time.monotonic() < deadline_s, found
            time.sleep(0.1)
            found = scrape(port)
        for index in (0, 1):
            assert found[f'tokenfleet_worker_state{{replica="{index}",state="ready"}}'] == 1
            assert found[f'tokenfleet_worker_restarts_total{{replica="{index}"}}'] == 0
            assert found[f'tokenfleet_worker_runs_total{{replica="{index}"}}'] == 0
