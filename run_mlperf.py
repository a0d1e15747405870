"""One node, one command: start local workers, run LoadGen against them, stop them.

    python run_mlperf.py --backend vllm --scenario offline --input-file data/accuracy_eval_tokenized.pkl

Several scenarios run one after another on the same workers. The coordinator's flags work as its own do; every
flag that neither this script nor the coordinator knows goes to the workers, and there to the engine.
Exit codes: 0 valid, 1 failed, 2 bad input, 3 INVALID, 130 or 143 interrupted; of several runs the first
that is not 0.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from coordinator.config import Parser, RunConfig, build_parser, expand, one_of, to_argv, to_config
from coordinator.inputs import Inputs
from protos import config_file
from sut.settings import Scenario
from worker.model import find_checkpoint

ROOT = Path(__file__).resolve().parent
POLL_S = 0.1
# A worker drains for at most 30 s and then stops its engine.
STOP_TIMEOUT_S = 60.0
# Nobody starts a local worker again: a run without any need not wait long for one.
NO_WORKER_TIMEOUT_S = 5.0
# How long a coordinator may take beyond its own timeouts to say that no worker is left.
NOTICE_TIMEOUT_S = 15.0
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Interrupted(BaseException):
    """A signal asked for the end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for."""

    worker_argvs: list[list[str]]
    """Flags of each worker."""
    core_sets: list[set[int]]
    """Cores of each worker; disjoint where there are enough."""
    runs: list[RunConfig]


def parse(argv: list[str]) -> Plan:
    """Read the command line and check every input file.

    Raises:
        ValueError: Names flag or file, value and bound.
    """
    parser = Parser(prog="run_mlperf.py", allow_abbrev=False, add_help=False)
    file, table = config_file.read(argv, "worker")
    backend = os.environ.get("MLPERF_BACKEND") or str(table.get("engine", "vllm"))
    model = str(table.get("model", "openai/gpt-oss-120b"))
    parser.add_argument("--backend", default=backend, help="vllm or counting")
    parser.add_argument("--model", default=model, help="checkpoint directory, or a cached name")
    parser.add_argument("--num-workers", type=int, default=1, help="workers on this machine")
    parser.add_argument("--scenario", nargs="+", type=one_of(Scenario), help="run in this order")
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        build_parser().parse_args(["--help"])
    own, rest = parser.parse_known_args(argv)
    _check(own.backend, own.model, own.num_workers)
    ports = _free_ports(own.num_workers)
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    coordinator_parser = build_parser()
    coordinator_parser.set_defaults(no_worker_timeout_s=NO_WORKER_TIMEOUT_S)
    _, full_argv = expand([*rest, "--workers", addresses])
    values, engine_argv = coordinator_parser.parse_known_args(full_argv)
    engine_argv += _shared_files(values, table)
    run = to_config(values, file)
    runs = [dataclasses.replace(run, scenario=chosen) for chosen in own.scenario or [run.scenario]]
    for run in runs:
        Inputs.read(run)
    fixed = ["--engine", own.backend, "--host", "127.0.0.1"]
    fixed += ["--model", own.model] if own.backend == "vllm" else []
    argvs = [[*fixed, "--port", str(port), *engine_argv] for port in ports]
    return Plan(worker_argvs=argvs, core_sets=_split_cores(own.num_workers), runs=runs)


def _check(backend: str, model: str, num_workers: int) -> None:
    if backend not in ("vllm", "counting"):
        raise ValueError(f"--backend: {backend!r} is neither vllm nor counting")
    if num_workers < 1:
        raise ValueError(f"--num-workers: {num_workers} is below 1")
    if backend == "vllm" and find_checkpoint(model) is None:
        raise ValueError(
            f"--model: {model} is no directory and not in the Hugging Face cache; "
            "download it first (hf download), or name a checkpoint directory"
        )
    if backend == "vllm" and num_workers > 1 and Path("/dev/nvidia0").exists():
        raise ValueError(
            f"--num-workers: {num_workers} workers would share the GPUs; one worker takes them all"
        )


def _shared_files(values: argparse.Namespace, table: config_file.Table) -> list[str]:
    """Give the workers' flags for what the coordinator shows them, and for the file of both."""
    if values.print_config:
        raise ValueError("--print-config: ask `python -m coordinator` or `python -m worker`")
    for flag in ("tls_ca", "tls_cert", "tls_key"):
        name = flag.replace("_", "-")
        if (value := getattr(values, flag) or table.get(name)) is not None:
            raise ValueError(f"--{name}: {value}: local workers listen on loopback, in plaintext")
    shared = {"--config": values.config, "--run-token-file": values.run_token_file}
    return [word for flag, path in shared.items() if path is not None for word in (flag, str(path))]


