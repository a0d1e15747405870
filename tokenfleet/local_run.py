"""Run MLPerf on one machine: start a worker, run LoadGen against it, stop it.

    tokenfleet local --backend vllm --scenario offline --input-file data/accuracy_eval_tokenized.pkl

`python run_mlperf.py` is the same program. Several scenarios run one after another on the same worker. It
accepts the coordinator's flags; flags unknown to this program and to the coordinator are passed to the worker
and its engine. With --replicas the worker is a node with several replicas.
Exit codes: 0 VALID or NOT_GRADED, 1 failed, 2 bad input, 3 INVALID, 128 plus the signal's number if
interrupted; with several runs, the first nonzero code.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from common import config_file
from common.child_process import child_command, child_environment
from common.command_exit import BAD_INPUT, FAILED, end_command
from common.config_file import ConfigFile
from common.flags import FlagError, Parser, one_of
from common.signals import CLEAN_UP_S, Interrupted, Interrupts
from common.standard_streams import open_standard_streams
from coordinator.config import RunConfig, build_parser, expand, to_argv, to_config
from coordinator.inputs import Inputs
from sut.benchmark import BENCHMARK
from sut.log_files import RECORD
from sut.settings import Scenario
from tokenfleet import closing_table
from tokenfleet.child import ChildProcess
from tokenfleet.closing_table import EndedRun, FileVersion
from tokenfleet.log_tail import last_line
from worker.config import MAX_REPLICAS, WorkerConfig
from worker.engines.model.checkpoint import find_checkpoint
from worker.engines.sglang.scheduler_link import check_sglang_installed
from worker.engines.vllm.engine_core import check_installed
from worker.machine.sd_notify import NOTIFY_SOCKET, NotifySocket, check_notify_socket
from worker.node.ports import steady_port

POLL_S = 0.1
NO_WORKER_TIMEOUT_S = 5.0
# Time beyond --no-worker-timeout-s for a coordinator to end its run after the worker has exited.
LOSS_TIMEOUT_S = 15.0
# Checks whether an engine with a model is installed.
_CHECKS_OF_ENGINES = {"vllm": check_installed, "sglang": check_sglang_installed}
_BACKENDS = (*_CHECKS_OF_ENGINES, "counting", "replay")
_BACKEND_VARIABLE = "MLPERF_BACKEND"
_EPILOG = (
    f"With one engine --no-worker-timeout-s is {NO_WORKER_TIMEOUT_S} by default. "
    "Flags that are not listed are passed to the worker and its engine."
)
# Flags that this program sets itself.
OWN_ADDRESSES = ("--workers", "--host", "--port")
# Fields of a run whose flags local workers cannot have.
TLS_FLAGS = ("tls_ca", "tls_cert", "tls_key")
REFUSED_FLAGS = (*TLS_FLAGS, "network_sut", "workers")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """A local worker and the runs against it."""

    worker_argv: list[str]
    """Flags of the worker or node."""
    runs: list[RunConfig]
    run_dirs: list[Path]
    """Directory of each run's files."""


def parse(argv: list[str]) -> LocalConfig:
    """Read the command line and check every input file.

    Raises:
        ValueError: Names flag or file, value and bound.
    """
    config_file.refuse_printing(argv, "`tokenfleet run` or `tokenfleet worker`")
    file, table = config_file.read(argv, "worker")
    if {"-h", "--help"} & set(argv):
        _help_parser(table).parse_args(["--help"])
    parser = Parser(allow_abbrev=False, add_help=False)
    _add_own_flags(parser, table)
    own, rest = parser.parse_known_args(argv)
    _refuse_addresses(own)
    backend = _choose_backend(own.backend, file, table)
    if backend in _CHECKS_OF_ENGINES:
        _check_model(backend, own.model)
    # Check the worker's bounds before searching for free ports.
    WorkerConfig(replicas=own.replicas)
    port = steady_port(random.Random(), 1 if own.replicas == 1 else own.replicas + 1)
    coordinator_parser = build_parser()
    if own.replicas == 1:
        # A single worker is not restarted; a node restarts its replicas.
        coordinator_parser.set_defaults(no_worker_timeout_s=NO_WORKER_TIMEOUT_S)
    _, full_argv = expand([*rest, "--workers", f"127.0.0.1:{port}"])
    values, engine_argv = coordinator_parser.parse_known_args(full_argv)
    engine_argv += _shared_files(values, table)
    run = to_config(values, file)
    runs = [dataclasses.replace(run, scenario=chosen) for chosen in own.scenario or [run.scenario]]
    run_dirs = [Inputs.read(run).run_dir for run in runs]
    fixed = ["--engine", backend, "--host", "127.0.0.1", "--replicas", str(own.replicas)]
    fixed += ["--model", own.model] if backend in _CHECKS_OF_ENGINES else []
    worker_argv = [*fixed, "--port", str(port), *engine_argv]
    return LocalConfig(worker_argv=worker_argv, runs=runs, run_dirs=run_dirs)


