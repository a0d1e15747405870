"""Counts the kernels that the processes of one vLLM engine compile during a run."""

import json
import os
from collections import defaultdict

from worker.engine_protocol import CompiledKernels
from worker.engines.vllm.compile_monitor import VARIABLE, CompileEvent
from worker.machine.locked_directory import LockedDirectory

MAX_NAMES = 20
_FILE = "compiled"


class CompileLog:
    """The file to which the processes of one engine write what they compile (compile_monitor.py)."""

    def __init__(self) -> None:
        """Make processes that vLLM starts from now on write to a temporary file."""
        self._directory = LockedDirectory()
        path = self._directory.path / _FILE
        self._file = os.fdopen(
            os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb", buffering=0
        )
        self._path = str(path)
        os.environ[VARIABLE] = self._path
        self._rest = b""
        self._is_active = False
        self._begin_counts()

    def begin_run(self) -> None:
        """Count from now on."""
        self._read()
        self._begin_counts()

    def counts(self) -> CompiledKernels | None:
        """Return the compilations since `begin_run`; None if no process has an active monitor."""
        self._read()
        if not self._is_active:
            return None
        ms = max(self._ms_by_pid.values(), default=0.0)
        return CompiledKernels(self._num, self._num_untimed, round(ms), tuple(self._names))

    def close(self) -> None:
        """Remove the file."""
        if os.environ.get(VARIABLE) == self._path:
            del os.environ[VARIABLE]
        self._file.close()
        self._directory.close()

    def _begin_counts(self) -> None:
        self._num = self._num_untimed = 0
        self._ms_by_pid: defaultdict[int, float] = defaultdict(float)
        self._names: dict[str, None] = {}

    def _read(self) -> None:
        """Read what was appended; a last line without its end is kept for the next call."""
        while chunk := self._file.read(1 << 16):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                self._add(CompileEvent(*json.loads(line)))

    def _add(self, event: CompileEvent) -> None:
        if not event.name:
            self._is_active = True
            return
        self._num += 1
        if event.ms is None:
            self._num_untimed += 1
        else:
            self._ms_by_pid[event.pid] += event.ms
        if len(self._names) < MAX_NAMES:
            self._names[event.name] = None
