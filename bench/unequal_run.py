"""Two real vLLM workers, one of them held to a share of its core, and LoadGen's Offline over both."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.bounds import flag
from bench.cpu_limit import LimitKind, Quota, stop_in_turns
from bench.processes import SERVING_WORDS, Processes, argv_of, free_port, tail, wait_says
from bench.rounds import read_run
from bench.unequal_figures import HELD, Round, part_of
from bench.workload import compose_user_conf, read_answers
from sut.settings import Scenario
from sut.synthetic import DatasetSpec, write_checkpoint, write_dataset

START_TIMEOUT_S = 240.0
ROUND_TIMEOUT_S = 600.0
LONGEST_PROMPT = 64
PROMPTS: dict[str, Any] = {
    "seed": 1,
    "vocab_size": 3_990,  # no stop id of the tiny gpt-oss
    "mean_prompt_len": 24,
    "max_prompt_len": LONGEST_PROMPT,
    # The first token of a prompt; it asks a real model for nothing.
    "mean_answer_len": 100,
    "max_answer_len": 200,
}
"""Fields of a DatasetSpec."""
SPARE_SAMPLES = 16
"""Drawn beyond those that are used: LoadGen counts an answer of one token as an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a round is."""

    share: float = 0.5
    """What the held worker has of its core."""
    limit: LimitKind = LimitKind.QUOTA
    """What holds it."""
    samples: int = 512
    """Distinct prompts."""
    requests: int = 1536
    """Of LoadGen's one Offline query."""
    slots: int = 32
    """--max-num-seqs of each worker."""
    longest_answer: int = 256
    """Tokens."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        if not 0.05 <= self.share <= 1:
            raise ValueError(f"--share: {self.share} is not in 0.05..1")
        for name, lowest in {"samples": 1, "requests": 2, "slots": 1, "longest_answer": 2}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{flag(name)}: {getattr(self, name)} is below {lowest}")
        if self.requests < self.samples:
            raise ValueError(f"--requests: {self.requests} is below --samples {self.samples}")

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest prompt and answer."""
        return LONGEST_PROMPT + self.longest_answer


