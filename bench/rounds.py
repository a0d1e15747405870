"""One side's workers, one run of its coordinator over them, and what that run left."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import Ended, Processes, argv_of, free_port, read_cpu_s, tail, wait_listening
from bench.workload import Answers, Work, Workload
from sut.results.logs import DetailLog, read_detail
from sut.settings import Scenario

START_TIMEOUT_S = 30.0
OUTPUT_DIR = "{output_dir}"
"""Stands in a side's `drive` for the --output-dir of the run."""


class Side(NamedTuple):
    """A way to bring tokens home."""

    name: str
    what: str
    serve: tuple[str, ...]
    """Module and flags of its workers; --port and the engine's flags follow."""
    drive: tuple[str, ...]
    """Module and flags of its coordinator; the coordinator's flags follow."""


class Round(NamedTuple):
    """A run whose answers are all as asked for."""

    output_dir: Path
    ended: Ended
    answers: Answers
    detail: DetailLog
    record: dict[str, Any]
    """Its run.json."""
    workers_cpu_s: float
    """Of all worker processes together, from the coordinator's start to its end."""

    @property
    def window_s(self) -> float:
        """From the first query's issue to the last completion, as LoadGen logs it."""
        begin_s, end_s = loadgen_window_s(self.detail)
        return end_s - begin_s

    @property
    def coordinator_cpu_s(self) -> float:
        """Of the whole coordinator process in that window."""
        return self.ended.curve.between(*loadgen_window_s(self.detail))

    def per_mtok(self, cpu_s: float) -> float:
        """Divide by the run's tokens, in millions."""
        return cpu_s / self.answers.tokens * 1e6

    def loadgen_number(self, key: str) -> float:
        """Read a figure of LoadGen's detail log."""
        return float(str(self.detail.values[key]))


class Fleet:
    """One side's workers."""

    def __init__(
        self, side: Side, processes: Processes, workload: Workload, scenario: Scenario, directory: Path
    ) -> None:
        """Start them; `wait` tells when they listen."""
        load = workload.load
        self._side = side
        self._processes = processes
        self._workload = workload
        self._scenario = scenario
        self._directory = directory / side.name
        self._directory.mkdir()
        self._workers: list[tuple[subprocess.Popen[bytes], int, Path]] = []
        flags = ["--step-ms", str(load.step_ms), "--max-num-seqs", str(_places(load, scenario))]
        for index in range(load.workers):
            port, log = free_port(), self._directory / f"worker{index}.log"
            process = processes.start([*side.serve, "--port", str(port), *flags], log)
            self._workers.append((process, port, log))

    def wait(self) -> None:
        """Wait until all listen.

        Raises:
            RuntimeError: One does not.
        """
        for process, port, log in self._workers:
            wait_listening(process, port, log, START_TIMEOUT_S)

    def run_round(self, number: int) -> Round:
        """Run the side's coordinator once.

        Raises:
            RuntimeError: It failed, or an answer is not the one expected.
        """
        output_dir = self._directory / f"round{number}"
        log = self._directory / f"round{number}.log"
        before_s = self._workers_cpu_s()
        ended = self._processes.run(self._command(output_dir), log, self._workload.load.timeout_s)
        workers_cpu_s = self._workers_cpu_s() - before_s
        run_dir = output_dir / self._scenario / "performance"
        record, detail = read_run(self._side.name, ended, log, run_dir)
        answers = self._workload.check(run_dir / "mlperf_log_accuracy.json")
        if detail.errors:
            raise RuntimeError(f"{self._side.name}: LoadGen counts {len(detail.errors)} errors")
        return Round(output_dir, ended, answers, detail, record, workers_cpu_s)

    def _command(self, output_dir: Path) -> list[str]:
        flags = {
            "--scenario": str(self._scenario),
            "--input-file": str(self._workload.input_file),
            "--user-conf": str(self._workload.user_conf),
            "--workers": ",".join(f"127.0.0.1:{port}" for _, port, _ in self._workers),
            "--output-dir": str(output_dir),
            "--max-new-tokens": str(self._workload.load.longest_answer),
        }
        drive = [part.replace(OUTPUT_DIR, str(output_dir)) for part in self._side.drive]
        return [*drive, *argv_of(flags)]

    def _workers_cpu_s(self) -> float:
        return sum(read_cpu_s(process.pid) for process, _, _ in self._workers)


def read_run(name: str, ended: Ended, log: Path, run_dir: Path) -> tuple[dict[str, Any], DetailLog]:
    """Read what a coordinator left: run.json, and LoadGen's detail log.

    Args:
        name: For the error.
        ended: Its process.
        log: What that printed.
        run_dir: Of the run's files.

    Raises:
        RuntimeError: It failed, or its verdict rejected the run.
    """
    # 3: complete, but not VALID by LoadGen's limits, which are no matter here.
    if ended.exit_code not in (0, 3):
        raise RuntimeError(f"{name}: exit code {ended.exit_code}: {tail(log)}")
    record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    detail_log = run_dir / "mlperf_log_detail.txt"
    if not detail_log.exists():  # set aside under another name
        raise RuntimeError(f"{name}: the run was rejected: {record['verdict']['reason']}")
    return record, read_detail(detail_log)


def loadgen_window_s(detail: DetailLog) -> tuple[float, float]:
    """Read begin and end of LoadGen's test, in seconds of the system clock; it ran with TZ=UTC."""
    begin_s, end_s = (
        datetime.strptime(str(detail.values[key]), "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
        for key in ("power_begin", "power_end")
    )
    return begin_s, end_s


def _places(load: Work, scenario: Scenario) -> int:
    """Count the requests that a worker runs at once.

    Server: twice what should run in all, so that no request ever waits for a place. Offline, where all
    requests come at once: the worker's share of what should run.
    """
    return -(-load.in_flight // load.workers) if scenario is Scenario.OFFLINE else 2 * load.in_flight
