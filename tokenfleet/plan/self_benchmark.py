"""Measures the coordinator's CPU time per query, frame and token on this host, with runs of a few seconds.

Each run is one of `tokenfleet run` with LoadGen, against two counting workers on loopback. Its CPU time is
that of the coordinator's process during LoadGen's test, from run.json.
"""

import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.child_process import child_command, child_environment
from common.control_groups import CpuQuota, read_cpu_quota
from coordinator.doctor.capacity import CoordinatorCosts, frame_us
from coordinator.doctor.machines import MAX_LOAD_PER_CORE
from sut.log_files import read_record
from sut.results.verdict import COMPLETE_CODES
from sut.settings import Scenario
from tokenfleet.child import ChildProcess
from tokenfleet.log_tail import last_line
from worker.node.ports import steady_port

NUM_WORKERS = 2
STEP_MS = 2.0
"""Each step is a frame: the workers do not hold tokens back."""
MAX_NUM_SEQS = 1_024
PROMPT_LEN = 1_500
"""Mean of bench/results/2026-11-29-h200-official."""
NUM_SAMPLES = 256
RUN_TIMEOUT_S = 120.0
POLL_S = 0.05
# Rows of the two frames between which a token is timed.
FEW_ROWS, MANY_ROWS = 64, 1_024
# A cost that is a smaller share of its run's CPU time is within the error of the costs that explain the rest.
MIN_OWN_SHARE = 0.05
# A few periods are used up while programs start.
MAX_THROTTLED_SHARE = 0.05


class BenchmarkFailed(RuntimeError):
    """A run of the benchmark did not end as it should; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortRun:
    """One run of the benchmark."""

    name: str
    scenario: Scenario
    num_queries: int
    """Server: queries. Offline: samples of its one query."""
    answer_len: int
    target_qps: float


# One run for each cost: time passes; many frames of few tokens; many queries of two tokens; many samples of
# one Offline query.
IDLE = ShortRun(name="idle", scenario=Scenario.SERVER, num_queries=8, answer_len=2, target_qps=2.0)
SERVER = ShortRun(name="queries", scenario=Scenario.SERVER, num_queries=1_536, answer_len=2, target_qps=500.0)
FRAMES = ShortRun(name="frames", scenario=Scenario.OFFLINE, num_queries=16, answer_len=1_500, target_qps=1.0)
OFFLINE = ShortRun(name="samples", scenario=Scenario.OFFLINE, num_queries=4_096, answer_len=2, target_qps=1.0)


class ShortRunFigures(NamedTuple):
    """What one run took and carried."""

    cpu_s: float
    """Of the coordinator's process during LoadGen's test."""
    seconds: float
    queries: int
    frames: int
    tokens: int


class MeasuredHost(NamedTuple):
    """Costs of a coordinator on this host."""

    server: CoordinatorCosts
    offline: CoordinatorCosts
    """The same, but with the cost of a sample of an Offline query."""
    runs: dict[str, ShortRunFigures]
    quota_cores: float | None = None
    """CPU quota of this process's control group; None: it has none."""
    load_per_core: float = 0.0
    """Processes on each core of the host, mean of the minute before the benchmark."""

    @property
    def is_busy(self) -> bool:
        """Whether other processes used the cores: CPU times grow then."""
        return self.load_per_core > MAX_LOAD_PER_CORE

    def costs(self, scenario: Scenario) -> CoordinatorCosts:
        """Return the costs in a scenario."""
        return self.offline if scenario is Scenario.OFFLINE else self.server


def measure_host() -> MeasuredHost:
    """Run the benchmark.

    Raises:
        BenchmarkFailed: A worker or a run failed.
    """
    before = read_cpu_quota()
    load_per_core = os.getloadavg()[0] / (os.cpu_count() or 1)
    token_s = max(frame_us(MANY_ROWS) - frame_us(FEW_ROWS), 0.0) / (MANY_ROWS - FEW_ROWS) / 1e6
    with tempfile.TemporaryDirectory(prefix="tokenfleet-plan-") as name:
        directory = Path(name)
        with _workers(directory) as addresses:
            runs = {run.name: _measure(run, addresses, directory) for run in (IDLE, FRAMES, SERVER, OFFLINE)}
    after = read_cpu_quota()
    check_throttling(before, after)
    quota_cores = after.cores if after else None
    return derive_costs(runs, token_s)._replace(quota_cores=quota_cores, load_per_core=load_per_core)


def check_throttling(before: CpuQuota | None, after: CpuQuota | None) -> None:
    """Require that a CPU quota did not stop the runs: queries that pile up cost less each.

    Raises:
        BenchmarkFailed: Names the quota.
    """
    if before is None or after is None:
        return
    num, num_throttled = (
        after.num_periods - before.num_periods,
        after.num_throttled - before.num_throttled,
    )
    if num_throttled > MAX_THROTTLED_SHARE * num:
        raise BenchmarkFailed(
            f"the kernel stopped the runs in {num_throttled} of {num} periods of 0.1 s, because of a CPU "
            f"quota of {after.cores:g} cores: the costs are not those of this host; raise the quota"
        )


