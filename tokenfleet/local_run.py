"""One node, one command: start a local worker, run LoadGen against it, stop it.

    python run_mlperf.py --backend vllm --scenario offline --input-file data/accuracy_eval_tokenized.pkl

Several scenarios run one after another on the same worker. The coordinator's flags work as its own do; every
flag that neither this script nor the coordinator knows goes to the worker, and there to the engine. With
--replicas the worker is a node of several.
Exit codes: 0 valid, 1 failed, 2 bad input, 3 INVALID, 130 or 143 interrupted; of several runs the first
that is not 0.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from common import config_file
from coordinator.config import Parser, RunConfig, build_parser, expand, one_of, to_argv, to_config
from coordinator.inputs import Inputs
from sut.benchmark import BENCHMARK
from sut.settings import Scenario
from worker.config import WorkerConfig
from worker.engines.vllm.checkpoint import find_checkpoint
from worker.engines.vllm.engine_core import check_installed
from worker.node.ports import steady_port

POLL_S = 0.1
# A worker drains for at most 30 s and then stops its engine.
STOP_TIMEOUT_S = 60.0
NO_WORKER_TIMEOUT_S = 5.0
# How long a coordinator may take beyond its own timeouts to say that no worker is left.
NOTICE_TIMEOUT_S = 15.0
PR_SET_PDEATHSIG = 1
# This command gives its workers their addresses itself.
OWN_ADDRESSES = ("--workers", "--host", "--port")
_libc = ctypes.CDLL(None, use_errno=True)


class Interrupted(BaseException):
    """A signal asked for the end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for."""

    worker_argv: list[str]
    """Flags of the worker, or of the node of several."""
    runs: list[RunConfig]


def parse(argv: list[str]) -> Plan:
    """Read the command line and check every input file.

    Raises:
        ValueError: Names flag or file, value and bound.
    """
    parser = Parser(prog="run_mlperf.py", allow_abbrev=False, add_help=False)
    file, table = config_file.read(argv, "worker")
    backend = os.environ.get("MLPERF_BACKEND") or str(table.get("engine", "vllm"))
    model = str(table.get("model", BENCHMARK.repository))
    parser.add_argument("--backend", default=backend, help="vllm or counting")
    parser.add_argument("--model", default=model, help="checkpoint directory, or a cached name")
    parser.add_argument("--replicas", type=int, default=table.get("replicas", 1), help="engines here")
    parser.add_argument("--scenario", nargs="+", type=one_of(Scenario), help="run in this order")
    for flag in OWN_ADDRESSES:
        parser.add_argument(flag, help=argparse.SUPPRESS)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        build_parser().parse_args(["--help"])
    own, rest = parser.parse_known_args(argv)
    _check(own)
    # The worker's own bounds, before ports are looked for.
    WorkerConfig(replicas=own.replicas)
    port = steady_port(random.Random(), 1 if own.replicas == 1 else own.replicas + 1)
    coordinator_parser = build_parser()
    if own.replicas == 1:
        # Nobody starts a lone worker again; a node starts its replicas.
        coordinator_parser.set_defaults(no_worker_timeout_s=NO_WORKER_TIMEOUT_S)
    _, full_argv = expand([*rest, "--workers", f"127.0.0.1:{port}"])
    values, engine_argv = coordinator_parser.parse_known_args(full_argv)
    engine_argv += _shared_files(values, table)
    run = to_config(values, file)
    runs = [dataclasses.replace(run, scenario=chosen) for chosen in own.scenario or [run.scenario]]
    for run in runs:
        Inputs.read(run)
    fixed = ["--engine", own.backend, "--host", "127.0.0.1", "--replicas", str(own.replicas)]
    fixed += ["--model", own.model] if own.backend == "vllm" else []
    return Plan(worker_argv=[*fixed, "--port", str(port), *engine_argv], runs=runs)


def _check(own: argparse.Namespace) -> None:
    for flag in OWN_ADDRESSES:
        if (value := getattr(own, flag.removeprefix("--"))) is not None:
            raise ValueError(
                f"{flag}: {value}: the workers are local ones of this command; "
                "for others there is `python -m coordinator`"
            )
    backend, model = own.backend, own.model
    if backend == "vllm":
        check_installed()
    elif backend != "counting":
        raise ValueError(f"--backend: {backend!r} is neither vllm nor counting")
    if backend == "vllm" and find_checkpoint(model) is None:
        raise ValueError(
            f"--model: {model} is no directory and not in the Hugging Face cache; "
            "download it first (hf download), or name a checkpoint directory"
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


class Process:
    """A child with its own process group, that the kernel ends when this script dies."""

    def __init__(self, name: str, command: Sequence[str], log: Path | None = None) -> None:
        """Start it.

        Args:
            name: For messages.
            command: Program and arguments.
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
                preexec_fn=lambda: _on_fork(mask),  # noqa: PLW1509 - this script has one thread
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

    def last_words(self) -> str:
        """Give the line of its log that says why it ended, after which libraries may talk; else the last."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log else []
        own = [line for line in lines if line.startswith("worker: ") or " ERROR worker: " in line]
        return (own or lines or ["no output"])[-1]


@contextlib.contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Let no signal raise inside a block: fork's hooks would lose the exception; yields the earlier mask."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield {int(signum) for signum in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _on_fork(mask: set[int]) -> None:
    """In the child, before exec: SIGTERM when the parent dies, however it dies."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def local_worker(plan: Plan) -> Iterator[Process]:
    """Run the worker, or the node, for the length of a block; it does not outlive it.

    Raises:
        ValueError: Its log cannot be written; nothing is started.
    """
    log = plan.runs[0].output_dir / "workers" / "worker.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        raise ValueError(f"--output-dir: cannot write {log}: {error.strerror}") from error
    worker = Process("worker", [sys.executable, "-m", "worker", *plan.worker_argv], log)
    try:
        yield worker
    finally:
        worker.signal(signal.SIGTERM)
        worker.end(STOP_TIMEOUT_S)


