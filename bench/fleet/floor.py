"""`python -m bench.fleet.floor`: the messages of a fleet benchmark over plain gRPC, without a coordinator.

This is the lower bound of a coordinator's cost. One thread issues queries at random times and wakes an event
loop, which sends each query as one message to the next worker in turn, and reads and drops the returned
frames. Each worker has one grpc.aio stream with one writer task and one reader task. There is no LoadGen, no
scheduling and no request table; all messages are packed beforehand. Of a frame only the number of finished
requests is read.
"""

import argparse
import asyncio
import gc
import json
import struct
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from bench.flag_help import FlagFormatter
from bench.fleet.schedule import scheduled_ns
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, PROTOCOL_VERSION, PromptColumns, pack_submit

SEED = 1
OPEN_TIMEOUT_S = 30.0
REST_TIMEOUT_S = 60.0
"""Time limit for the last answers after the last query."""
FRAME_HEAD = struct.Struct("<QQ5I4x")
"""Header of Tokens.packed: see protos/worker.proto."""
SWITCH_INTERVAL_S = 0.0005


class FloorFigures(NamedTuple):
    """Figures of the floor between two moments of a run."""

    queries: int
    frames: int
    window_s: float
    cpu_s: float
    """User and system time of the process."""

    @property
    def cores(self) -> float:
        """Return the number of cores in use."""
        return self.cpu_s / self.window_s

    @property
    def us_per_query(self) -> float:
        """Return the CPU time per query, including its frames."""
        return 1e6 * self.cpu_s / max(self.queries, 1)

    def figures(self) -> dict[str, float]:
        """Return the figures by name."""
        return {"us/query": self.us_per_query, "cores": self.cores, **self._asdict()}


class Moment(NamedTuple):
    """Counters at one moment."""

    queries: int
    frames: int
    time_s: float
    cpu_s: float

    def until(self, end: "Moment") -> FloorFigures:
        """Compute the differences between two moments."""
        return FloorFigures(
            end.queries - self.queries,
            end.frames - self.frames,
            end.time_s - self.time_s,
            end.cpu_s - self.cpu_s,
        )


