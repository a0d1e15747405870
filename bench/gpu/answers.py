"""Answers of a side's process in bench.gpu, and the reader of its output lines."""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.gpu.load import Plan
from bench.processes import tail
from sut.results.comparison.request_rates import rate_before_tail
from sut.results.timing.spread import percentile
from sut.settings import Scenario

END_TIMEOUT_S = 3.0
CHECK_INTERVAL_S = 0.2
FRACTIONS = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Answered(NamedTuple):
    """Result of one round of a side."""

    begin_s: float
    """Start of the round, system clock."""
    end_s: float
    requests: int
    tokens: int
    client_cpu_s: float
    """CPU time of the process that sends the requests; 0 if it is the engine's front end."""
    verdict: str
    """Verdict of LoadGen and the product; empty for sides without LoadGen."""
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]
    tokens_per_s_before_tail: float | None
    """Until the last request got its first token, as in `tokenfleet report compare`; None: not known."""
    compiled_kernels: int | None
    """Kernels that the engine compiled in the round, of those that vLLM's monitor sees; None: not known."""
    request_ttft_ms: list[float]
    """Of each request in the order of arrival, from its scheduled time; empty in Offline, or if not known."""


def _no_check() -> None:
    """Wait for the answer alone."""


class Pipe:
    """JSON lines over the standard input and output of a process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        assert process.stdout is not None
        self._process, self._log = process, log
        self._fd = process.stdout.fileno()
        os.set_blocking(self._fd, False)
        self._rest = b""

    def ask(self, line: str, timeout_s: float, check: Callable[[], None] = _no_check) -> dict[str, Any]:
        """Write a line and wait for the answer.

        Args:
            line: The request.
            timeout_s: How long to wait.
            check: Called while waiting; raises RuntimeError to end the wait.

        Raises:
            RuntimeError: No answer comes in time, or the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise RuntimeError(self._how_ended()) from error
        deadline_s = time.monotonic() + timeout_s
        while (answer := self.take(CHECK_INTERVAL_S)) is None and time.monotonic() < deadline_s:
            check()
        if answer is None:
            raise RuntimeError(f"{self._log.name}: no answer within {timeout_s:g} s: {tail(self._log)}")
        return answer

    def take(self, timeout_s: float = 0.0) -> dict[str, Any] | None:
        """Return the next line, or None if none comes in time.

        Raises:
            RuntimeError: The process has ended.
        """
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left_s = max(deadline_s - time.monotonic(), 0.0)
            if not select.select([self._fd], [], [], left_s)[0]:
                return None
            data = os.read(self._fd, 1 << 20)
            if not data:
                raise RuntimeError(self._how_ended())
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _how_ended(self) -> str:
        """Describe the end of a process that has closed its output."""
        try:
            how = f"the process has ended with exit code {self._process.wait(END_TIMEOUT_S)}"
        except subprocess.TimeoutExpired:
            how = "the process has closed its output"
        return f"{self._log.name}: {how}: {tail(self._log)}"


def answered(answer: dict[str, Any], plan: Plan, client_cpu_s: float) -> Answered:
    """Convert the answer of a process that runs the plan into an Answered."""
    rows = np.array(answer["rows"], np.int64).reshape(-1, 4)
    due, first, done, tokens = rows.T
    spreads: list[dict[str, float]] = [{}, {}]
    request_ttft_ms: list[float] = []
    if plan.scenario is not Scenario.OFFLINE:
        several = tokens > 1
        tpot_ns = (done - first)[several] // (tokens[several] - 1)
        spreads = [
            {name: percentile(values, fraction) / 1e6 for name, fraction in FRACTIONS.items()}
            for values in (first - due, tpot_ns)
        ]
        request_ttft_ms = ((first - due) / 1e6).tolist()
    has_tail = plan.scenario is Scenario.OFFLINE and answer.get("is_timed", True)
    ttft_ms, tpot_ms = spreads
    return Answered(
        begin_s=answer["begin_s"],
        end_s=answer["end_s"],
        requests=len(rows),
        tokens=int(tokens.sum()),
        client_cpu_s=client_cpu_s,
        verdict="",
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        tokens_per_s_before_tail=rate_before_tail(tokens, first, done) if has_tail else None,
        compiled_kernels=answer.get("compiled_kernels"),
        request_ttft_ms=request_ttft_ms,
    )
