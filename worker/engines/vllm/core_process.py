"""Runs vLLM's processes so that they end with the worker and leave a terminal's signals to it.

vLLM's engine core does not notice that the worker was killed, nor do its ranks that the engine core was.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from worker.engines.vllm import compile_monitor
from worker.machine.parent_death import end_with_parent

_Engine = TypeVar("_Engine")

KILL_TIMEOUT_S = 15.0
# vLLM's functions while ours replace them; a forked process inherits them.
_originals: dict[str, Callable[..., None]] = {}


def ending_with_worker() -> AbstractContextManager[None]:
    """Make vLLM start engine cores by `run_engine_core` of this module inside a `with` block.

    The thread in the block must live as long as the worker: see end_with_parent.
    """
    from vllm.v1.engine.core import EngineCoreProc

    return _replaced(EngineCoreProc, "run_engine_core", run_engine_core)


def ranks_ending_with_worker() -> AbstractContextManager[None]:
    """Do the same for ranks that the worker itself starts: those of a follower, without an engine core."""
    from vllm.v1.executor.multiproc_executor import WorkerProc

    return _replaced(WorkerProc, "worker_main", run_headless_rank)


async def stop_processes(loading: "asyncio.Future[_Engine]", shut_down: Callable[[_Engine], None]) -> None:
    """End vLLM's processes, also during a load.

    Args:
        loading: Result of the thread that starts them.
        shut_down: Ends those of a loaded engine; blocks, in a thread, and is bounded.
    """
    await _interrupt_load(loading)
    if loading.done() and not loading.exception():
        await asyncio.to_thread(shut_down, loading.result())
    # Reaps child processes: otherwise they remain zombies.
    multiprocessing.active_children()


async def _interrupt_load(loading: "asyncio.Future[Any]") -> None:
    """Kill the processes that a loading engine has started, so that its thread returns."""
    from vllm.utils.system_utils import kill_process_tree

    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while not loading.done() and time.monotonic() < deadline_s:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            kill_process_tree(child.pid)
        await asyncio.wait({loading}, timeout=0.2)


def run_engine_core(*args: object, **kwargs: object) -> None:
    """Run vLLM's engine core; the kernel kills this process when the worker dies."""
    _follow_parent()
    _leave_process_group()
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.executor.multiproc_executor import WorkerProc

    _replace(WorkerProc, "worker_main", run_rank)
    compile_monitor.install()
    _original(EngineCoreProc, "run_engine_core")(*args, **kwargs)


def run_rank(*args: object, **kwargs: object) -> None:
    """Run one of vLLM's ranks; the kernel kills this process when the engine core dies."""
    _follow_parent()
    from vllm.v1.executor.multiproc_executor import WorkerProc

    compile_monitor.install()
    _original(WorkerProc, "worker_main")(*args, **kwargs)


def run_headless_rank(*args: object, **kwargs: object) -> None:
    """Run a rank that has no engine core; the kernel kills this process when the worker dies."""
    _leave_process_group()
    run_rank(*args, **kwargs)


def _leave_process_group() -> None:
    """Make this process not get the signals of the worker's terminal.

    A terminal sends SIGINT, SIGQUIT and SIGHUP to the worker's process group. The worker drains and then
    stops its engine; vLLM's processes would stop at once.
    """
    os.setpgid(0, 0)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    if not end_with_parent(parent.pid):
        os._exit(1)


def _replace(owner: type, name: str, function: Callable[..., None]) -> None:
    _originals[name] = getattr(owner, name)
    setattr(owner, name, staticmethod(function))


@contextmanager
def _replaced(owner: type, name: str, function: Callable[..., None]) -> Iterator[None]:
    _replace(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, staticmethod(_originals.pop(name)))


def _original(owner: type, name: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(owner, name)
    return _originals.get(name, function)
