"""Writes the kernels that vLLM compiles during inference to a file; runs in vLLM's processes.

vLLM's jit monitor (vllm/utils/jit_monitor.py, --jit-monitor-mode) notices compilations of Triton, CuTeDSL and
TileLang after vLLM's own warm-up and logs a warning. Here its two functions also append to the file of the
worker that started the process. Triton calls a hook before it compiles, which gives the duration.
"""

import json
import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

VARIABLE = "TOKENFLEET_COMPILE_LOG"
"""Environment variable with the path of the file."""
MAX_NAME_LEN = 100
Hook = Callable[..., Any]


class CompileEvent(NamedTuple):
    """One line of the file, as a JSON list."""

    pid: int
    name: str
    """Name of the kernel; empty when the process's monitor becomes active."""
    ms: float | None
    """Duration; None if it is not known."""


class EventFile:
    """Appends events of this process to the worker's file."""

    def __init__(self, path: str) -> None:
        """Take the path; the file exists."""
        self._path = path
        self._begun_ns: int | None = None

    def note_active(self) -> None:
        """Write that the monitor of this process is active."""
        self._append(CompileEvent(os.getpid(), "", None))

    def note_begin(self) -> None:
        """Take the time at which a compilation begins."""
        self._begun_ns = time.monotonic_ns()

    def note_compiled(self, name: str) -> None:
        """Write a compilation, which has lasted since the latest begin, if there was one."""
        begun_ns, self._begun_ns = self._begun_ns, None
        ms = None if begun_ns is None else (time.monotonic_ns() - begun_ns) / 1e6
        self._append(CompileEvent(os.getpid(), name[:MAX_NAME_LEN], ms))

    def _append(self, event: CompileEvent) -> None:
        # One write in append mode: lines of several processes do not mix.
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            # The worker has ended and removed its directory.
            return
        try:
            os.write(descriptor, f"{json.dumps(event)}\n".encode())
        finally:
            os.close(descriptor)


def install() -> None:
    """Make the jit monitor of this process write to the worker's file, if there are both."""
    if (path := os.environ.get(VARIABLE)) is None:
        return
    try:
        from vllm.utils import jit_monitor
    except ImportError:
        # An older vLLM: the worker reports that compilations are not known.
        return
    watch(jit_monitor, EventFile(path))


def watch(jit_monitor: Any, events: EventFile) -> None:
    """Replace the two functions of vLLM's module; a version without them is left alone."""
    activate: Hook | None = getattr(jit_monitor, "activate", None)
    handle: Hook | None = getattr(jit_monitor, "_handle_jit_event", None)
    if activate is None or handle is None or hasattr(activate, "__wrapped__"):
        # A rank that was forked from the engine core has them already.
        return

    @wraps(activate)
    def activate_and_note(*args: object, **kwargs: object) -> None:
        activate(*args, **kwargs)
        _time_triton(events)
        events.note_active()

    @wraps(handle)
    def note_and_handle(*args: object, **kwargs: object) -> None:
        # Before vLLM's function, which raises with --jit-monitor-mode error.
        events.note_compiled(str(kwargs.get("fn_name")))
        handle(*args, **kwargs)

    jit_monitor.activate = activate_and_note
    jit_monitor._handle_jit_event = note_and_handle


def _time_triton(events: EventFile) -> None:
    """Make Triton call `note_begin` before each compilation; without Triton do nothing."""
    try:
        from triton import knobs
    except ImportError:
        return
    earlier: Hook | None = knobs.runtime.jit_cache_hook

    def begin(*args: object, **kwargs: object) -> object:
        events.note_begin()
        # A hook that returns True makes Triton skip the compilation.
        return None if earlier is None else earlier(*args, **kwargs)

    knobs.runtime.jit_cache_hook = begin