def _add_own_flags(parser: argparse._ActionsContainer, table: config_file.Table) -> None:
    """Add this program's own flags, with the defaults of a file's table [worker]."""
    model = str(table.get("model", BENCHMARK.repository))
    parser.add_argument(
        "--backend",
        metavar="ENGINE",
        help=f"{', '.join(_BACKENDS[:-1])} or {_BACKENDS[-1]} (default ${_BACKEND_VARIABLE}, else vllm)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        default=model,
        help=f"checkpoint directory, or a cached Hugging Face name, for vllm and sglang (default {model})",
    )
    replicas = table.get("replicas", 1)
    text = f"number of engines (default {replicas}; 1..{MAX_REPLICAS})"
    parser.add_argument("--replicas", metavar="N", type=int, default=replicas, help=text)
    scenarios = ", ".join(Scenario)
    text = f"scenarios, run one after another in this order: {scenarios} (default {Scenario.OFFLINE})"
    parser.add_argument("--scenario", metavar="SCENARIO", nargs="+", type=one_of(Scenario), help=text)
    for flag in OWN_ADDRESSES:
        parser.add_argument(flag, help=argparse.SUPPRESS)


def _help_parser(table: config_file.Table) -> Parser:
    """Build the parser whose --help lists the flags of a run that this program accepts, then its own ones."""
    description = "Start workers on this machine, run LoadGen against them, and stop them."
    parser = build_parser(description=description, epilog=_EPILOG, hidden=REFUSED_FLAGS, prints=False)
    _add_own_flags(parser.add_argument_group("flags of this command"), table)
    return parser


def _choose_backend(given: str | None, file: ConfigFile | None, table: config_file.Table) -> str:
    """Return the backend: that of the flag, the variable or the file, in this order.

    Raises:
        FlagError: It is unknown; the line names where it comes from.
    """
    sources: dict[str, object] = {
        "--backend": given,
        _BACKEND_VARIABLE: os.environ.get(_BACKEND_VARIABLE) or None,
        f"--config: {file and file.path}: [worker] engine": table.get("engine"),
    }
    named = ((source, name) for source, name in sources.items() if name is not None)
    source, backend = next(named, ("", "vllm"))
    if backend not in _BACKENDS:
        raise FlagError(source, f"{backend!r} is neither vllm nor sglang nor counting nor replay")
    return str(backend)


def _refuse_addresses(own: argparse.Namespace) -> None:
    for flag in OWN_ADDRESSES:
        if (value := getattr(own, flag.removeprefix("--"))) is not None:
            reason = (
                f"{value}: this command starts its own local workers; use `tokenfleet run` with other workers"
            )
            raise FlagError(flag, reason)


def _check_model(backend: str, model: str) -> None:
    """Check that an engine with a model is installed, and that the model is on this machine.

    Raises:
        FlagError: One of them is not so.
    """
    _CHECKS_OF_ENGINES[backend]()
    if find_checkpoint(model) is None:
        reason = (
            f"{model} is neither a directory nor in the Hugging Face cache; "
            "download it first (hf download), or give a checkpoint directory"
        )
        raise FlagError("--model", reason)