def derive_costs(runs: dict[str, ShortRunFigures], token_s: float) -> MeasuredHost:
    """Solve for the cost of a second, then of a frame, then of a query of each scenario.

    Args:
        runs: Figures of IDLE, FRAMES, SERVER and OFFLINE by name.
        token_s: CPU time of a token.

    Raises:
        BenchmarkFailed: A run took hardly more CPU time than the others explain.
    """
    idle = runs[IDLE.name].cpu_s / runs[IDLE.name].seconds

    def rest_s(name: str, frame_s: float) -> float:
        run = runs[name]
        own_s = run.cpu_s - idle * run.seconds - frame_s * run.frames - token_s * run.tokens
        if own_s < MIN_OWN_SHARE * run.cpu_s:
            raise BenchmarkFailed(
                f"the costs cannot be told apart: the run of {name} took {run.cpu_s:.3f} s of CPU, of which "
                f"other runs explain {run.cpu_s - own_s:.3f} s; end what else uses the cores, measure again"
            )
        return own_s

    frame_s = rest_s(FRAMES.name, 0.0) / runs[FRAMES.name].frames
    server, offline = (
        CoordinatorCosts(idle, frame_s, token_s, rest_s(run.name, frame_s) / runs[run.name].queries)
        for run in (SERVER, OFFLINE)
    )
    return MeasuredHost(server, offline, runs)


@contextmanager
def _workers(directory: Path) -> Iterator[list[str]]:
    """Run the workers; yields their addresses. The first run waits until they are ready."""
    flags = ["--engine", "counting", "--host", "127.0.0.1", "--step-ms", str(STEP_MS), "--frame-hold-ms", "0"]
    flags += ["--max-num-seqs", str(MAX_NUM_SEQS)]
    first_port = steady_port(random.Random(), NUM_WORKERS)
    ports = [first_port + k for k in range(NUM_WORKERS)]
    with ExitStack() as stack:
        for port in ports:
            output = stack.enter_context((directory / f"worker-{port}.log").open("wb"))
            command = child_command("worker", [*flags, "--port", str(port)])
            stack.enter_context(ChildProcess(command, child_environment(os.environ), output))
        yield [f"127.0.0.1:{port}" for port in ports]


def _measure(run: ShortRun, addresses: Sequence[str], directory: Path) -> ShortRunFigures:
    """Carry out one run.

    Raises:
        BenchmarkFailed: It did not complete.
    """
    data, conf = directory / f"{run.name}.parquet", directory / f"{run.name}.conf"
    prompts = _prompts(min(run.num_queries, NUM_SAMPLES), run.answer_len)
    pq.write_table(pa.table({"tok_input": pa.array(list(prompts), pa.list_(pa.int32()))}), data)
    conf.write_text(_user_conf(run), encoding="utf-8")
    output_dir, log = directory / run.name, directory / f"{run.name}.log"
    argv = [f"--workers={','.join(addresses)}", f"--scenario={run.scenario}", f"--input-file={data}"]
    argv += [f"--user-conf={conf}", f"--output-dir={output_dir}"]
    with log.open("wb") as output:
        command = child_command("coordinator", argv)
        with ChildProcess(command, child_environment(os.environ), output) as child:
            code = _wait(child)
    # LoadGen calls so short a run INVALID.
    if code not in COMPLETE_CODES:
        ending = f"no end within {RUN_TIMEOUT_S:g} s" if code is None else f"exit code {code}"
        raise BenchmarkFailed(f"the run of {run.name} failed: {ending}: {last_line(log)}")
    return _read_figures(read_record(output_dir / run.scenario / "performance"))


def _wait(child: ChildProcess) -> int | None:
    deadline_s = time.monotonic() + RUN_TIMEOUT_S
    while (code := child.poll()) is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return code


def _prompts(num: int, answer_len: int) -> NDArray[np.int32]:
    """Return prompts of PROMPT_LEN tokens, (num, PROMPT_LEN); the first token is the length of the answer."""
    prompts = np.random.default_rng(0).integers(0, 100_000, (num, PROMPT_LEN), np.int32)
    prompts[:, 0] = answer_len
    return prompts


def _user_conf(run: ShortRun) -> str:
    values = {"min_duration": 0, "min_query_count": run.num_queries, "target_qps": run.target_qps}
    # In LoadGen a mlperf.conf line with the model's name takes precedence over a line with `*`.
    prefix = f"{run.scenario.model_name}.{run.scenario.loadgen_name}"
    return "".join(f"{prefix}.{key} = {value:g}\n" for key, value in values.items())


def _read_figures(record: Mapping[str, Any]) -> ShortRunFigures:
    summary = record["summary"]
    workers = summary["workers"]
    return ShortRunFigures(
        cpu_s=record["test_cpu_s"],
        seconds=record["wall_s"],
        queries=summary["answer_tokens"]["count"],
        frames=sum(worker["frames"] for worker in workers),
        tokens=sum(worker["tokens"] for worker in workers),
    )