def coordinate(run: RunConfig, worker: Process) -> int:
    """Run one coordinator to its end, or to the end of its worker; returns the exit code."""
    command = [sys.executable, "-m", "coordinator", *to_argv(run)]
    started_s = time.time()
    coordinator = Process("coordinator", command)
    try:
        while (code := coordinator.poll()) is None:
            if worker.poll() is not None:
                # A run that has begun itself says when no worker is left.
                notice_s = run.no_worker_timeout_s + NOTICE_TIMEOUT_S if _has_begun(run, started_s) else 0.0
                return _worker_gone(worker, coordinator, notice_s)
            time.sleep(POLL_S)
        return code
    except Interrupted as interruption:
        coordinator.signal(interruption.signum)
        coordinator.end(STOP_TIMEOUT_S)
        raise
    finally:
        coordinator.signal(signal.SIGTERM)
        coordinator.end(STOP_TIMEOUT_S)


def _has_begun(run: RunConfig, since_s: float) -> bool:
    """Say whether a coordinator started at `since_s` (system clock) has opened its run."""
    record = run.run_dir / "run.json"
    return record.exists() and record.stat().st_mtime >= since_s


def _worker_gone(worker: Process, coordinator: Process, timeout_s: float) -> int:
    """Give the coordinator some time to end by itself, and say how the worker ended."""
    deadline_s = time.monotonic() + timeout_s
    while coordinator.poll() is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    code = worker.poll() or 1
    why = f"{worker.last_words()} ({worker.log})"
    sys.stderr.write(f"run_mlperf.py: {worker.name} exited with {code}: {why}\n")
    return code if code == 2 else 1


def main(argv: list[str]) -> int:
    """Run everything and return the exit code."""
    _take_signals()
    try:
        plan = parse(argv)
        with local_worker(plan) as worker:
            codes = [coordinate(run, worker) for run in plan.runs]
        return next((code for code in codes if code), 0)
    except ValueError as error:
        sys.stderr.write(f"run_mlperf.py: {config_file.name_source(str(error), argv, 'coordinator')}\n")
        return 2
    except Interrupted as interruption:
        sys.stderr.write(f"run_mlperf.py: interrupted by {interruption}\n")
        return 128 + interruption.signum


def _take_signals() -> None:
    """Turn the first signal into an exception; the clean-up that follows is bounded and not interrupted.

    The handler stays: see common/signals.py.
    """
    taken: list[int] = []

    def take(signum: int, _: FrameType | None) -> None:
        taken.append(signum)
        if len(taken) == 1:
            raise Interrupted(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, take)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