def _shared_files(values: argparse.Namespace, table: config_file.Table) -> list[str]:
    """Return the worker's flags for the files that it shares with the coordinator: --config and run token.

    Raises:
        FlagError: A flag that does not apply to local workers was given.
    """
    for flag in TLS_FLAGS:
        name = flag.replace("_", "-")
        if (value := getattr(values, flag) or table.get(name)) is not None:
            raise FlagError(f"--{name}", f"{value}: local workers listen on loopback, in plaintext")
    if values.network_sut:
        raise FlagError("--network-sut", "local workers are no Network SUT; use `tokenfleet run`")
    shared = {"--config": values.config, "--run-token-file": values.run_token_file}
    return [word for flag, path in shared.items() if path is not None for word in (flag, str(path))]


class LocalWorker:
    """The process of a worker or node; a context manager that stops it."""

    def __init__(self, argv: list[str], log: Path) -> None:
        """Start it.

        Args:
            argv: Flags of the worker.
            log: File for its output.

        Raises:
            FlagError: The log cannot be written; no process is started.
        """
        check_notify_socket()
        self.log = log
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(_create_log(log))
            self._notify_socket = stack.enter_context(NotifySocket())
            environment = child_environment(os.environ) | {NOTIFY_SOCKET: self._notify_socket.path}
            self._process = stack.enter_context(
                ChildProcess(child_command("worker", argv), environment, output)
            )
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def poll(self) -> int | None:
        """Return the exit code; None while the worker runs."""
        return self._process.poll()

    def exit_reason(self) -> str:
        """Return the reason that the worker reported, else the last line of its log."""
        self._notify_socket.receive()
        return self._notify_socket.status or last_line(self.log)


def _create_log(log: Path) -> BinaryIO:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("wb")
    except OSError as error:
        raise FlagError("--output-dir", f"cannot write {log}: {error.strerror}") from error


def coordinate(run: RunConfig, run_dir: Path, worker: LocalWorker) -> EndedRun:
    """Run one coordinator until it or its worker exits."""
    ended = EndedRun(run.scenario, run_dir, 0, FileVersion.of(run_dir / RECORD))
    command = child_command("coordinator", to_argv(run))
    with ChildProcess(command, child_environment(os.environ)) as coordinator:
        while (code := coordinator.poll()) is None:
            if worker.poll() is not None:
                # Once its run has begun, the coordinator reports the loss of the worker itself.
                coordinator_s = run.no_worker_timeout_s + LOSS_TIMEOUT_S if ended.has_begun() else 0.0
                return ended._replace(code=_report_worker_end(worker, coordinator, coordinator_s))
            time.sleep(POLL_S)
        return ended._replace(code=code)


def _report_worker_end(worker: LocalWorker, coordinator: ChildProcess, timeout_s: float) -> int:
    """Wait up to `timeout_s` for the coordinator to exit, then report why the worker has exited."""
    coordinator.wait(timeout_s)
    code = worker.poll() or 1
    reason = f"worker exited with {code}: {worker.exit_reason()} ({worker.log})"
    return _end(reason, BAD_INPUT if code == BAD_INPUT else FAILED)


def main(argv: list[str]) -> int:
    """Start the worker, run all scenarios and return the exit code."""
    open_standard_streams()
    Interrupts(patience_s=CLEAN_UP_S)
    try:
        config = parse(argv)
        log = config.runs[0].output_dir / "workers" / "worker.log"
        with LocalWorker(config.worker_argv, log) as worker:
            ended = [
                coordinate(run, run_dir, worker)
                for run, run_dir in zip(config.runs, config.run_dirs, strict=True)
            ]
        closing_table.show(ended)
        return next((run.code for run in ended if run.code), 0)
    except ValueError as error:
        return _end(config_file.name_source(error, argv, *config_file.TABLES), BAD_INPUT)
    except Interrupted as interruption:
        return _end(f"interrupted by {interruption}", interruption.exit_code)


def _end(reason: str, code: int) -> int:
    # Program name: run_mlperf.py, or the name set by the `tokenfleet` command.
    return end_command(os.path.basename(sys.argv[0]), reason, code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
