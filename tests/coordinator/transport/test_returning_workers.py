"""A worker that comes and goes: what its ended streams leave behind, and when it is not taken back."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.recording.run_counts import is_silent
from coordinator.scheduling.worker_load import WorkerLoad
from coordinator.transport.access import Access
from coordinator.transport.fleet import PROBE_INTERVAL_S, Fleet, Patience
from coordinator.transport.stream import BEAT_INTERVAL_S, Limits
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION
from tests.coordinator.scheduling.links import FakeLink
from tests.faults.crew import Member
from tests.fleet import wait_serving

WAIT_S = 60.0
OPENING = pb.Open(
    protocol_version=PROTOCOL_VERSION,
    run_id="run",
    spec=pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8),
)


class CountingReceiver:
    """A receiver without requests that counts losses."""

    def __init__(self) -> None:
        self.num_losses = 0
        self.admitted = asyncio.Event()

    def deliver(self, *_: Any) -> None:
        """Drop tokens."""

    def lose(self, *_: Any) -> None:
        """Count."""
        self.num_losses += 1

    def admit(self, worker: int) -> None:
        """Set the event."""
        self.admitted.set()

    def fail(self, reason: str) -> None:
        """Fail the test."""
        raise AssertionError(reason)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something, up to WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - links tell nobody
            await asyncio.sleep(0.01)


def test_an_ended_stream_leaves_memory_when_its_worker_is_back(tmp_path: Path) -> None:
    """Three processes killed one after the other, no automatic collection: none of their streams is left."""
    member = Member(tmp_path / "log", ("--engine", "counting"))

    async def come_and_go() -> list[Any]:
        receiver = CountingReceiver()
        fleet = Fleet((member.address,), Access(), Patience(Limits(5, 60), WAIT_S, True))
        await fleet.wait_ready(WAIT_S)
        streams_of_run = await fleet.open(OPENING, receiver)
        streams = []
        for _ in range(3):
            streams.append(weakref.ref(fleet.links[0].stream))
            receiver.admitted.clear()
            await asyncio.to_thread(member.restart)
            await asyncio.wait_for(receiver.admitted.wait(), WAIT_S)
        left = [stream() for stream in streams]
        assert 3 == receiver.num_losses
        await streams_of_run.halt()
        await fleet.close()
        return left

    gc.collect()
    gc.disable()
    try:
        left = asyncio.run(come_and_go())
    finally:
        gc.enable()
        member.kill()
    assert [None] * 3 == left


def test_a_worker_lost_while_it_is_asked_for_its_counts_is_a_loss_and_stays_away(tmp_path: Path) -> None:
    """All answers are there: its silence ends the wait, and a stream that nobody asks must not be begun."""
    members = [Member(tmp_path / name, ("--engine", "counting")) for name in ("stopped", "killed", "well")]
    stopped, killed, _ = members

    async def settle() -> list[WorkerLink]:
        receiver = CountingReceiver()
        addresses = tuple(member.address for member in members)
        fleet = Fleet(addresses, Access(), Patience(Limits(3, 60), WAIT_S, True))
        await fleet.wait_ready(WAIT_S)
        run = await fleet.open(OPENING, receiver)
        receiver.admitted.clear()
        await until(lambda: all(link.stream.counts.round_trip_ns for link in fleet.links))
        killed.kill()
        await until(lambda: not fleet.links[1].live)
        stopped.freeze()
        settling = asyncio.ensure_future(run.settle())
        # Both could be had again while the fleet is asked.
        await asyncio.to_thread(killed.restart)
        async with asyncio.timeout(WAIT_S):
            while not settling.done():
                run.beat([0, 0, 0])
                await asyncio.sleep(BEAT_INTERVAL_S)
        stopped.thaw()
        # Some attempts long.
        await asyncio.sleep(4 * PROBE_INTERVAL_S)
        assert 2 == receiver.num_losses
        assert not receiver.admitted.is_set()
        settling.result()
        await run.halt()
        links = fleet.links
        states = [(link.live, link.stream.counts.asked, link.stream.counts.settled) for link in links]
        assert [(False, True, False), (False, False, False), (True, True, True)] == states
        await fleet.close()
        return links

    try:
        links = asyncio.run(settle())
    finally:
        for member in members:
            member.kill()
    assert [False] * 3 == [is_silent(link) for link in links]


def test_a_worker_restarted_before_its_stream_opens_is_known_as_it_is(tmp_path: Path) -> None:
    """It was SERVING with 8 slots and opens the stream as another process with 4: these count."""
    member = Member(tmp_path / "log", ("--engine", "counting", "--max-num-seqs", "8"))

    async def restart_before_open() -> list[int]:
        fleet = Fleet((member.address,), Access(), Patience(Limits(5, 60), WAIT_S, True))
        await fleet.wait_ready(WAIT_S)
        await asyncio.to_thread(member.restart, "--max-num-seqs", "4")
        await asyncio.to_thread(wait_serving, member.worker)
        before = fleet.links[0].info.max_num_seqs
        streams = await fleet.open(OPENING, CountingReceiver())
        load = WorkerLoad(fleet.links[0])
        load.begin_stream()
        await streams.halt()
        await fleet.close()
        return [before, load.max_num_seqs]

    try:
        assert [8, 4] == asyncio.run(restart_before_open())
    finally:
        member.kill()


def test_who_was_asked_and_does_not_say_is_silent() -> None:
    """Alive without an answer, or lost without one to any ping: its count was never told."""
    link = FakeLink(0)
    counts = link.stream.counts
    link.begin()
    assert not is_silent(link)
    counts.asked = True
    assert is_silent(link)
    counts.round_trip_ns = 1
    assert is_silent(link)
    link.lose()
    assert not is_silent(link)
    counts.round_trip_ns = 0
    assert is_silent(link)
    counts.settled = True
    assert not is_silent(link)
