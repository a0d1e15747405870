"""Workers that are killed at random and restarted on their ports."""

import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.processes import SERVING_WORDS, Processes, tail, wait_listening
from worker.node.ports import steady_port

START_TIMEOUT_S = 60.0
NUM_AT_ONCE = 4
"""Workers that are started together; each start costs about a second of CPU."""
MIN_SERVING_S = 3.0
"""Minimum time between SERVING and a kill; the coordinator retries a lost worker twice a second."""
MAX_AWAY_S = 2.0


class Kill(NamedTuple):
    """One kill -9."""

    at_s: float
    """Time on the system clock, as in LoadGen's log."""
    at_ns: int
    """Time on the monotonic clock, as in run.json."""
    address: str
    pid: int


@dataclass
class _Worker:
    port: int
    step_ms: float
    log: Path
    process: subprocess.Popen[bytes] | None = None
    back_s: float = 0.0
    """Time at which a killed worker is restarted."""
    serving_s: float | None = None
    """Time since which the worker is known to be SERVING."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class KilledWorkers:
    """Slow counting workers; `tend` must be called often and restarts the killed ones."""

    def __init__(
        self, processes: Processes, directory: Path, num: int, step_ms: tuple[float, float], seed: int
    ) -> None:
        """Choose ports and speeds; no process is started yet.

        Args:
            processes: Owner of the started processes.
            directory: Directory for the logs.
            num: Number of workers.
            step_ms: Lower and upper bound of a worker's step time.
            seed: Seed of speeds, killed workers and pauses.
        """
        self._random = random.Random(seed)
        self._processes = processes
        self._workers: list[_Worker] = []
        ports: set[int] = set()
        while len(ports) < num:
            ports.add(steady_port(self._random))
        for index, port in enumerate(sorted(ports)):
            speed = self._random.uniform(*step_ms)
            self._workers.append(_Worker(port, speed, directory / f"worker{index}.log"))
        self.kills: list[Kill] = []

    @property
    def addresses(self) -> list[str]:
        """Return host:port of each worker."""
        return [worker.address for worker in self._workers]

    @property
    def num_serving(self) -> int:
        """Return how many workers are alive and have logged that they are SERVING."""
        return sum(worker.serving_s is not None for worker in self._workers)

    def start(self) -> None:
        """Start all workers, a few at a time, and wait until they listen.

        Raises:
            RuntimeError: A worker does not listen in time.
        """
        for first in range(0, len(self._workers), NUM_AT_ONCE):
            group = self._workers[first : first + NUM_AT_ONCE]
            for worker in group:
                self._start(worker)
            for worker in group:
                assert worker.process is not None
                wait_listening(worker.process, worker.port, worker.log, START_TIMEOUT_S)

    def tend(self) -> None:
        """Restart workers whose pause is over, and record which are SERVING.

        Raises:
            RuntimeError: A worker ended that this object did not kill.
        """
        now_s = time.monotonic()
        for worker in self._workers:
            if worker.process is None:
                if now_s >= worker.back_s:
                    self._start(worker)
            elif worker.process.poll() is not None:
                raise RuntimeError(f"worker {worker.address} ended unexpectedly: {tail(worker.log)}")
            elif worker.serving_s is None and SERVING_WORDS in tail(worker.log):
                worker.serving_s = now_s

    def kill_one(self) -> bool:
        """Kill a random worker that has served for MIN_SERVING_S; return False if there is none."""
        now_s = time.monotonic()
        fit = [w for w in self._workers if w.serving_s is not None and now_s - w.serving_s > MIN_SERVING_S]
        if not fit:
            return False
        victim = self._random.choice(fit)
        assert victim.process is not None
        self.kills.append(Kill(time.time(), time.monotonic_ns(), victim.address, victim.process.pid))
        self._processes.kill(victim.process)
        victim.process, victim.serving_s = None, None
        victim.back_s = now_s + self._random.uniform(0.0, MAX_AWAY_S)
        return True

    def _start(self, worker: _Worker) -> None:
        flags = ["--port", str(worker.port), "--step-ms", f"{worker.step_ms:.0f}"]
        worker.process = self._processes.start(["worker", "--engine", "counting", *flags], worker.log)
