"""One coordinator run over a simulated fleet, with notes, and its results."""

import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.fleet.floor import FloorFigures
from bench.fleet.notes import Checked, RunNotes, Window
from bench.processes import Ended, Processes, argv_of, read_cpu_s, split_cores, started_on, tail, wait_says
from bench.runs import loadgen_window_s, read_run
from bench.workload import compose_user_conf, write_prompts
from sut.results.logs import DetailLog
from sut.settings import Scenario
from worker.node.ports import steady_port

READY_TIMEOUT_S = 60.0
NO_LIMIT_MS = 600_000
"""LoadGen's latency limits, set so high that they never apply: only the goals judge a run."""


class Goal(NamedTuple):
    """A goal of a run and whether it was met."""

    name: str
    met: bool
    seen: str
    """The figure and its bound as text."""

    @classmethod
    def at_most(cls, name: str, figure: float, bound: float, unit: str) -> "Goal":
        """Compare a figure with its upper bound."""
        return cls(name, figure <= bound, f"{figure:,.3f} {unit}, at most {bound:,g}")

    @classmethod
    def at_least(cls, name: str, figure: float, bound: float, unit: str) -> "Goal":
        """Compare a figure with its lower bound."""
        return cls(name, figure >= bound, f"{figure:,.1f} {unit}, at least {bound:,g}")


class Shown(NamedTuple):
    """Results of a part of the command."""

    figures: dict[str, Any]
    """All figures; written to --output, and printed unless they are lists."""
    goals: list[Goal]
    text: str = ""
    """Tables to print."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Cost of a step of a simulated engine: see worker/engines/scripted/cost_model.py."""

    step_base_ms: float
    step_per_seq_us: float
    prefill_tokens_per_s: float


class FloorWork(NamedTuple):
    """Work of the floor measurement: see floor.py."""

    queries: int
    queries_per_s: float
    window_s: float = 0.0
    """Length of the measured window, the last seconds of issue; 0: first query to last answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Parameters of one run, for fleet and coordinator."""

    scenario: Scenario
    workers: int
    """Number of simulated engines, all in one process."""
    costs: Costs
    prompts: NDArray[np.int32]
    """(samples, prompt tokens): the data set."""
    max_new_tokens: int
    conf: dict[str, float]
    """Keys and values of LoadGen's user.conf for this scenario."""
    timeout_s: float
    """Time limit of the coordinator's run."""
    fleet_flags: tuple[str, ...] = ()
    """Additional flags of bench.fleet.simulated."""
    floor: FloorWork | None = None
    """If set, the floor is measured after the coordinator, over the same fleet."""


class Exchange(NamedTuple):
    """LoadGen's log of a run, and the check of its answers."""

    num_errors: int
    checked: Checked


class Left(NamedTuple):
    """Results of a run."""

    ended: Ended
    record: dict[str, Any]
    """run.json."""
    detail: DetailLog
    notes: RunNotes
    checked: Checked
    fleet_cpu_s: float
    """CPU time of the fleet's process, from the coordinator's start to its end."""
    floor: FloorFigures | None

    @property
    def exchange(self) -> Exchange:
        """Return the input of common_goals."""
        return Exchange(len(self.detail.errors), self.checked)

    @property
    def window_s(self) -> tuple[float, float]:
        """Return begin and end of LoadGen's test, in seconds of the system clock."""
        return loadgen_window_s(self.detail)

    def cores(self, window: Window) -> float:
        """Compute how many cores the coordinator's process used in a window, measured from outside."""
        return self.ended.curve.between(*self.notes.system_s(window)) / window.length_s

    def spread_ms(self, name: str) -> dict[str, float]:
        """Return a distribution of run.json's summary, in ms."""
        spread = self.record["summary"][name]
        marks = {"minimum": spread["minimum"], **spread["percentiles"], "maximum": spread["maximum"]}
        return {"count": spread["count"], **{mark: value / 1e6 for mark, value in marks.items()}}

    def common_figures(self) -> dict[str, Any]:
        """Return the figures that all parts share: what ran, and its total cost."""
        return {
            "requests": self.checked.requests,
            "tokens": self.checked.tokens,
            "run.json verdict": self.record["verdict"]["outcome"],
            "wall of StartTest, s": self.record["wall_s"],
            "report delay, ms": self.spread_ms("report_delay_ns"),
            "coordinator CPU in all, s": self.ended.cpu_s,
            "of which noting, s": self.notes.noting_s,
            "fleet CPU, s": self.fleet_cpu_s,
            "frames": sum(worker["frames"] for worker in self.record["summary"]["workers"]),
            "peak RSS, MiB": self.notes.memory["peak_rss"] / 2**20,
        }

    def floor_figures(self, cores: float, queries_per_s: float) -> dict[str, Any]:
        """Return the coordinator's CPU per query and, if the floor was measured, the share above the floor.

        Args:
            cores: Cores used by the coordinator, in the same window as the floor's.
            queries_per_s: Queries/s in that window.
        """
        us_per_query = 1e6 * cores / queries_per_s
        figures: dict[str, Any] = {"coordinator, us/query": us_per_query}
        if self.floor is not None:
            figures["floor"] = self.floor.figures()
            figures["share above the floor"] = 1.0 - self.floor.us_per_query / us_per_query
        return figures


