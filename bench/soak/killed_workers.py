"""Workers that are killed at random and come back on their ports."""

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
"""Started together: a start costs about a second of CPU."""
MIN_SERVING_S = 3.0
"""A worker lives this long before it is killed: the coordinator looks for it twice a second."""
MAX_AWAY_S = 2.0


class Kill(NamedTuple):
    """One kill -9."""

    at_s: float
    """System clock, which LoadGen's log has too."""
    at_ns: int
    """Monotonic clock, which run.json has too."""
    address: str
    pid: int


@dataclass
class _Worker:
    port: int
    step_ms: float
    log: Path
    process: subprocess.Popen[bytes] | None = None
    back_s: float = 0.0
    """When it is started again, after it was killed."""
    serving_s: float | None = None
    """Since when it is known to be serving."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


class KilledWorkers:
    """Slow counting workers; `tend`, called often, restarts the killed ones."""

    def __init__(
        self, processes: Processes, directory: Path, num: int, step_ms: tuple[float, float], seed: int
    ) -> None:
        """Choose ports and speeds; nothing runs yet.

        Args:
            processes: Owns what is started.
            directory: Gets the logs.
            num: Workers.
            step_ms: Bounds of a worker's step time.
            seed: Of speeds, victims and pauses.
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
        """host:port of each worker."""
        return [worker.address for worker in self._workers]

    @property
    def num_serving(self) -> int:
        """Workers that are alive and whose log says that they serve."""
        return sum(worker.serving_s is not None for worker in self._workers)

    def start(self) -> None:
        """Start all, a few at a time, and wait until they listen.

        Raises:
            RuntimeError: One does not.
        """
        for first in range(0, len(self._workers), NUM_AT_ONCE):
            group = self._workers[first : first + NUM_AT_ONCE]
            for worker in group:
                self._start(worker)
            for worker in group:
                assert worker.process is not None
                wait_listening(worker.process, worker.port, worker.log, START_TIMEOUT_S)

    def tend(self) -> None:
        """Start workers whose time has come, and note which serve.

        Raises:
            RuntimeError: A worker ended that was not killed here.
        """
        now_s = time.monotonic()
        for worker in self._workers:
            if worker.process is None:
                if now_s >= worker.back_s:
                    self._start(worker)
            elif worker.process.poll() is not None:
                raise RuntimeError(f"worker {worker.address} ended by itself: {tail(worker.log)}")
            elif worker.serving_s is None and SERVING_WORDS in tail(worker.log):
                worker.serving_s = now_s

    def kill_one(self) -> bool:
        """Kill one that has served for a while, drawn at random; returns whether there is one."""
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
