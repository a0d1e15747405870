"""Real workers and a real coordinator as processes, for tests; every wait is bounded."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator import __main__ as coordinator
from protos import worker_pb2 as pb
from protos.columns import SERVICE
from tests.forked import ForkedProcess, Main, completed
from worker.__main__ import main as worker_main
from worker.node.ports import FIRST_STEADY_PORT, are_free

ROOT = Path(__file__).resolve().parent.parent
STOP = 200_002
WORKER = (sys.executable, "-m", "worker")
FAST_CONF = """\
*.Offline.min_duration = 100
*.Offline.target_qps = 100
*.Server.min_duration = 1000
*.Server.target_qps = 200
"""
# A worker that does not listen yet is tried again ten times a second, and not after gRPC's own second.
EAGER = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
# Below the ports that the product chooses itself.
PORTS = range(1024, FIRST_STEADY_PORT)
# More than one test chooses before it binds; each claim is an open file.
NUM_CLAIMS = 100
_CLAIMS: deque[int] = deque()
# A KV cache of 1 GiB is plenty for tests, and the CPU build's own default is a share of the machine.
VLLM_CPU_ENV = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}


def free_port(num: int = 1) -> int:
    """Find free consecutive ports, and return the first one.

    Until the caller binds them, nothing takes them: no connection, because they are below the range of
    ephemeral ports, no program of the product, and no test of this machine, because the name of a Unix
    socket, which the kernel gives once, is held for each of the last 100.
    """
    rng = random.Random()
    for _ in range(1000):
        port = rng.choice(PORTS[: len(PORTS) - num + 1])
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            claims = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(num)]
            for index, claim in enumerate(claims):
                claim.bind(f"\0tokenfleet test port {port + index}")
            if are_free(port, num):
                _CLAIMS.extend(claim.detach() for claim in claims)
                while len(_CLAIMS) > NUM_CLAIMS:
                    os.close(_CLAIMS.popleft())
                return port
    raise AssertionError(f"no {num} consecutive free ports in {PORTS.start}..{PORTS.stop - 1}")


@dataclass
class WorkerProcess:
    """A worker daemon, its address and its log."""

    process: subprocess.Popen[bytes] | ForkedProcess
    address: str
    log: Path

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM and, after the timeout, SIGKILL to the process group; returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(timeout_s)


def start_worker(
    log: Path,
    *flags: str,
    engine: str = "counting",
    cwd: Path = ROOT,
    address: str | None = None,
    program: Main | Sequence[str] = worker_main,
) -> WorkerProcess:
    """Start a worker; it listens or is loading when this returns.

    Args:
        log: Gets both its outputs, after those of an earlier process.
        flags: The worker's.
        engine: Value of --engine.
        cwd: Where it runs.
        address: host:port to listen on; None: a free port of 127.0.0.1.
        program: What runs the worker: a main, which is forked unless its engine is vLLM, or a command.
    """
    host, _, port = (address or f"127.0.0.1:{free_port()}").rpartition(":")
    argv = ["--engine", engine, "--host", host, "--port", port, *flags]
    if callable(program) and engine != "vllm":
        forked = ForkedProcess(program, argv, log, cwd, VLLM_CPU_ENV)
        return WorkerProcess(forked, f"{host}:{port}", log)
    command = [*(WORKER if callable(program) else program), *argv]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=VLLM_CPU_ENV,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return WorkerProcess(process, f"{host}:{port}", log)


def holds_nothing(load: pb.WorkerLoad) -> bool:
    """Return whether a worker has neither a run nor a request; its hardware and cache do not matter."""
    bare = pb.WorkerLoad()
    bare.CopyFrom(load)
    bare.ClearField("gpus")
    bare.ClearField("kv_use")
    return bare == pb.WorkerLoad()


def health(address: str, service: str = "", timeout_s: float = 60.0) -> str:
    """Call grpc.health.v1 once: SERVING, NOT_SERVING, or the name of the status code."""
    with grpc.insecure_channel(address, options=EAGER) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        return status


def wait_serving(worker: WorkerProcess, timeout_s: float = 60.0) -> None:
    """Wait until a worker is SERVING; its end or the deadline fails the test with its log."""
    deadline_s = time.monotonic() + timeout_s
    # All of it: a node answers for itself while any of its replicas serves.
    while health(worker.address, SERVICE, timeout_s=2) != "SERVING":
        ended = worker.process.poll() is not None
        if ended or time.monotonic() > deadline_s:
            raise AssertionError(f"worker not SERVING:\n{worker.log.read_text()[-4000:]}")
        time.sleep(0.05)


@contextlib.contextmanager
def workers(
    directory: Path, num: int, *flags: str, engine: str = "counting", timeout_s: float = 60.0
) -> Iterator[list[WorkerProcess]]:
    """Run workers for a block."""
    started = [start_worker(directory / f"worker{i}.log", *flags, engine=engine) for i in range(num)]
    try:
        for worker in started:
            wait_serving(worker, timeout_s)
        yield started
    finally:
        # All at once: a worker takes its time to end.
        with ThreadPoolExecutor(num) as pool:
            list(pool.map(WorkerProcess.stop, started))


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """Yield the write end of a pipe that nobody reads and that takes no more output."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


