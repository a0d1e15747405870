"""A worker that comes and goes: what its ended streams leave in the coordinator's memory."""

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

from coordinator.access import Access
from coordinator.fleet import Fleet, Patience
from coordinator.stream import Limits
from protos import worker_pb2 as pb
from protos.frames import PROTOCOL_VERSION
from tests.faults.crew import Member

WAIT_S = 20.0


class Nobody:
    """An owner whose requests are nobody's."""

    def __init__(self) -> None:
        self.num_losses = 0
        self.back = asyncio.Event()

    def deliver(self, *_: Any) -> None:
        """Drop tokens."""

    def lose(self, *_: Any) -> None:
        """Count."""
        self.num_losses += 1

    def refill(self) -> None:
        """Tell."""
        self.back.set()

    def fail(self, reason: str) -> None:
        """Fail the test."""
        raise AssertionError(reason)


def test_an_ended_stream_leaves_memory_when_its_worker_is_back(tmp_path: Path) -> None:
    """Three processes killed one after the other, no automatic collection: none of their streams is left."""
    member = Member(tmp_path / "log", ("--engine", "counting"))
    opening = pb.Open(
        protocol_version=PROTOCOL_VERSION,
        run_id="run",
        spec=pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8),
    )

    async def come_and_go() -> list[Any]:
        owner = Nobody()
        fleet = Fleet((member.address,), Access(), Patience(Limits(5, 60), WAIT_S, True), owner)
        await fleet.wait_ready(WAIT_S)
        await fleet.open(opening)
        streams = []
        for _ in range(3):
            streams.append(weakref.ref(fleet.links[0].stream))
            owner.back.clear()
            await asyncio.to_thread(member.restart)
            await asyncio.wait_for(owner.back.wait(), WAIT_S)
        left = [stream() for stream in streams]
        assert 3 == owner.num_losses
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
