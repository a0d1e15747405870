"""Runs vLLM's processes so that they end with the worker and leave a terminal's signals to it.

vLLM's engine core does not notice that the worker was killed, nor do its ranks that the engine core was.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.engines.vllm import compile_monitor
from worker.machine.parent_death import end_with_parent

# vLLM's functions while ours replace them; a forked process inherits them.
_originals: dict[str, Callable[..., None]] = {}


@contextmanager
def ending_with_worker() -> Iterator[None]:
    """Make vLLM start engine cores by `run_engine_core` of this module inside a `with` block.

    The thread in the block must live as long as the worker: see end_with_parent.
    """
    from vllm.v1.engine.core import EngineCoreProc

    _replace(EngineCoreProc, "run_engine_core", run_engine_core)
    try:
        yield
    finally:
        _restore(EngineCoreProc, "run_engine_core")


def run_engine_core(*args: object, **kwargs: object) -> None:
    """Run vLLM's engine core; the kernel kills this process when the worker dies."""
    _follow_parent()
    # A terminal sends SIGINT, SIGQUIT and SIGHUP to the worker's process group. The worker drains and then
    # stops its engine; vLLM's processes would stop at once.
    os.setpgid(0, 0)
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


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    if not end_with_parent(parent.pid):
        os._exit(1)


def _replace(owner: type, name: str, function: Callable[..., None]) -> None:
    _originals[name] = getattr(owner, name)
    setattr(owner, name, staticmethod(function))


def _restore(owner: type, name: str) -> None:
    setattr(owner, name, staticmethod(_originals.pop(name)))


def _original(owner: type, name: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(owner, name)
    return _originals.get(name, function)
