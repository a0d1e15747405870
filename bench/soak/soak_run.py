"""One soak run: LoadGen's Server over workers that are killed, with samples of the coordinator."""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.command import flag
from bench.process_usage import ProcessUsage, read_usage
from bench.processes import Processes, tail
from bench.soak.killed_workers import Kill, KilledWorkers
from bench.workload import counting_answer, draw_prompts, read_answers, write_prompts
from common.flags import FlagError
from sut.log_files import ACCURACY, DETAIL, find_log
from sut.results.logs import DetailLog, read_detail

TICK_S = 0.2
NUM_SAMPLES = 256
PROMPT_TOKENS = 64
MIN_QUERIES = 1_000
"""Lower bound of the queries: LoadGen's early stopping needs some hundreds."""
LOGGING_CONF = "*.*.accuracy_log_rng_seed = 1\n*.*.accuracy_log_sampling_target = 1000000000\n"
# Requests meet many losses here because the benchmark kills workers: no request may be failed for that.
MAX_WORKER_LOSSES = 1_000_000
WORKER_TIMEOUT_S = 5
SLACK_S = 300.0
"""Time allowed beyond the soak's length: start-up, the last answers, LoadGen's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Flags of a soak."""

    minutes: float = 30.0
    """Time over which LoadGen issues queries, in minutes, above 0."""
    workers: int = 64
    """Number of worker processes, 1..1000."""
    kill_every_s: float = 15.0
    """Time between two kills in s, above 0."""
    target_qps: float = 30.0
    """LoadGen's target_qps, above 0."""
    step_ms: tuple[float, float] = (200.0, 500.0)
    """Bounds of a worker's random step time in ms, above 0."""
    answer_tokens: tuple[int, int] = (20, 60)
    """Shortest and longest answer in tokens, 2 or more."""
    sample_every_s: float = 5.0
    """Time between two samples of the coordinator in s, above 0."""
    seed: int = 1
    """Seed of worker speeds, killed workers and pauses."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        for name in ("minutes", "kill_every_s", "target_qps", "sample_every_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise FlagError(flag(name), f"{getattr(self, name)} is not above 0")
        if not 1 <= self.workers <= 1000:
            raise FlagError("--workers", f"{self.workers} is not in 1..1000")
        if not 0 < self.step_ms[0] <= self.step_ms[1]:
            raise FlagError("--step-ms", f"{self.step_ms} is not ascending with both values above 0")
        # LoadGen counts an answer of fewer than two tokens as an error.
        if not 2 <= self.answer_tokens[0] <= self.answer_tokens[1]:
            raise FlagError("--answer-tokens", f"{self.answer_tokens} is not ascending from at least 2")


class Sample(NamedTuple):
    """State of the soak at one moment."""

    at_s: float
    """Time on the system clock, as in LoadGen's log."""
    serving: int
    """Lowest number of SERVING workers since the last sample."""
    kills: int
    """Kills so far."""
    usage: ProcessUsage
    """Usage of the coordinator's process."""


class Leftover(NamedTuple):
    """Results of a soak."""

    exit_code: int
    samples: list[Sample]
    kills: list[Kill]
    record: dict[str, Any]
    """run.json."""
    detail: DetailLog
    num_answers: int
    """Number of answers in LoadGen's log; each was compared token by token."""
    num_samples: int
    """Number of distinct samples among them."""
    wrong: list[str]
    """One line for each answer that differs from the expected one."""
    log: str
    """End of the coordinator's log."""