def _free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _split_cores(num_workers: int) -> list[set[int]]:
    """Give each worker its own cores; all of them to all where there are fewer cores than workers."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < num_workers:
        return [set(cores)] * num_workers
    return [set(cores[index::num_workers]) for index in range(num_workers)]


class Process:
    """A child with its own process group, that the kernel ends when this script dies."""

    def __init__(self, name: str, command: Sequence[str], cores: set[int], log: Path | None = None) -> None:
        """Start it.

        Args:
            name: For messages.
            command: Program and arguments.
            cores: Where it may run.
            log: File for both its outputs; None: this script's.
        """
        self.name = name
        self.log = log
        out = contextlib.nullcontext() if log is None else log.open("wb")
        with out as file, _signals_held() as mask:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=lambda: _on_fork(cores, mask),  # noqa: PLW1509 - this script has one thread
            )

    def poll(self) -> int | None:
        """Give the exit code, None while it runs."""
        return self._popen.poll()

    def signal(self, signum: int) -> None:
        """Send a signal to the process alone; its own children are its own business."""
        if self._popen.poll() is None:
            self._popen.send_signal(signum)

    def end(self, timeout_s: float) -> int:
        """Wait, then kill what is left of the whole group; returns the exit code."""
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        return code

    def last_line(self) -> str:
        """Give the last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log else []
        return lines[-1] if lines else "no output"


@contextlib.contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Let no signal raise inside a block: fork's hooks would lose the exception; yields the earlier mask."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield {int(signum) for signum in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _on_fork(cores: set[int], mask: set[int]) -> None:
    """In the child, before exec: SIGTERM when the parent dies, however it dies."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def local_workers(plan: Plan) -> Iterator[list[Process]]:
    """Run the workers for the length of a block; none outlives it."""
    directory = plan.runs[0].output_dir / "workers"
    directory.mkdir(parents=True, exist_ok=True)
    workers: list[Process] = []
    try:
        for index, argv in enumerate(plan.worker_argvs):
            log = directory / f"worker{index}.log"
            command = [sys.executable, "-m", "worker", *argv]
            workers.append(Process(f"worker {index}", command, plan.core_sets[index], log))
        yield workers
    finally:
        for worker in workers:
            worker.signal(signal.SIGTERM)
        for worker in workers:
            worker.end(STOP_TIMEOUT_S)


def coordinate(run: RunConfig, workers: list[Process]) -> int:
    """Run one coordinator to its end, or to the end of its workers; returns the exit code."""
    command = [sys.executable, "-m", "coordinator", *to_argv(run)]
    started_s = time.time()
    coordinator = Process("coordinator", command, os.sched_getaffinity(0))
    try:
        while (code := coordinator.poll()) is None:
            gone = [worker for worker in workers if worker.poll() is not None]
            if gone and not _has_begun(run, started_s):
                return _worker_gone(gone[0], coordinator, 0.0)
            # A run that has begun survives the loss of some workers, and itself says when all are lost.
            if len(gone) == len(workers):
                return _worker_gone(gone[0], coordinator, run.no_worker_timeout_s + NOTICE_TIMEOUT_S)
            time.sleep(POLL_S)
        return code
    except Interrupted as interruption:
        coordinator.signal(interruption.signum)
        raise
    finally:
        coordinator.signal(signal.SIGTERM)
        coordinator.end(STOP_TIMEOUT_S)


def _has_begun(run: RunConfig, since_s: float) -> bool:
    """Say whether a coordinator started at `since_s` (system clock) has opened its run."""
    record = run.run_dir / "run.json"
    return record.exists() and record.stat().st_mtime >= since_s


def _worker_gone(worker: Process, coordinator: Process, timeout_s: float) -> int:
    """Give the coordinator some time to end by itself, and say which worker ended first."""
    deadline_s = time.monotonic() + timeout_s
    while coordinator.poll() is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    code = worker.poll() or 1
    sys.stderr.write(
        f"run_mlperf.py: {worker.name} exited with {code}: {worker.last_line()} ({worker.log})\n"
    )
    return code if code == 2 else 1


def main(argv: list[str]) -> int:
    """Run everything and return the exit code."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        plan = parse(argv)
        with local_workers(plan) as workers:
            codes = [coordinate(run, workers) for run in plan.runs]
        return next((code for code in codes if code), 0)
    except ValueError as error:
        sys.stderr.write(f"run_mlperf.py: {config_file.name_source(str(error), argv, 'coordinator')}\n")
        return 2
    except Interrupted as interruption:
        return 128 + interruption.signum


def _interrupt(signum: int, _: FrameType | None) -> None:
    """Turn the first signal into an exception; the clean-up that follows is bounded and not interrupted."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
