"""Kernels compiled inside a run: what the processes of an engine write, and what the worker counts."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.engine_protocol import CompiledKernels
from worker.engines.vllm.compile_log import MAX_NAMES, CompileLog
from worker.engines.vllm.compile_monitor import VARIABLE, CompileEvent, EventFile, install, watch


@pytest.fixture
def log() -> Iterator[CompileLog]:
    """Make a log, and remove it afterwards."""
    made = CompileLog()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def monitor() -> Any:
    """Make a module like vLLM's jit monitor that keeps the names it handles."""
    handled: list[object] = []
    return SimpleNamespace(
        handled=handled,
        activate=lambda **_: None,
        _handle_jit_event=lambda **event: handled.append(event["fn_name"]),
    )


def written_by(pid: int, name: str, ms: float | None) -> None:
    """Append an event of another process."""
    with Path(os.environ[VARIABLE]).open("a") as file:
        file.write(json.dumps(CompileEvent(pid, name, ms)) + "\n")


def test_an_engine_without_an_active_monitor_tells_nothing(log: CompileLog, monitor: Any) -> None:
    """Until a monitor is active the number is not known, which is not 0."""
    watch(monitor, EventFile(os.environ[VARIABLE]))
    assert log.counts() is None
    monitor.activate(mode="warn")
    assert log.counts() == CompiledKernels()


def test_compilations_of_the_run_are_counted(log: CompileLog, monitor: Any) -> None:
    """Events since `begin_run` count, those before do not; vLLM's own function still gets each of them."""
    events = EventFile(os.environ[VARIABLE])
    watch(monitor, events)
    monitor.activate(mode="warn", verbose=False)
    monitor._handle_jit_event(backend="Triton", event="e", fn_name="warm_up")
    log.begin_run()
    events.note_begin()
    monitor._handle_jit_event(backend="Triton", event="e", fn_name="kernel")
    monitor._handle_jit_event(backend="CuTeDSL", event="e", fn_name="untimed")
    found = log.counts()
    assert found is not None
    assert (2, 1, ("kernel", "untimed")) == (found.num, found.num_untimed, found.names)
    assert ["warm_up", "kernel", "untimed"] == monitor.handled


def test_the_duration_is_that_of_the_slowest_process(log: CompileLog) -> None:
    """Ranks compile at the same time: their durations are not added up."""
    written_by(11, "", None)
    for pid, ms in ((11, 700.4), (12, 500.0), (11, 100.2), (12, 100.0)):
        written_by(pid, "kernel", ms)
    assert log.counts() == CompiledKernels(4, 0, 801, ("kernel",))


def test_names_are_bounded(log: CompileLog) -> None:
    """Only the first names are kept, all compilations are counted."""
    written_by(11, "", None)
    for k in range(MAX_NAMES + 5):
        written_by(11, f"kernel{k}", 1.0)
    found = log.counts()
    assert found is not None
    assert (MAX_NAMES + 5, MAX_NAMES) == (found.num, len(found.names))


def test_a_monitor_in_error_mode_is_still_recorded(log: CompileLog, monitor: Any) -> None:
    """With --jit-monitor-mode error vLLM raises; the event is in the log."""

    def refuse(**event: object) -> None:
        raise RuntimeError(event["fn_name"])

    monitor._handle_jit_event = refuse
    watch(monitor, EventFile(os.environ[VARIABLE]))
    monitor.activate(mode="error")
    with pytest.raises(RuntimeError, match="kernel"):
        monitor._handle_jit_event(backend="Triton", event="e", fn_name="kernel")
    found = log.counts()
    assert found is not None
    assert found.num == 1


def test_a_version_without_the_monitor_is_left_alone(log: CompileLog) -> None:
    """A vLLM whose module lacks a function, or a removed file, changes nothing."""
    older = SimpleNamespace(activate=print)
    watch(older, EventFile(os.environ[VARIABLE]))
    assert older.activate is print
    EventFile("/nowhere/compiled").note_active()
    assert log.counts() is None


def test_a_watched_monitor_is_watched_once(log: CompileLog, monitor: Any) -> None:
    """A rank forked from the engine core does not count each event twice."""
    for _ in range(2):
        watch(monitor, EventFile(os.environ[VARIABLE]))
    monitor.activate(mode="warn")
    monitor._handle_jit_event(backend="Triton", event="e", fn_name="kernel")
    found = log.counts()
    assert found is not None
    assert found.num == 1


def test_the_variable_is_removed() -> None:
    """A closed log leaves neither the variable nor the file; without the variable nothing is installed."""
    made = CompileLog()
    path = Path(os.environ[VARIABLE])
    made.close()
    assert (False, False) == (VARIABLE in os.environ, path.exists())
    install()


@pytest.mark.vllm
@pytest.mark.long  # imports vLLM
@pytest.mark.filterwarnings("ignore")  # vLLM's imports warn
def test_vllms_own_monitor_is_watched(log: CompileLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed vLLM's monitor reports a Triton compilation, timed by Triton's own hook."""
    from triton import knobs
    from vllm.utils import jit_monitor

    for name in ("activate", "_handle_jit_event", "_active", "_mode", "_verbose"):
        monkeypatch.setattr(jit_monitor, name, getattr(jit_monitor, name))
    for name in ("jit_cache_hook", "jit_post_compile_hook"):
        monkeypatch.setattr(knobs.runtime, name, getattr(knobs.runtime, name))
    install()
    jit_monitor.activate(mode="warn", verbose=True)
    assert knobs.runtime.jit_cache_hook(key="k") is None
    jit_monitor._log_triton_jit_compile("kernel", {})
    assert log.counts() == CompiledKernels(1, 0, 0, ("kernel",))
