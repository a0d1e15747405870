"""Sides of bench.gpu: load, run one round after another, stop."""

import contextlib
import json
import random
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import say
from bench.gpu.answers import Answered, Pipe, answered
from bench.gpu.coordinate import Setting, coordinate
from bench.gpu.http_client import MODEL
from bench.gpu.load import Plan, last_value
from bench.processes import SERVING_WORDS, argv_of, read_cpu_s, tail
from bench.startup.__main__ import serves_http
from common.flags import FlagError
from worker.machine.nvml import process_tree
from worker.node.ports import steady_port
from worker.prefill_groups import MIN_SLOTS_PER_PROMPT

STOP_TIMEOUT_S = 60.0
POLL_S = 0.1
CORE_TITLE = "VLLM::EngineCore"[:15]
"""Linux keeps 15 characters."""
_WARMED_UP = re.compile(r"warmed up on \d+ prompts in ([\d.]+) s")
_ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    # The configuration is read from the log.
    "VLLM_LOGGING_LEVEL": "INFO",
}


class Start(NamedTuple):
    """Durations of a load, in seconds since the start of the process."""

    engine_s: float
    """Time until the engine is loaded."""
    serving_s: float
    """Time until requests are accepted; the product has warmed up by then, the other sides have not."""


class Side(ABC):
    """An engine that is loaded or loading."""

    name: str

    def __init__(self, setting: Setting, gpus: Sequence[int], label: str) -> None:
        """Start the side's process.

        Args:
            setting: Settings that all sides share.
            gpus: GPUs of the engine; empty: run on the CPU.
            label: Prefix of its file names.
        """
        self.setting = setting
        self.gpus = tuple(gpus)
        self.log = setting.directory / f"{label}.log"
        self.label = label
        self.start: Start | None = None
        self._members: set[int] = set()
        """Processes of the load: those below a process that has died are no longer found."""
        self._cores: list[int] = []
        self.effective: dict[str, str] = {}
        """Effective configuration that the engine reports, if it reports one."""
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))} if gpus else {}
        self._begun_s = time.time()
        self.process = setting.processes.start(
            self._argv(),
            self.log,
            environment={**_ENVIRONMENT, **visible},
            piped=self._piped,
        )

    _piped = False

    @abstractmethod
    def _argv(self) -> list[str]:
        """Return module and flags of the process that holds the engine."""

    @abstractmethod
    def _look(self) -> Start | None:
        """Return the durations of the load, or None while it is loading; does not block."""

    @abstractmethod
    def run(self, plan: Plan, number: int) -> Answered:
        """Run one round.

        Raises:
            RuntimeError: The round failed.
        """

    def poll(self) -> bool:
        """Return whether the side is loaded.

        Raises:
            RuntimeError: The process has ended.
        """
        if self.start is None:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.label} ended while it loaded: {tail(self.log)}")
            self.start = self._look()
            if self.start is not None:
                self._members = process_tree(self.process.pid)
                self._cores = [pid for pid in self._members if _is_core(pid)]
        return self.start is not None

    def check_runs(self) -> None:
        """Check that the side's process has not ended.

        Raises:
            RuntimeError: It has ended.
        """
        exit_code = self.process.poll()
        if exit_code is not None:
            raise RuntimeError(f"{self.label} has ended with exit code {exit_code}: {tail(self.log)}")

    def stop(self) -> None:
        """Stop all processes of the side and wait for their end, so that their memory is free.

        Raises:
            RuntimeError: A process does not end and may still hold GPU memory.
        """
        members = self._members | process_tree(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        self.setting.processes.kill(self.process)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while left := [pid for pid in members if _runs(pid)]:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.label}: processes {left} have not ended")
            time.sleep(POLL_S)

    def check_cores(self) -> None:
        """Check that the engine cores of the load still run: LLM.generate does not notice their end.

        Raises:
            RuntimeError: An engine core has ended.
        """
        if ended := [pid for pid in self._cores if not _runs(pid)]:
            raise RuntimeError(f"engine core {ended} has ended: {tail(self.log)}")

    def _since(self, at_s: float) -> float:
        return at_s - self._begun_s

    def _ask(self, pipe: Pipe, plan: Plan, number: int) -> dict[str, Any]:
        """Send the plan to a process; keep its answer, the times of each request, beside the plan.

        Raises:
            RuntimeError: No answer comes in time, or a process has ended.
        """
        path = self.setting.directory / f"{self.label}-{number}.json"
        plan.write(path)
        answer = pipe.ask(str(path), self.setting.timeout_s(plan), self.check_cores)
        try:
            path.with_suffix(".answer.json").write_text(json.dumps(answer), encoding="utf-8")
        except OSError as error:
            # The round is measured: its figures do not depend on the file.
            say(f"the answer of {self.label} is not written: {error}")
        return answer


def _runs(pid: int) -> bool:
    """Return whether a process exists and is not a zombie (a zombie holds no memory)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _is_core(pid: int) -> bool:
    """Return whether a process is an engine core, by the title that vLLM gives it."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == CORE_TITLE
    except (FileNotFoundError, ProcessLookupError):
        return False


