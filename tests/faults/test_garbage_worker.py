"""One honest worker and one that breaks the protocol again and again, under a real coordinator."""

import asyncio
import contextlib
import copy
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import TokenColumns, pack_tokens, unpack_submit
from tests import fleet
from tests.faults import runs
from tests.faults.crew import Member, check_free, crew
from tests.faults.frame_model import Held
from tests.faults.fuzz import mutations
from tests.faults.garbler import Call, Garbler
from tests.faults.moments import seats
from tests.faults.table import Table

MAX_FRAMES_PER_STREAM = 20


def right_answers(submit: pb.Submit) -> dict[int, list[int]]:
    """Compute the missing tokens of each request, by name."""
    columns = unpack_submit(submit)
    ends = columns.prompt_lens.cumsum(dtype=np.int64).tolist()
    answers = {}
    for row, name in enumerate(columns.requests.tolist()):
        prompt = columns.prompt_tokens[ends[row] - columns.prompt_lens[row] : ends[row]].tolist()
        produced = int(columns.produced[row])
        whole = fleet.counting_answer(
            prompt[: len(prompt) - produced], produced + int(columns.max_new_tokens[row])
        )
        answers[name] = whole[produced:]
    return answers


def first_tokens(answers: dict[int, list[int]]) -> bytes:
    """Serialize the correct first frame."""
    num = len(answers)
    columns = TokenColumns(
        requests=np.array(list(answers), np.uint64),
        counts=None,
        tokens=np.array([answer[0] for answer in answers.values()], np.int32),
        finished_rows=np.zeros(0, np.uint32),
        finish_reasons=np.zeros(0, np.uint8),
        produced_ns=1,
    )
    assert num
    return pb.FromWorker(tokens=pack_tokens(columns, 0)).SerializeToString()


class Garbage:
    """A worker that breaks the protocol after a good start but sends no wrong token with a valid digest."""

    def __init__(self, worker_ns: int) -> None:
        """Create it.

        Args:
            worker_ns: What its clock says in each pong.
        """
        self._worker_ns = worker_ns
        self.num_streams = 0

    async def play(self, call: Call) -> None:
        """Answer pings, and the first submit with frames until the coordinator ends the stream."""
        self.num_streams += 1
        begun = False
        async for message in call.requests:
            if message.WhichOneof("message") == "ping":
                pong = pb.Pong(nonce=message.ping.nonce, worker_ns=self._worker_ns)
                await call.say(pb.FromWorker(pong=pong).SerializeToString())
            elif message.WhichOneof("message") == "submit" and not begun:
                begun = True
                for frame in self._frames(right_answers(message.submit)):
                    await call.say(frame)

    def _frames(self, answers: dict[int, list[int]]) -> Iterator[bytes]:
        held = Held(runs.BUDGET, {name: [] for name in answers})
        good = first_tokens(answers)
        held.take(good)
        yield good
        frames = mutations(self.num_streams, [good], pb.FromWorker)
        for frame in itertools.islice(frames, MAX_FRAMES_PER_STREAM):
            tried = copy.deepcopy(held)
            if tried.take(frame):
                right = all(answers[name][: len(got)] == got for name, got in tried.answers.items())
                if tried.ended or not right:
                    continue
                held = tried
            yield frame


@contextlib.contextmanager
def garbage_beside(honest: Member, worker_ns: int) -> Iterator[tuple[str, Garbage]]:
    """Serve garbage on a thread for the length of a block, under the honest worker's description."""
    with grpc.insecure_channel(honest.address) as channel:
        info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=5)
    info.instance_id = "garbage"
    garbage = Garbage(worker_ns)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="garbage", daemon=True)
    thread.start()
    serving = Garbler(info, garbage.play).serving()
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(60), garbage
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@pytest.mark.parametrize("mode", runs.modes("server"))
@pytest.mark.parametrize("worker_ns", [pytest.param(1, marks=pytest.mark.long), 2**64 - 1])
def test_garbage_beside_an_honest_worker(tmp_path: Path, table: Table, mode: str, worker_ns: int) -> None:
    """A worker that breaks the protocol is lost each time it comes back; the run is VALID and exact."""
    with (
        crew(tmp_path, 1, "--step-ms", "5", "--max-num-seqs", seats(mode)) as (honest,),
        garbage_beside(honest, worker_ns) as (address, garbage),
        runs.started(tmp_path, mode, [honest.address, address], runs.make_prompts(60)) as run,
    ):
        found = runs.check_valid(run)
        table.add(f"a worker sends garbage, its clock at {worker_ns} ns", run, 0)
        assert garbage.num_streams > 1
        assert {address} == {loss["address"] for loss in found["summary"]["losses"]}
        check_free([honest])