class Floor:
    """One stream per worker on one event loop."""

    def __init__(self, messages: list[pb.ToWorker], due_ns: NDArray[np.int64], whole_answers: bool) -> None:
        """Store the messages and their issue times.

        Args:
            messages: One message per query.
            due_ns: (len(messages),) issue time of each, since the first.
            whole_answers: If true the run ends with the last answer, else with the last query.
        """
        self._messages = messages
        self._due_ns = due_ns.tolist()
        self._whole_answers = whole_answers
        self._loop = asyncio.get_running_loop()
        self._queues: list[asyncio.Queue[pb.ToWorker]] = []
        self._num_sent = self._num_frames = self._num_finished = 0
        self._ended = asyncio.Event()

    async def run(self, addresses: list[str], max_new_tokens: int, window_s: float) -> FloorFigures:
        """Send all messages and measure the last `window_s` seconds of issue; 0 measures the whole run."""
        channels = [grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) for address in addresses]
        opening = _opening(max_new_tokens)
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            calls = await asyncio.gather(*(self._open(channel, opening) for channel in channels))
        self._queues = [asyncio.Queue() for _ in calls]
        tasks = [asyncio.ensure_future(self._read(call)) for call in calls]
        tasks += [asyncio.ensure_future(self._write(*pair)) for pair in zip(calls, self._queues, strict=True)]
        issuing_s = self._due_ns[-1] / 1e9
        began = self._now()
        threading.Thread(target=self._issue, daemon=True).start()
        if window_s:
            await asyncio.sleep(max(issuing_s - window_s, 0.0))
            began = self._now()
        await self._wait_ended(tasks, issuing_s + REST_TIMEOUT_S)
        found = began.until(self._now())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close(grace=None)
        return found

    async def _wait_ended(self, tasks: list[asyncio.Task[None]], timeout_s: float) -> None:
        """Wait until the run is complete.

        Raises:
            TimeoutError: The run exceeded `timeout_s`.
            RuntimeError: A stream ended early.
            AioRpcError: A stream failed.
        """
        ended = asyncio.ensure_future(self._ended.wait())
        done, _ = await asyncio.wait([ended, *tasks], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ended in done:
            return
        for task in done:
            await task
        if done:
            raise RuntimeError("a worker ended its stream")
        raise TimeoutError(f"{self._num_finished} of {len(self._messages)} answers in {timeout_s:.0f} s")

    async def _open(
        self, channel: grpc.aio.Channel, opening: pb.ToWorker
    ) -> "grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker]":
        call = rpc.WorkerStub(channel).Generate(wait_for_ready=True)
        await call.write(opening)
        await call.read()
        return call

    def _issue(self) -> None:
        """Wake the event loop for each query at its issue time.

        Thread: a separate thread, as LoadGen has.
        """
        zero_ns = time.monotonic_ns()
        for due_ns in self._due_ns:
            wait_ns = zero_ns + due_ns - time.monotonic_ns()
            if wait_ns > 0:
                time.sleep(wait_ns / 1e9)
            self._loop.call_soon_threadsafe(self._send)

    def _send(self) -> None:
        number = self._num_sent
        self._num_sent += 1
        self._queues[number % len(self._queues)].put_nowait(self._messages[number])
        if self._num_sent == len(self._messages) and not self._whole_answers:
            self._ended.set()

    async def _write(
        self,
        call: "grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker]",
        queue: "asyncio.Queue[pb.ToWorker]",
    ) -> None:
        while True:
            await call.write(await queue.get())

    async def _read(self, call: "grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker]") -> None:
        while isinstance(message := await call.read(), pb.FromWorker):
            self._num_frames += 1
            self._num_finished += FRAME_HEAD.unpack_from(message.tokens.packed)[-1]
            if self._whole_answers and self._num_finished == len(self._messages):
                self._ended.set()

    def _now(self) -> Moment:
        return Moment(self._num_sent, self._num_frames, time.monotonic(), time.process_time())


def _opening(max_new_tokens: int) -> pb.ToWorker:
    spec = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=max_new_tokens)
    return pb.ToWorker(open=pb.Open(protocol_version=PROTOCOL_VERSION, run_id="floor", spec=spec))


def pack_queries(prompts: NDArray[np.int32], num: int, max_new_tokens: int) -> list[pb.ToWorker]:
    """Pack one message per query; query i uses prompt i modulo the number of prompts."""
    lens = np.array([prompts.shape[1]], np.uint32)
    budget, produced = np.array([max_new_tokens], np.uint32), np.zeros(1, np.uint32)
    messages = []
    for query in range(num):
        columns = PromptColumns(
            np.array([query], np.uint64), lens, prompts[query % len(prompts)], budget, produced
        )
        messages.append(pb.ToWorker(submit=pack_submit(columns)))
    return messages


async def measure(args: argparse.Namespace) -> FloorFigures:
    """Pack the messages, then run the floor."""
    messages = pack_queries(np.load(args.prompts), args.queries, args.max_new_tokens)
    due_ns = scheduled_ns(SEED, args.queries_per_s, args.queries)
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    floor = Floor(messages, due_ns, whole_answers=not args.window_s)
    return await floor.run(args.workers.split(","), args.max_new_tokens, args.window_s)


def main(argv: list[str]) -> int:
    """Run the floor and write its figures."""
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.fleet.floor", allow_abbrev=False
    )
    parser.add_argument("--workers", required=True, help="comma-separated addresses")
    parser.add_argument("--prompts", type=Path, required=True, help=".npy, int32, (samples, prompt tokens)")
    parser.add_argument("--queries", type=int, required=True, help="number of queries")
    parser.add_argument("--queries-per-s", type=float, required=True, help="rate of the queries")
    parser.add_argument("--max-new-tokens", type=int, required=True, help="answer budget")
    parser.add_argument("--window-s", type=float, default=0.0, help="last seconds of issue; 0: whole run")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE.json", help="file for the figures"
    )
    args = parser.parse_args(argv)
    args.output.write_text(json.dumps(asyncio.run(measure(args))._asdict()), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