class InProcess(Side):
    """The engine's own interface in a process without a server."""

    kind: str
    module = "bench.gpu.engine"
    _piped = True

    @property
    def _flags(self) -> Sequence[str]:
        return self.setting.flags

    def _argv(self) -> list[str]:
        work = self.setting.work
        own = argv_of({"--data": work.data, "--model": work.model, "--temperature": work.temperature})
        return [self.module, self.kind, *own, *self._flags]

    def _look(self) -> Start | None:
        self._pipe = getattr(self, "_pipe", None) or Pipe(self.process, self.log)
        ready = self._pipe.take()
        if ready is None:
            return None
        self.effective = ready["config"]
        engine_s = self._since(ready["engine_s"])
        return Start(engine_s, engine_s)

    def run(self, plan: Plan, number: int) -> Answered:
        """Send the plan to the process and return its answer."""
        return answered(self._ask(self._pipe, plan, number), plan, 0.0)


class Bare(InProcess):
    """LLM.generate with all requests."""

    name = kind = "bare"


class InProcessAsync(InProcess):
    """One task per request over AsyncLLM."""

    name = kind = "async"


class Serve(Side):
    """`vllm serve`, with an HTTP client in another process."""

    name = "serve"

    def _argv(self) -> list[str]:
        self._port = steady_port(random.Random())
        own = {"--port": self._port, "--model": self.setting.work.model, "--served-model-name": MODEL}
        return ["bench.gpu.http_server", *argv_of(own), *self.setting.flags]

    _client: subprocess.Popen[bytes] | None = None

    def _look(self) -> Start | None:
        if self._client is None:
            if serves_http(self._port):
                self._engine_s = self._since(time.time())
                self._start_client()
            return None
        ready = self._pipe.take()
        return None if ready is None else Start(self._engine_s, self._engine_s)

    def _start_client(self) -> None:
        work = self.setting.work
        flags = argv_of({"--data": work.data, "--port": self._port, "--temperature": work.temperature})
        log = self.log.with_suffix(".client.log")
        self._client = self.setting.processes.start(["bench.gpu.http_client", *flags], log, piped=True)
        self._pipe = Pipe(self._client, log)

    def run(self, plan: Plan, number: int) -> Answered:
        """Let the client send the plan."""
        assert self._client is not None
        before_s = read_cpu_s(self._client.pid)
        answer = self._ask(self._pipe, plan, number)
        return answered(answer, plan, read_cpu_s(self._client.pid) - before_s)

    def stop(self) -> None:
        """Stop the client, then the server."""
        if self._client is not None:
            self.setting.processes.kill(self._client)
        super().stop()


class Ours(Side):
    """The product: a worker, and for each round its coordinator with LoadGen."""

    name = "ours"

    def _argv(self) -> list[str]:
        self._port = steady_port(random.Random())
        own = {"--port": self._port, "--model": self.setting.work.model}
        return ["bench.gpu.unstopped_worker", *argv_of(own), *self.setting.flags]

    def _look(self) -> Start | None:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if SERVING_WORDS not in text:
            return None
        serving_s = self._since(time.time())
        warmed_up = _WARMED_UP.search(text)
        return Start(serving_s - (float(warmed_up[1]) if warmed_up else 0.0), serving_s)

    def run(self, plan: Plan, number: int) -> Answered:
        """Run the coordinator once."""
        return coordinate(self.setting, self._port, plan, f"{self.label}-{number}")


def group_tokens(flags: Sequence[str]) -> int:
    """Return the tokens that a step has beside the rows that decode: the prompts of a group.

    Raises:
        FlagError: With these sizes each prompt would be a group.
    """
    names = ("--max-num-batched-tokens", "--max-num-seqs")
    words = [last_value(flags, name) for name in names]
    for name, word in zip(names, words, strict=True):
        if not word.isdecimal():
            raise FlagError(name, f"{word!r} is not a number, which the side grouped needs")
    batched_tokens, num_seqs = map(int, words)
    if num_seqs < (least := 2 * MIN_SLOTS_PER_PROMPT):
        raise FlagError(names[1], f"{num_seqs} is below {least}: each prompt would be a group of its own")
    if batched_tokens <= num_seqs:
        raise FlagError(names[0], f"{batched_tokens} is not above {names[1]} {num_seqs}: no room for groups")
    return batched_tokens - num_seqs


class Grouped(Ours):
    """The product with prompts in groups of the tokens that a step has beside the rows that decode."""

    name = "grouped"

    def _argv(self) -> list[str]:
        return [*super()._argv(), "--prefill-group-tokens", str(group_tokens(self.setting.flags))]


class Sglang(Ours):
    """The product with SGLang as its engine."""

    name = "sglang"

    def _argv(self) -> list[str]:
        self._port = steady_port(random.Random())
        own = {"--engine": "sglang", "--port": self._port, "--model": self.setting.work.model}
        return ["bench.gpu.unstopped_worker", *argv_of(own), *self.setting.sglang_flags]


class SglangBare(InProcess):
    """SGLang's own Engine.generate with all requests."""

    name, kind = "sglang-bare", "bare"
    module = "bench.gpu.sglang_engine"

    @property
    def _flags(self) -> Sequence[str]:
        return self.setting.sglang_flags


class SglangAsync(SglangBare):
    """One task per request over SGLang's own Engine.async_generate."""

    name, kind = "sglang-async", "async"


SIDES: dict[str, type[Side]] = {
    side.name: side for side in (Bare, Ours, Grouped, InProcessAsync, Serve, Sglang, SglangBare, SglangAsync)
}