def common_goals(*exchanges: Exchange) -> list[Goal]:
    """Judge the goals of every run: no LoadGen error, and every answer is right."""
    errors = sum(exchange.num_errors for exchange in exchanges)
    found = [exchange.checked for exchange in exchanges]
    sums = Checked._make(map(sum, zip(*found, strict=True)))
    answers = (
        f"{sums.requests:,} requests, {sums.tokens:,} tokens by length and XXH3-64: {sums.missing} missing, "
        f"{sums.repeated} repeated, {sums.wrong} wrong"
    )
    return [
        Goal("LoadGen errors", errors == 0, f"{errors}, none allowed"),
        Goal("answers", sums.right, answers),
    ]


def run(work: Work, processes: Processes, directory: Path) -> Left:
    """Start the fleet, run the coordinator over it to its end, stop the fleet.

    Args:
        work: Parameters of the run.
        processes: Owner of the started processes.
        directory: Empty directory for the run's files.

    Raises:
        RuntimeError: The fleet or the coordinator failed or exceeded its time limit.
    """
    port = steady_port(random.Random(), work.workers)
    fleet_cores, coordinator_cores = split_cores()
    with started_on(fleet_cores):
        fleet, fleet_log = _start_fleet(work, port, processes, directory), directory / "fleet.log"
    wait_says(fleet, fleet_log, "ready\n", READY_TIMEOUT_S, "the simulated fleet is not ready")
    notes, log = directory / "notes.npz", directory / "coordinator.log"
    before_s = read_cpu_s(fleet.pid)
    argv = ["bench.fleet.noted", str(notes), *_coordinator_flags(work, port, directory)]
    with started_on(coordinator_cores):
        ended = processes.run(argv, log, work.timeout_s)
    if fleet.poll() is not None:
        raise RuntimeError(f"the simulated fleet ended unexpectedly: {tail(fleet_log)}")
    fleet_cpu_s = read_cpu_s(fleet.pid) - before_s
    floor = None
    if work.floor is not None:
        with started_on(coordinator_cores):
            floor = _measure_floor(work, work.floor, port, processes, directory)
    processes.kill(fleet)
    run_dir = directory / "out" / work.scenario / "performance"
    record, detail = read_run("the coordinator", ended, log, run_dir)
    found = RunNotes.read(notes)
    checked = found.check(work.prompts)
    return Left(ended, record, detail, found, checked, fleet_cpu_s, floor)


def _start_fleet(work: Work, port: int, processes: Processes, directory: Path) -> subprocess.Popen[bytes]:
    flags = {
        "--workers": work.workers,
        "--port-base": port,
        "--step-base-ms": work.costs.step_base_ms,
        "--step-per-seq-us": work.costs.step_per_seq_us,
        "--prefill-tokens-per-s": work.costs.prefill_tokens_per_s,
    }
    argv = ["bench.fleet.simulated", *argv_of(flags), *work.fleet_flags]
    return processes.start(argv, directory / "fleet.log")


def _coordinator_flags(work: Work, port: int, directory: Path) -> list[str]:
    limits = {"ttft_latency": NO_LIMIT_MS, "tpot_latency": NO_LIMIT_MS}
    # Without this LoadGen would draw from the model's official number of samples.
    conf = {"performance_sample_count_override": len(work.prompts), "min_duration": 1, **limits, **work.conf}
    user_conf = directory / "user.conf"
    user_conf.write_text(compose_user_conf([work.scenario], conf), "utf-8")
    flags = {
        "--scenario": str(work.scenario),
        "--input-file": str(write_prompts(directory / "data.parquet", work.prompts)),
        "--user-conf": str(user_conf),
        "--workers": _addresses(work, port),
        "--output-dir": str(directory / "out"),
        "--max-new-tokens": str(work.max_new_tokens),
    }
    return [*argv_of(flags), "--no-report"]


def _measure_floor(
    work: Work, floor: FloorWork, port: int, processes: Processes, directory: Path
) -> FloorFigures:
    prompts, output, log = directory / "prompts.npy", directory / "floor.json", directory / "floor.log"
    np.save(prompts, work.prompts)
    flags = {
        "--workers": _addresses(work, port),
        "--prompts": prompts,
        "--queries": floor.queries,
        "--queries-per-s": floor.queries_per_s,
        "--window-s": floor.window_s,
        "--max-new-tokens": work.max_new_tokens,
        "--output": output,
    }
    ended = processes.run(["bench.fleet.floor", *argv_of(flags)], log, work.timeout_s)
    if ended.exit_code != 0:
        raise RuntimeError(f"the floor: exit code {ended.exit_code}: {tail(log)}")
    return FloorFigures(**json.loads(output.read_text("utf-8")))


def _addresses(work: Work, port: int) -> str:
    return ",".join(f"127.0.0.1:{port + index}" for index in range(work.workers))
