"""One run of the coordinator, noted, over a simulated fleet, and what it left."""

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
"""LoadGen's latency limits, out of the way: what is asked for here is judged by the goals alone."""


class Goal(NamedTuple):
    """One thing that a run must show."""

    name: str
    met: bool
    seen: str
    """The figure and its bound, in words."""

    @classmethod
    def at_most(cls, name: str, figure: float, bound: float, unit: str) -> "Goal":
        """Judge a figure that must not be above a bound."""
        return cls(name, figure <= bound, f"{figure:,.3f} {unit}, at most {bound:,g}")

    @classmethod
    def at_least(cls, name: str, figure: float, bound: float, unit: str) -> "Goal":
        """Judge a figure that must not be below a bound."""
        return cls(name, figure >= bound, f"{figure:,.1f} {unit}, at least {bound:,g}")


class Shown(NamedTuple):
    """What a part of the command found."""

    figures: dict[str, Any]
    """Everything measured; for --output, and printed where it is no list."""
    goals: list[Goal]
    text: str = ""
    """Tables for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Time of a step of each simulated engine: see worker/engines/scripted/cost_model.py."""

    step_base_ms: float
    step_per_seq_us: float
    prefill_tokens_per_s: float


class FloorWork(NamedTuple):
    """What the floor sends: see floor.py."""

    queries: int
    queries_per_s: float
    window_s: float = 0.0
    """The last seconds of issue are measured; 0: from the first query to the last answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run asks of fleet and coordinator."""

    scenario: Scenario
    workers: int
    """Simulated engines, all in one process."""
    costs: Costs
    prompts: NDArray[np.int32]
    """(samples, prompt tokens) the data set."""
    max_new_tokens: int
    conf: dict[str, float]
    """Keys of LoadGen's user.conf for this scenario."""
    timeout_s: float
    """Bound of the coordinator's run."""
    fleet_flags: tuple[str, ...] = ()
    """More flags of bench.fleet.simulated."""
    floor: FloorWork | None = None
    """Measure the floor after the coordinator, over the same fleet."""


class Exchange(NamedTuple):
    """What LoadGen says of a run, and what its answers are."""

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
    """Of the process of all workers, from the coordinator's start to its end."""
    floor: FloorFigures | None

    @property
    def exchange(self) -> Exchange:
        """What common_goals judges."""
        return Exchange(len(self.detail.errors), self.checked)

    @property
    def window_s(self) -> tuple[float, float]:
        """Begin and end of LoadGen's test, in seconds of the system clock."""
        return loadgen_window_s(self.detail)

    def cores(self, window: Window) -> float:
        """Compute how many cores the coordinator's process took in a window, read from outside."""
        return self.ended.curve.between(*self.notes.system_s(window)) / window.length_s

    def spread_ms(self, name: str) -> dict[str, float]:
        """Take a distribution of run.json's summary, in ms."""
        spread = self.record["summary"][name]
        marks = {"minimum": spread["minimum"], **spread["percentiles"], "maximum": spread["maximum"]}
        return {"count": spread["count"], **{mark: value / 1e6 for mark, value in marks.items()}}

    def common_figures(self) -> dict[str, Any]:
        """Give the figures that say what ran and what it cost as a whole."""
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
        """Give the coordinator's CPU per query and, where the floor was measured, the share above it.

        Args:
            cores: Of the coordinator, in the window that the floor is measured in too.
            queries_per_s: In that window.
        """
        us_per_query = 1e6 * cores / queries_per_s
        figures: dict[str, Any] = {"coordinator, us/query": us_per_query}
        if self.floor is not None:
            figures["floor"] = self.floor.figures()
            figures["share above the floor"] = 1.0 - self.floor.us_per_query / us_per_query
        return figures


def common_goals(*exchanges: Exchange) -> list[Goal]:
    """Judge what every run must show: no error of LoadGen, and every answer right."""
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
    """Start the fleet, run the coordinator over it to its end, end the fleet.

    Args:
        work: What is asked for.
        processes: Owns what is started.
        directory: An empty one, for the run's files.

    Raises:
        RuntimeError: The fleet or the coordinator fails, or is not done in time.
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
        raise RuntimeError(f"the simulated fleet ended by itself: {tail(fleet_log)}")
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
    # It would draw from the model's official number of samples.
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
    return argv_of(flags)


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
