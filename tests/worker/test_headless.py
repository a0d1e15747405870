"""Life cycle of a worker that runs a part of an engine for a head on another node."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from worker.config import BadInput, EngineKind, WorkerConfig
from worker.engine_protocol import EngineDead
from worker.headless import HeadlessServer


class Part:
    """A part that loads and ends when the test says so."""

    def __init__(self) -> None:
        """Make it ready to load."""
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_waited_for = asyncio.Event()
        self.num_closed = 0

    async def start(self) -> None:
        """Load."""
        await self.loaded

    async def wait_end(self) -> str:
        """Wait for the end."""
        self.is_waited_for.set()
        return await self.ended

    async def close(self) -> None:
        """Count the calls."""
        self.num_closed += 1


Steps = Callable[[Part, HeadlessServer], Awaitable[None]]


async def ready(part: Part) -> None:
    """Finish the load and wait until the server waits for the end."""
    part.loaded.set_result(None)
    await part.is_waited_for.wait()
    # The server waits for the end and for a signal.
    await asyncio.sleep(0.01)


async def loading(part: Part, server: HeadlessServer) -> None:
    """A signal while the head is not there yet."""
    await asyncio.sleep(0.01)
    assert not part.is_waited_for.is_set()
    server.stop()


async def head_drains(part: Part, server: HeadlessServer) -> None:
    """The head got the signal too, and ends after its run."""
    await ready(part)
    server.stop()
    await asyncio.sleep(0.01)
    assert 0 == part.num_closed
    part.ended.set_result("its daemon has been stopped")


async def second_signal(part: Part, server: HeadlessServer) -> None:
    """The user does not want to wait for the head."""
    await ready(part)
    server.stop()
    await asyncio.sleep(0.01)
    assert 0 == part.num_closed
    server.stop()


async def head_goes_on(part: Part, server: HeadlessServer) -> None:
    """The head does not end within the drain timeout, here 0.5 s."""
    await ready(part)
    server.stop()


def run(steps: Steps, drain_timeout_s: float = 600) -> Part:
    """Run a server and a test's steps over its part; the part is closed once, whatever happens."""

    async def both() -> Part:
        part = Part()
        server = HeadlessServer(
            WorkerConfig(engine=EngineKind.COUNTING, drain_timeout_s=drain_timeout_s), part
        )
        stepping = asyncio.ensure_future(steps(part, server))
        try:
            async with asyncio.timeout(60):
                await server.run(lambda: None)
                await stepping
        finally:
            stepping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stepping
            assert 1 == part.num_closed
        return part

    return asyncio.run(both())


@pytest.mark.parametrize(
    ("steps", "drain_timeout_s"),
    [(loading, 600), (head_drains, 600), (second_signal, 600), (head_goes_on, 0.5)],
)
def test_a_signal_ends_the_part_in_order(steps: Steps, drain_timeout_s: float) -> None:
    """A stopped part waits for the head's drain, but no longer than the timeout or a second signal."""
    run(steps, drain_timeout_s)


def test_a_part_dies_with_its_head() -> None:
    """The end of the head is the death of this process's engine, with the reason."""

    async def steps(part: Part, _: HeadlessServer) -> None:
        await ready(part)
        part.ended.set_result("the head at 10.0.0.1:29502: silent for 15 s")

    with pytest.raises(EngineDead, match=r"^the head at 10.0.0.1:29502: silent for 15 s$"):
        run(steps)


@pytest.mark.parametrize("moment", ["loaded", "ended"])
def test_refused_flags_are_bad_input(moment: str) -> None:
    """What the head or vLLM refuses ends the process with exit code 2, also after the load."""

    async def steps(part: Part, _: HeadlessServer) -> None:
        if moment == "ended":
            await ready(part)
        getattr(part, moment).set_exception(ValueError("--node-rank: taken"))

    with pytest.raises(BadInput, match=r"^--node-rank: taken$"):
        run(steps)