class Worker(NamedTuple):
    """A worker's process."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path


class Unequal:
    """The processes and files of the benchmark."""

    def __init__(self, plan: Plan, processes: Processes, directory: Path, quota: Quota | None) -> None:
        """Prepare; nothing runs yet.

        Args:
            plan: What a round is.
            processes: Owns what is started.
            directory: Gets all files.
            quota: For LimitKind.QUOTA.
        """
        self._plan = plan
        self._processes = processes
        self._directory = directory
        self._quota = quota
        self._model = directory / "model"
        self._data = directory / "data.parquet"
        self._expected: list[NDArray[np.int32]] = []
        self._workers: list[Worker] = []

    def start(self) -> None:
        """Ask LLM.generate for all answers, start both workers, each on its core, then hold one.

        Raises:
            RuntimeError: One does not come up, or there are not two cores.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise RuntimeError("one core for each of two workers: this machine lends one")
        write_checkpoint(self._model)
        self._ask_generate()
        for index in range(2):
            self._workers.append(self._start_worker(index, cores[index]))
        for worker in self._workers:
            failure = f"worker {worker.address} does not serve"
            wait_says(worker.process, worker.log, SERVING_WORDS, START_TIMEOUT_S, failure)
        self._hold()

    def run_round(self, number: int) -> Round:
        """Run the coordinator once.

        Raises:
            RuntimeError: It failed, or an answer is not LLM.generate's.
        """
        output_dir = self._directory / f"round{number}"
        log = self._directory / f"round{number}.log"
        ended = self._processes.run(self._command(output_dir), log, ROUND_TIMEOUT_S)
        run_dir = output_dir / Scenario.OFFLINE / "performance"
        record, detail = read_run("the coordinator", ended, log, run_dir)
        if detail.errors:
            raise RuntimeError(f"LoadGen counts {len(detail.errors)} errors")
        if record["summary"]["losses"]:
            raise RuntimeError(f"a worker was lost: {record['summary']['losses'][0]['reason']}")
        num_answers = self._compare(run_dir / "mlperf_log_accuracy.json")
        workers = record["summary"]["workers"]
        info = workers[0]["info"]
        return Round(
            parts=[part_of(worker) for worker in workers],
            answers=num_answers,
            outcome=record["verdict"]["outcome"],
            engine=f"{info['engine']} {info['engine_version']}",
        )

    def _ask_generate(self) -> None:
        """Let LLM.generate answer drawn prompts, and write the data set: those that are used.

        Raises:
            RuntimeError: It failed.
        """
        plan = self._plan
        drawn, answers = self._directory / "drawn.parquet", self._directory / "answers.json"
        write_dataset(drawn, DatasetSpec(num_samples=plan.samples + SPARE_SAMPLES, **PROMPTS))
        flags = {
            "--model": str(self._model),
            "--input-file": str(drawn),
            "--max-model-len": str(plan.max_model_len),
            "--max-new-tokens": str(plan.longest_answer),
            "--output": str(answers),
        }
        log = self._directory / "greedy.log"
        if self._processes.run(["bench.greedy", *argv_of(flags)], log, START_TIMEOUT_S).exit_code:
            raise RuntimeError(f"LLM.generate failed: {tail(log)}")
        answered = json.loads(answers.read_text(encoding="utf-8"))
        used = [row for row, answer in enumerate(answered) if len(answer) > 1][: plan.samples]
        if len(used) < plan.samples:
            raise RuntimeError(f"{len(used)} of {len(answered)} answers have two tokens: too few")
        self._expected = [np.array(answered[row], np.int32) for row in used]
        pd.read_parquet(drawn).iloc[used].to_parquet(self._data)

    def _start_worker(self, index: int, core: int) -> Worker:
        plan = self._plan
        flags = {
            "--port": str(free_port()),
            "--model": str(self._model),
            "--dtype": "float32",
            "--max-model-len": str(plan.max_model_len),
            "--max-num-seqs": str(plan.slots),
        }
        log = self._directory / f"worker{index}.log"
        process = self._processes.start(["worker", *argv_of(flags), "--enforce-eager"], log)
        # Both before its engine core and its threads are there, which then have the same.
        os.sched_setaffinity(process.pid, {core})
        if index == HELD and self._quota is not None:
            self._quota.add(process.pid)
        return Worker(process, f"127.0.0.1:{flags['--port']}", log)

    def _hold(self) -> None:
        held = self._workers[HELD]
        if self._quota is not None:
            self._quota.limit(self._plan.share)
        else:
            log = self._directory / "signals.log"
            stop_in_turns(self._processes, held.process.pid, self._plan.share, log)

    def _command(self, output_dir: Path) -> list[str]:
        greedy, user_conf = self._directory / "generation_config.json", self._directory / "user.conf"
        greedy.write_text('{"temperature": 0.0}\n', encoding="utf-8")
        conf = {
            "min_query_count": self._plan.requests,
            "min_duration": 1,
            "target_qps": 1,
            "performance_sample_count_override": self._plan.samples,
            "accuracy_log_sampling_target": 1_000_000_000,
        }
        user_conf.write_text(compose_user_conf([Scenario.OFFLINE], conf), encoding="utf-8")
        flags = {
            "--scenario": str(Scenario.OFFLINE),
            "--input-file": str(self._data),
            "--user-conf": str(user_conf),
            "--generation-config": str(greedy),
            "--workers": ",".join(worker.address for worker in self._workers),
            "--output-dir": str(output_dir),
            "--max-new-tokens": str(self._plan.longest_answer),
        }
        return ["coordinator", *argv_of(flags)]

    def _compare(self, accuracy_log: Path) -> int:
        """Compare every answer that LoadGen logged with LLM.generate's; returns how many.

        Raises:
            RuntimeError: One differs, or not each request has one.
        """
        num = 0
        for sample, answer in read_answers(accuracy_log):
            num += 1
            if not np.array_equal(self._expected[sample], answer):
                raise RuntimeError(f"{accuracy_log}: sample {sample} has not LLM.generate's answer")
        if num != self._plan.requests:
            raise RuntimeError(f"{accuracy_log}: {num} answers of {self._plan.requests} requests")
        return num
