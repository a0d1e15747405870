"""`python -m bench.startup`: time to SERVING and memory of a worker, compared with plain `vllm serve`.

Real vLLM on the CPU with the tiny random model; see bench/README.md for how to read the output.
"""

import argparse
import random
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc

from bench.command import describe_commit, describe_machine, parse_comparison, run_command, say, write_record
from bench.flag_help import FlagFormatter
from bench.process_usage import read_usage
from bench.processes import Processes, argv_of, tail
from bench.runs import order_of
from common.flags import Parser
from protos.columns import CHANNEL_OPTIONS, SERVICE
from sut.synthetic import write_checkpoint
from worker.machine.nvml import process_tree
from worker.node.ports import steady_port
from worker.probe import check_health

TIMEOUT_S = 600.0
POLL_S = 0.02
PROBE_TIMEOUT_S = 2.0
# Delay of the measurement after SERVING, in which memory of the start-up is freed.
SETTLE_S = 2.0
STOP_TIMEOUT_S = 60.0
# Ports of the node and of its replicas.
NUM_PORTS = 3
ENGINE_FLAGS: dict[str, object] = {
    "--dtype": "float32",
    "--max-model-len": 256,
    "--max-num-seqs": 16,
    "--kv-cache-memory-bytes": 1 << 28,
}
SERVE_FLAGS = (
    "--skip-tokenizer-init",
    "--enforce-eager",
    "--no-enable-prefix-caching",
    "--disable-log-stats",
)


@dataclass(frozen=True, slots=True)
class Side:
    """One way to start engines."""

    name: str
    what: str
    num_engines: int
    argv: tuple[str, ...]
    """Module and flags; port, model and the engine's flags are appended."""
    serves: Callable[[int], bool]
    """Asks the server at a port whether it serves."""


class Figures(NamedTuple):
    """Figures of one start."""

    serving_s: float
    """Time from the start of the process until all engines serve."""
    pss_mib: float
    """PSS of all processes once the side serves: shared pages are divided among their users."""
    front_pss_mib: float
    """PSS of the processes without a model: all but the engines' own."""
    num_processes: int


def serves_grpc(port: int) -> bool:
    """Return whether a worker, or a node with all of its replicas, is SERVING."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        try:
            return check_health(channel, SERVICE).exit_code == 0
        except grpc.RpcError:
            return False


def serves_http(port: int) -> bool:
    """Return whether vLLM's own server is healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PROBE_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


SIDES = (
    # The module that `vllm serve` runs; the command itself requires a distribution named vllm.
    Side("serve", "vllm serve", 1, ("vllm.entrypoints.openai.api_server", *SERVE_FLAGS), serves_http),
    Side("worker", "python -m worker", 1, ("worker",), serves_grpc),
    Side("node", "python -m worker --replicas 2", 2, ("worker", "--replicas", "2"), serves_grpc),
)


def main(argv: list[str]) -> int:
    """Start and measure all sides, print and write the figures.

    Returns:
        0: done; 1: a side did not serve; 2: bad input.
    """
    try:
        args = _parse(argv)
    except ValueError as error:
        say(f"bench.startup: {error}")
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    rounds: dict[str, list[Figures]] = {side.name: [] for side in SIDES}
    try:
        with tempfile.TemporaryDirectory(prefix="bench-startup-") as name, Processes() as processes:
            model = Path(name) / "model"
            write_checkpoint(model)
            say(f"\n{HEAD}")
            for number in range(args.rounds):
                for index in order_of(number, len(SIDES)):
                    side = SIDES[index]
                    found = start(side, model, processes, Path(name) / f"{side.name}{number}.log")
                    rounds[side.name].append(found)
                    say(_line(side, [found]))
    except RuntimeError as error:
        say(f"bench.startup: {error}")
        return 1
    say(f"\nmedians of {args.rounds}\n{HEAD}\n" + "\n".join(_line(side, rounds[side.name]) for side in SIDES))
    write_record(args.output, _record(machine, rounds))
    return 0


def start(side: Side, model: Path, processes: Processes, log: Path) -> Figures:
    """Start one side, measure it, and stop it.

    Raises:
        RuntimeError: The side does not serve in time.
    """
    port = steady_port(random.Random(), NUM_PORTS)
    flags = argv_of({"--port": port, "--model": model, **ENGINE_FLAGS})
    begun_s = time.monotonic()
    process = processes.start([*side.argv, *flags], log)
    while not side.serves(port):
        if process.poll() is not None or time.monotonic() > begun_s + TIMEOUT_S:
            raise RuntimeError(f"{side.what} does not serve: {tail(log)}")
        time.sleep(POLL_S)
    serving_s = time.monotonic() - begun_s
    time.sleep(SETTLE_S)
    pss_mib = {pid: _pss_mib(pid) for pid in process_tree(process.pid)}
    engines = {pid for pid in pss_mib if _is_engine(pid)}
    process.terminate()
    process.wait(STOP_TIMEOUT_S)
    processes.kill(process)
    return Figures(
        serving_s=serving_s,
        pss_mib=sum(pss_mib.values()),
        front_pss_mib=sum(mib for pid, mib in pss_mib.items() if pid not in engines),
        num_processes=len(pss_mib),
    )


HEAD = (
    f"{'side':<34}{'serving s':>11}{'PSS MiB':>10}{'not engines':>13}{'processes':>11}{'PSS an engine':>15}"
)


def _line(side: Side, found: list[Figures]) -> str:
    serving_s, pss_mib, front_mib, num = (median(column) for column in zip(*found, strict=True))
    return (
        f"{side.what:<34}{serving_s:>11.1f}{pss_mib:>10.0f}{front_mib:>13.0f}{num:>11g}"
        f"{pss_mib / side.num_engines:>15.0f}"
    )


def _pss_mib(pid: int) -> float:
    vitals = read_usage(pid)
    return 0.0 if vitals is None or vitals.pss_kib is None else vitals.pss_kib / 1024


def _is_engine(pid: int) -> bool:
    """Return whether vLLM named a process an engine core."""
    try:
        return "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return False


def _record(machine: dict[str, str], rounds: dict[str, list[Figures]]) -> dict[str, object]:
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "engine_flags": {name: str(value) for name, value in ENGINE_FLAGS.items()},
        "rounds": {name: [found._asdict() for found in figures] for name, figures in rounds.items()},
    }


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        formatter_class=FlagFormatter, prog="python -m bench.startup", allow_abbrev=False, description=__doc__
    )
    return parse_comparison(parser, argv, rounds=3, quick={"rounds": 1})


if __name__ == "__main__":
    run_command(main)
