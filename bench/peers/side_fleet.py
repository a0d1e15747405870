"""One side of bench.peers: its workers, its coordinator runs, and the rounds of all sides."""

import random
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import say
from bench.peers.burst_load import Answers, BurstLoad, Workload
from bench.processes import Ended, Processes, argv_of, read_cpu_s, wait_listening
from bench.runs import loadgen_window_s, order_of, read_run
from sut.log_files import ACCURACY, find_log
from sut.results.logs import DetailLog
from sut.settings import Scenario
from worker.node.ports import steady_port

START_TIMEOUT_S = 30.0


class Side(NamedTuple):
    """A transport for tokens to the coordinator, with its processes."""

    name: str
    what: str
    serve: tuple[str, ...]
    """Module and flags of its workers; --port and the engine's flags are appended."""
    drive: tuple[str, ...]
    """Module and flags of its coordinator; the coordinator's flags are appended."""


class Round(NamedTuple):
    """A run in which every answer was the expected one."""

    output_dir: Path
    ended: Ended
    answers: Answers
    detail: DetailLog
    record: dict[str, Any]
    """Content of run.json."""
    workers_cpu_s: float
    """CPU time of all worker processes together, from the coordinator's start to its end."""

    @property
    def window_s(self) -> float:
        """Return the time from the first query's issue to the last completion, by LoadGen's log."""
        begin_s, end_s = loadgen_window_s(self.detail)
        return end_s - begin_s

    @property
    def coordinator_cpu_s(self) -> float:
        """Return the CPU time of the whole coordinator process in that window."""
        return self.ended.curve.between(*loadgen_window_s(self.detail))

    def per_mtok(self, cpu_s: float) -> float:
        """Divide by the run's tokens in millions."""
        return cpu_s / self.answers.tokens * 1e6


class SideFleet:
    """One side's workers."""

    def __init__(self, side: Side, processes: Processes, workload: Workload, directory: Path) -> None:
        """Start the workers; `wait` waits until they listen."""
        load = workload.load
        self._side = side
        self._processes = processes
        self._workload = workload
        self._directory = directory / side.name
        self._directory.mkdir()
        self._workers: list[tuple[subprocess.Popen[bytes], int, Path]] = []
        # Each engine gets an equal share of the requests in flight; its steps take no time.
        flags = ["--step-ms", "0", "--max-num-seqs", str(-(-load.in_flight // load.workers))]
        first = steady_port(random.Random(), load.workers)
        for index in range(load.workers):
            port, log = first + index, self._directory / f"worker{index}.log"
            process = processes.start([*side.serve, "--port", str(port), *flags], log)
            self._workers.append((process, port, log))

    def wait(self) -> None:
        """Wait until all workers listen.

        Raises:
            RuntimeError: A worker does not listen in time.
        """
        for process, port, log in self._workers:
            wait_listening(process, port, log, START_TIMEOUT_S)

    def run_round(self, number: int) -> Round:
        """Run the side's coordinator once.

        Raises:
            RuntimeError: The coordinator failed or an answer is not the expected one.
        """
        output_dir = self._directory / f"round{number}"
        log = self._directory / f"round{number}.log"
        before_s = self._workers_cpu_s()
        ended = self._processes.run(self._command(output_dir), log, self._workload.load.timeout_s)
        workers_cpu_s = self._workers_cpu_s() - before_s
        run_dir = output_dir / Scenario.OFFLINE / "performance"
        record, detail = read_run(self._side.name, ended, log, run_dir)
        answers = self._workload.check(find_log(run_dir, ACCURACY))
        if detail.errors:
            raise RuntimeError(f"{self._side.name}: LoadGen counts {len(detail.errors)} errors")
        return Round(output_dir, ended, answers, detail, record, workers_cpu_s)

    def _command(self, output_dir: Path) -> list[str]:
        flags = {
            "--scenario": str(Scenario.OFFLINE),
            "--input-file": str(self._workload.input_file),
            "--user-conf": str(self._workload.user_conf),
            "--workers": ",".join(f"127.0.0.1:{port}" for _, port, _ in self._workers),
            "--output-dir": str(output_dir),
            "--max-new-tokens": str(self._workload.load.longest_answer),
        }
        return [*self._side.drive, *argv_of(flags)]

    def _workers_cpu_s(self) -> float:
        return sum(read_cpu_s(process.pid) for process, _, _ in self._workers)


def run_rounds(
    sides: tuple[Side, ...], load: BurstLoad, num_rounds: int, take: Callable[[int, Side, Round], None]
) -> int:
    """Run every side in every round; all started processes end with the call.

    Args:
        sides: Sides; the workers of each run during all rounds.
        load: Load, the same for all sides.
        num_rounds: Number of rounds; the order of the sides differs between rounds.
        take: Called with the round's number, the side and the results of its run.

    Returns:
        Number of tokens in a round.

    Raises:
        RuntimeError: A side failed or returned an unexpected answer.
    """
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name, Processes() as processes:
        directory = Path(name)
        workload = Workload(load, directory)
        say(
            f"load          {load.requests} requests at once, {workload.num_tokens} tokens, "
            f"{load.workers} workers; {num_rounds} rounds"
        )
        fleets = [SideFleet(side, processes, workload, directory) for side in sides]
        for fleet in fleets:
            fleet.wait()
        for number in range(num_rounds):
            for index in order_of(number, len(sides)):
                take(number, sides[index], fleets[index].run_round(number))
        return workload.num_tokens