@contextlib.contextmanager
def node(
    directory: Path, num: int, *flags: str, engine: str = "counting", timeout_s: float = 60.0
) -> Iterator[WorkerProcess]:
    """Run a node for a block; its replicas listen on the ports after its own."""
    port = free_port(num + 1)
    words = ("--replicas", str(num), *flags)
    started = start_worker(directory / "node.log", *words, engine=engine, address=f"127.0.0.1:{port}")
    try:
        wait_serving(started, timeout_s)
        yield started
    finally:
        started.stop()


def coordinator_flags(
    fleet: Sequence[WorkerProcess], input_file: Path, output_dir: Path, *flags: str
) -> list[str]:
    """Compose a coordinator's flags."""
    addresses = ",".join(worker.address for worker in fleet)
    own = ["--input-file", str(input_file), "--workers", addresses, "--output-dir", str(output_dir)]
    # A report takes a second of processor time.
    return [*own, "--no-report", *flags]


def coordinator_command(
    fleet: Sequence[WorkerProcess], input_file: Path, output_dir: Path, *flags: str
) -> list[str]:
    """Compose a coordinator's command line."""
    return [sys.executable, "-m", "coordinator", *coordinator_flags(fleet, input_file, output_dir, *flags)]


def coordinate(
    fleet: Sequence[WorkerProcess], input_file: Path, output_dir: Path, *flags: str, timeout_s: float = 240.0
) -> subprocess.CompletedProcess[str]:
    """Run a coordinator to its end, in a process forked from one that has done the imports."""
    argv = coordinator_flags(fleet, input_file, output_dir, *flags)
    return completed(coordinator.main, argv, timeout_s)


def write_prompts(path: Path, prompts: Sequence[Sequence[int]]) -> Path:
    """Write a data set in the reference's schema."""
    columns = {
        "tok_input": [list(prompt) for prompt in prompts],
        "dataset": "gpqa_diamond",
        "ground_truth": "A",
    }
    pd.DataFrame(columns).to_parquet(path)
    return path


def write_conf(path: Path, text: str = FAST_CONF) -> Path:
    """Write a user.conf."""
    path.write_text(text, encoding="utf-8")
    return path


def counting_prompts(num: int, longest: int = 40) -> list[list[int]]:
    """Make prompts for the counting engine: row i is [answer length, 7, i]."""
    return [[2 + i % (longest - 1), 7, 1000 * i] for i in range(num)]


def counting_answer(prompt: Sequence[int], budget: int) -> list[int]:
    """Compute the counting engine's answer by its definition, one token at a time."""
    answer = []
    for position in range(min(prompt[0], budget)):
        last = position == prompt[0] - 1
        answer.append(STOP if last else (prompt[-1] + 1 + position) % 199_999)
    return answer


def accuracy_entries(run_dir: Path) -> list[dict[str, object]]:
    """Read mlperf_log_accuracy.json, also under the name given to that of an INVALID run."""
    (path,) = run_dir.glob("*mlperf_log_accuracy.json")
    entries: list[dict[str, object]] = json.loads(path.read_text())
    return entries


def tokens_of(hexadecimal: str) -> list[int]:
    """Decode LoadGen's upper-case hex of little-endian int32."""
    raw = bytes.fromhex(hexadecimal)
    return [int.from_bytes(raw[i : i + 4], "little", signed=True) for i in range(0, len(raw), 4)]


def without_first_lines(stderr: str) -> str:
    """Leave out what a run logs of its files before it waits for workers."""
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if " coordinator.pre_run_checks: " not in line)


def run_json(run_dir: Path) -> Any:
    """Read run.json."""
    return json.loads((run_dir / "run.json").read_text())
