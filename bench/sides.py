"""The sides of the transport benchmark, and one round of one side."""

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.processes import Ended, Processes, free_port, read_cpu_s, tail, wait_listening
from bench.workload import Answers, Workload
from sut.results.logs import DetailLog, read_detail

START_TIMEOUT_S = 30.0
# A token takes this much longer than a step where a side falls behind: its figures are then those of a queue.
SATURATED = 1.1


class Side(NamedTuple):
    """A way to bring tokens home."""

    name: str
    what: str
    serve: tuple[str, ...]
    """Module and flags of its workers; --port and the engine's flags follow."""
    drive: tuple[str, ...]
    """Module and flags of its coordinator; the coordinator's flags follow."""


OURS = "frames"
SIDES = (
    Side(
        OURS,
        "python -m coordinator, python -m worker: one gRPC stream per worker, columnar frames",
        ("worker", "--engine", "counting"),
        ("coordinator",),
    ),
    Side(
        "grpc-1",
        "one gRPC stream per request, one message per token",
        ("bench.peers.serve", "grpc"),
        ("bench.peers.drive", "grpc"),
    ),
    Side(
        "grpc-10",
        "one gRPC stream per request, ten tokens per message, the first token at once",
        ("bench.peers.serve", "grpc", "--tokens-per-message", "10"),
        ("bench.peers.drive", "grpc"),
    ),
    Side(
        "sse",
        "HTTP server-sent events, aiohttp, one JSON chunk per token",
        ("bench.peers.serve", "sse"),
        ("bench.peers.drive", "sse"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One round of one side; every side's come from the same places."""

    requests: int
    tokens: int
    answers_sha256: str
    window_s: float
    """From the first query's issue to the last completion, as LoadGen logs it."""
    coordinator_cpu_s: float
    """Of the whole process in that window."""
    coordinator_cpu_s_per_mtok: float
    workers_cpu_s_per_mtok: float
    """Of all worker processes together, from the coordinator's start to its end."""
    process_cpu_s: float
    """Of the coordinator's whole life, imports included."""
    tokens_per_s: float
    in_flight: float
    """Mean over the window: latencies' sum divided by its length."""
    tpot_ms: float
    """LoadGen's mean."""
    added_p50_ms: float
    """From the engine's hand-over to the return of LoadGen's call."""
    added_p99_ms: float
    num_reports: int
    """Calls that these two describe; frames with a first token or an end on our side."""
    saturated: bool


class Delay(NamedTuple):
    """`report_delay_ns` of a run.json."""

    num_reports: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, spread: dict[str, Any]) -> "Delay":
        """Read it."""
        marks = spread["percentiles"]
        return cls(spread["count"], marks["p50"] / 1e6, marks["p99"] / 1e6)


class Fleet:
    """One side's workers."""

    def __init__(self, side: Side, processes: Processes, workload: Workload, directory: Path) -> None:
        """Start them; `wait` tells when they listen."""
        load = workload.load
        self._side = side
        self._processes = processes
        self._workload = workload
        self._directory = directory / side.name
        self._directory.mkdir()
        self._workers: list[tuple[subprocess.Popen[bytes], int, Path]] = []
        # Twice what should run: no request ever waits for a place.
        flags = ["--step-ms", str(load.step_ms), "--max-num-seqs", str(2 * load.in_flight)]
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

    def run_round(self, number: int) -> Figures:
        """Run the side's coordinator once.

        Raises:
            RuntimeError: It failed, or an answer is not the one expected.
        """
        output_dir = self._directory / f"round{number}"
        log = self._directory / f"round{number}.log"
        before_s = self._workers_cpu_s()
        ended = self._processes.run(self._command(output_dir), log, self._workload.load.timeout_s)
        workers_cpu_s = self._workers_cpu_s() - before_s
        # 3: complete, but not VALID by LoadGen's limits, which are no matter here.
        if ended.exit_code not in (0, 3):
            raise RuntimeError(f"{self._side.name}: exit code {ended.exit_code}: {tail(log)}")
        run_dir = output_dir / "server" / "performance"
        answers = self._workload.check(run_dir / "mlperf_log_accuracy.json")
        detail = read_detail(run_dir / "mlperf_log_detail.txt")
        if detail.errors:
            raise RuntimeError(f"{self._side.name}: LoadGen counts {len(detail.errors)} errors")
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        spread = Delay.of(record["summary"]["report_delay_ns"])
        return _figures(ended, answers, detail, spread, workers_cpu_s, self._workload.load.step_ms)

    def _command(self, output_dir: Path) -> list[str]:
        addresses = ",".join(f"127.0.0.1:{port}" for _, port, _ in self._workers)
        flags = {
            "--scenario": "server",
            "--input-file": str(self._workload.input_file),
            "--user-conf": str(self._workload.user_conf),
            "--workers": addresses,
            "--output-dir": str(output_dir),
            "--max-new-tokens": str(self._workload.load.longest_answer),
        }
        return [*self._side.drive, *(part for flag in flags.items() for part in flag)]

    def _workers_cpu_s(self) -> float:
        return sum(read_cpu_s(process.pid) for process, _, _ in self._workers)


def _figures(
    ended: Ended, answers: Answers, detail: DetailLog, delay: Delay, workers_cpu_s: float, step_ms: float
) -> Figures:
    begin_s, end_s = _loadgen_time_s(detail, "power_begin"), _loadgen_time_s(detail, "power_end")
    window_s = end_s - begin_s
    cpu_s = ended.curve.between(begin_s, end_s)
    tpot_ms = _number(detail, "result_time_to_output_token_mean") / 1e6
    return Figures(
        requests=answers.requests,
        tokens=answers.tokens,
        answers_sha256=answers.sha256,
        window_s=window_s,
        coordinator_cpu_s=cpu_s,
        coordinator_cpu_s_per_mtok=cpu_s / answers.tokens * 1e6,
        workers_cpu_s_per_mtok=workers_cpu_s / answers.tokens * 1e6,
        process_cpu_s=ended.cpu_s,
        tokens_per_s=answers.tokens / window_s,
        in_flight=_number(detail, "result_mean_latency_ns") / 1e9 * answers.requests / window_s,
        tpot_ms=tpot_ms,
        added_p50_ms=delay.p50_ms,
        added_p99_ms=delay.p99_ms,
        num_reports=delay.num_reports,
        saturated=tpot_ms > SATURATED * step_ms,
    )


def _loadgen_time_s(detail: DetailLog, key: str) -> float:
    """Read one end of LoadGen's test, in seconds of the system clock."""
    moment = datetime.strptime(str(detail.values[key]), "%m-%d-%Y %H:%M:%S.%f")
    return moment.replace(tzinfo=UTC).timestamp()


def _number(detail: DetailLog, key: str) -> float:
    return float(str(detail.values[key]))