class Soak:
    """One soak with its processes."""

    def __init__(self, plan: Plan, processes: Processes, directory: Path) -> None:
        """Write the input files and start the workers.

        Raises:
            RuntimeError: A worker does not start.
        """
        self._plan = plan
        self._processes = processes
        self._directory = directory
        self._prompts = draw_prompts(NUM_SAMPLES, PROMPT_TOKENS, *plan.answer_tokens)
        self._run_dir = directory / "out" / "server" / "performance"
        self._log = directory / "coordinator.log"
        self._samples: list[Sample] = []
        self._fewest = plan.workers
        self._workers = KilledWorkers(processes, directory, plan.workers, plan.step_ms, plan.seed)
        self._workers.start()

    def run(self) -> Leftover:
        """Run the coordinator to its end and kill workers meanwhile.

        Raises:
            RuntimeError: The coordinator timed out or wrote no record, or a worker ended unexpectedly.
        """
        coordinator = self._processes.start(self._command(), self._log)
        deadline_s = time.monotonic() + self._plan.minutes * 60 + SLACK_S
        next_kill_s: float | None = None
        next_sample_s = time.monotonic()
        while coordinator.poll() is None:
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise RuntimeError(f"not done {SLACK_S:g} s after the last query: {tail(self._log)}")
            self._workers.tend()
            self._fewest = min(self._fewest, self._workers.num_serving)
            if next_kill_s is None and find_log(self._run_dir, DETAIL).exists():
                next_kill_s = now_s + self._plan.kill_every_s
            if next_kill_s is not None and now_s >= next_kill_s and self._workers.kill_one():
                next_kill_s += self._plan.kill_every_s
            if now_s >= next_sample_s:
                self._sample(coordinator)
                next_sample_s += self._plan.sample_every_s
            time.sleep(TICK_S)
        return self._read(coordinator.returncode)

    def _sample(self, coordinator: subprocess.Popen[bytes]) -> None:
        vitals = read_usage(coordinator.pid)
        if vitals is not None:
            self._samples.append(Sample(time.time(), self._fewest, len(self._workers.kills), vitals))
        self._fewest = self._workers.num_serving

    def _command(self) -> list[str]:
        plan = self._plan
        conf = {
            "*.Server.target_qps": plan.target_qps,
            "*.Server.min_duration": round(plan.minutes * 60_000),
            "*.Server.min_query_count": MIN_QUERIES,
            # The engines are slow on purpose, and a lost worker's requests wait.
            "gpt-oss-120b.Server.ttft_latency": 600_000,
            "gpt-oss-120b.Server.tpot_latency": 600_000,
        }
        user_conf = self._directory / "user.conf"
        user_conf.write_text(
            "".join(f"{key} = {value}\n" for key, value in conf.items()) + LOGGING_CONF, encoding="utf-8"
        )
        flags = {
            "--scenario": "server",
            "--input-file": str(write_prompts(self._directory / "data.parquet", self._prompts)),
            "--user-conf": str(user_conf),
            "--workers": ",".join(self._workers.addresses),
            "--output-dir": str(self._directory / "out"),
            "--max-new-tokens": str(plan.answer_tokens[1]),
            "--worker-timeout-s": str(WORKER_TIMEOUT_S),
            "--max-worker-losses": str(MAX_WORKER_LOSSES),
        }
        return ["coordinator", *(part for flag in flags.items() for part in flag)]

    def _read(self, exit_code: int) -> Leftover:
        try:
            record = json.loads((self._run_dir / "run.json").read_text(encoding="utf-8"))
            detail = read_detail(find_log(self._run_dir, DETAIL))
            counts, wrong = check_answers(find_log(self._run_dir, ACCURACY), self._prompts)
        except (OSError, ValueError) as error:
            raise RuntimeError(f"exit code {exit_code}, no record: {error}: {tail(self._log)}") from error
        return Leftover(
            exit_code=exit_code,
            samples=self._samples,
            kills=self._workers.kills,
            record=record,
            detail=detail,
            num_answers=int(counts.sum()),
            num_samples=int((counts > 0).sum()),
            wrong=wrong,
            log=tail(self._log),
        )


def check_answers(accuracy_log: Path, prompts: NDArray[np.int32]) -> tuple[NDArray[np.int64], list[str]]:
    """Compare every answer in LoadGen's log with the one expected for its prompt.

    Returns:
        Number of answers per sample, and a line for each answer that differs.

    Raises:
        RuntimeError: The number of tokens in an entry differs from its token count.
        ValueError: The log is incomplete.
    """
    expected = [counting_answer(prompt) for prompt in prompts]
    counts = np.zeros(len(prompts), np.int64)
    wrong = []
    for sample, answer in read_answers(accuracy_log):
        counts[sample] += 1
        if not np.array_equal(answer, expected[sample]):
            wrong.append(f"sample {sample}: {answer.tolist()} instead of {expected[sample].tolist()}")
    return counts, wrong
