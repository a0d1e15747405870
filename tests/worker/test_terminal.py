"""Workers and nodes of a terminal or a script: a closed terminal, ignored signals, closed streams."""

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from protos import worker_pb2 as pb
from tests import fleet
from tests.worker.node.nodes import info_of
from tests.worker.raw_client import STOP_TOKEN_ID, Stream, connected
from tests.worker.test_server import run_once, wait_for, walk

# Runs "$@" with these signals ignored, as a shell script's background jobs have SIGINT and SIGQUIT.
IGNORING = ("sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh", sys.executable, "-m", "worker")


def start_on_terminal(slave: int, port: int, *flags: str) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own, whose terminal is this descriptor; closes the descriptor."""
    worker = [sys.executable, "-m", "worker", "--engine", "counting", "--port", str(port), *flags]
    command = ["setsid", "--ctty", *worker]
    try:
        return subprocess.Popen(command, cwd=fleet.ROOT, stdin=slave, stdout=slave, stderr=slave)
    finally:
        os.close(slave)


def read_until(closing: threading.Event, master: int) -> None:
    """Read a terminal's output, as otherwise its buffer fills up, and close the terminal after the event."""
    while not closing.is_set():
        if select.select([master], [], [], 0.02)[0]:
            os.read(master, 4096)
    os.close(master)


@pytest.mark.parametrize("flags", [[], ["--replicas", "2"]], ids=["worker", "node"])
def test_a_closed_terminal_drains(flags: list[str]) -> None:
    """The run goes on to its end although nothing can be logged; further SIGHUPs change nothing."""
    port = fleet.free_port(3)
    master, slave = pty.openpty()
    process = start_on_terminal(slave, port, "--step-ms", "1", "--drain-timeout-s", "60", *flags)
    closing = threading.Event()
    threading.Thread(target=read_until, args=(closing, master), daemon=True).start()
    address = f"127.0.0.1:{port + 1 if flags else port}"

    async def steps() -> None:
        async with asyncio.timeout(60), connected(address) as channel:
            await wait_for(channel, pb.WORKER_STATE_READY)
            stream = Stream(channel)
            await stream.open("patient")
            await stream.submit({1: [100, 7]})
            await stream.take()
            closing.set()
            await wait_for(channel, pb.WORKER_STATE_DRAINING)
            for _ in range(2):
                process.send_signal(signal.SIGHUP)
                await asyncio.sleep(0.1)
            await stream.submit({2: [1000, 7]}, budget=10_000)
            await stream.take_until_ended(1, 2)
            assert {1: 100, 2: 1000} == {name: len(answer) for name, answer in stream.answers.items()}
            assert STOP_TOKEN_ID == stream.answers[2][-1]
            await stream.end()

    try:
        asyncio.run(steps())
        assert 0 == process.wait(240)
    finally:
        closing.set()
        process.kill()
        process.wait(60)


@pytest.mark.parametrize("flags", [[], ["--replicas", "2"]], ids=["worker", "node"])
def test_output_that_nobody_reads_stops_no_worker(tmp_path: Path, flags: list[str]) -> None:
    """Stdout and stderr are a full pipe whose reader is stopped: it serves runs and drains, exit code 0."""
    port = fleet.free_port(3)
    command = [*fleet.WORKER, "--engine", "counting", "--port", str(port), *flags]
    with fleet.full_pipe() as output:
        process = subprocess.Popen(
            command, cwd=fleet.ROOT, stdout=output, stderr=output, start_new_session=True
        )
        worker = fleet.WorkerProcess(process, f"127.0.0.1:{port + 1 if flags else port}", tmp_path / "log")

        async def steps(channel: grpc.aio.Channel) -> None:
            await wait_for(channel, pb.WORKER_STATE_READY)
            await run_once(channel)
            process.terminate()
            assert 0 == await asyncio.to_thread(process.wait, 60)

        try:
            walk(worker, steps)
        finally:
            process.kill()
            process.wait(60)


@pytest.mark.parametrize(
    ("program", "signals"),
    [
        (("nohup", sys.executable, "-m", "worker"), [signal.SIGHUP]),
        (IGNORING, [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT]),
    ],
    ids=["nohup", "trap"],
)
def test_a_signal_inherited_as_ignored_stays_ignored(
    tmp_path: Path, program: tuple[str, ...], signals: list[signal.Signals]
) -> None:
    """The worker serves on after each of them; SIGTERM ends it with exit code 0."""
    worker = fleet.start_worker(tmp_path / "log", program=program)

    async def steps(channel: grpc.aio.Channel) -> None:
        await wait_for(channel, pb.WORKER_STATE_READY)
        for signum in signals:
            worker.process.send_signal(signum)
        await run_once(channel)
        assert await asyncio.to_thread(worker.stop) == 0

    walk(worker, steps)


@pytest.mark.parametrize("flags", [(), ("--replicas", "2")], ids=["worker", "node"])
def test_closed_standard_streams_do_not_matter(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Under `<&- >&- 2>&-` no file or socket gets a standard descriptor, and the worker serves and stops."""
    program = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "worker")
    address = f"127.0.0.1:{fleet.free_port(3)}"
    worker = fleet.start_worker(tmp_path / "log", *flags, program=program, address=address)
    try:
        fleet.wait_serving(worker)
        pids = [worker.process.pid, *(replica.pid for replica in info_of(address).replicas)]
        first = [os.readlink(f"/proc/{pid}/fd/0") for pid in pids]
        assert ["/dev/null"] * len(pids) == first
        assert ["/dev/null"] * 2 == [os.readlink(f"/proc/{pids[0]}/fd/{fd}") for fd in (1, 2)]
        assert 0 == worker.stop()
    finally:
        worker.stop()


def test_bad_input_with_closed_streams_is_exit_code_2() -> None:
    """The line cannot be shown; the code is that of bad input."""
    command = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-m", "worker", "--port", "0"]
    assert 2 == subprocess.run(command, cwd=fleet.ROOT, timeout=240, check=False).returncode
