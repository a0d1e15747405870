"""The processes of one SGLang engine: a launcher, which runs SGLang's Engine, and the processes it starts.

SGLang sets signal handlers, the start method of multiprocessing and the event loop's policy of the process
that starts it, and kills that process when one of its own fails. The launcher is a process for that purpose:
it reports to the worker that the model is loaded, or why SGLang has ended. The kernel ends it when the worker
dies, and SGLang's processes when the launcher dies.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, NoReturn

from worker.engine_protocol import EngineDead
from worker.engines.model.model_hash import DUMMY
from worker.engines.sglang.dummy_loader import ReadyPipe
from worker.machine.parent_death import end_with_parent

if TYPE_CHECKING:
    from sglang.srt.server_args import PortArgs, ServerArgs

CLOSE_TIMEOUT_S = 15.0
# A killed process that does not end is in the kernel.
KILL_TIMEOUT_S = 5.0
Info = dict[str, Any]
"""What SGLang's scheduler reports when the model is loaded."""


class SglangFailed(Exception):
    """SGLang has ended or cannot start; the message gives the cause."""


class SglangProcesses:
    """The launcher, as the worker sees it."""

    def __init__(self, server_args: "ServerArgs", port_args: "PortArgs") -> None:
        """Start the launcher, in a thread that lives as long as the worker: see end_with_parent.

        Args:
            server_args: SGLang's flags.
            port_args: Addresses of SGLang's sockets.
        """
        # A fork would not copy gRPC's threads, and their locks would stay held.
        context = multiprocessing.get_context("spawn")
        self._pipe, launchers_end = context.Pipe()
        self._process = context.Process(target=launch, args=(server_args, port_args, launchers_end))
        self._process.start()
        launchers_end.close()
        loop = self._loop = asyncio.get_running_loop()
        self._info: asyncio.Future[Info] = loop.create_future()
        self._reason: asyncio.Future[str] = loop.create_future()
        loop.add_reader(self._pipe.fileno(), self._receive)

    async def load(self) -> Info:
        """Wait until the model is loaded.

        Raises:
            EngineDead: SGLang has ended.
        """
        await _first(self._info, self._reason)
        if not self._info.done():
            raise EngineDead(self._reason.result())
        return self._info.result()

    async def end(self) -> str:
        """Wait until SGLang has ended; returns why."""
        return await asyncio.shield(self._reason)

    async def close(self) -> None:
        """Stop all processes; returns when they have ended, or cannot be ended."""
        self._loop.remove_reader(self._pipe.fileno())
        self._process.terminate()
        await asyncio.to_thread(self._process.join, CLOSE_TIMEOUT_S)
        if self._process.is_alive():
            # The kernel then kills SGLang's processes.
            self._process.kill()
            await asyncio.to_thread(self._process.join, KILL_TIMEOUT_S)
        # The process still runs.
        with contextlib.suppress(ValueError):
            self._process.close()
        self._pipe.close()

    def _receive(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._loop.remove_reader(self._pipe.fileno())
            self._process.join(CLOSE_TIMEOUT_S)
            message = f"SGLang's launcher has ended: {exit_text(self._process.exitcode)}"
        if not isinstance(message, str):
            self._info.set_result(message)
        elif not self._reason.done():
            self._reason.set_result(message)


def launch(server_args: "ServerArgs", port_args: "PortArgs", pipe: Connection) -> None:
    """Run SGLang until one of its processes ends, or until SIGTERM; main of the launcher.

    Args:
        server_args: SGLang's flags.
        port_args: Addresses of SGLang's sockets.
        pipe: Receives what the scheduler reports when it is loaded, and why SGLang has ended.
    """
    signal.signal(signal.SIGTERM, _stop)
    _follow_parent(signal.SIGTERM)
    # A terminal sends SIGINT, SIGQUIT and SIGHUP to the worker's process group. The worker drains and then
    # stops its engine; SGLang's processes would stop at once.
    os.setpgid(0, 0)
    # The worker's standard output is for its user.
    os.dup2(2, 1)
    try:
        _run(server_args, port_args, pipe)
    except SglangFailed as error:
        for signum in (signal.SIGQUIT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            # The worker may have ended.
            pipe.send(str(error))
    finally:
        _kill_children()


def _run(server_args: "ServerArgs", port_args: "PortArgs", pipe: Connection) -> NoReturn:
    """Start SGLang, pass on what its scheduler reports, and wait.

    Raises:
        SglangFailed: Always; one of SGLang's processes has ended, or this one is to end.
    """
    from sglang.srt.entrypoints.engine import Engine

    try:
        _, _, _, started, watchdog = Engine._launch_subprocesses(
            server_args=server_args,
            port_args=port_args,
            init_tokenizer_manager_func=_no_tokenizer_manager,
            run_scheduler_process_func=run_scheduler,
            run_detokenizer_process_func=run_detokenizer,
        )
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise SglangFailed(f"SGLang: {error}") from error
    # Its thread would kill this process too.
    watchdog.stop()
    pipe.send(started.scheduler_infos[0])
    children = multiprocessing.active_children()
    (sentinel, *_) = wait([child.sentinel for child in children])
    child = next(child for child in children if child.sentinel == sentinel)
    child.join()
    # The detokenizer is the last process that SGLang starts.
    kind = "detokenizer" if child.pid == started.all_child_pids[-1] else "scheduler"
    raise SglangFailed(f"SGLang's {kind} process has ended: {exit_text(child.exitcode)}")


def _kill_children() -> None:
    from sglang.srt.utils import kill_process_tree

    children = multiprocessing.active_children()
    kill_process_tree(os.getpid(), include_parent=False)
    for child in children:
        child.join(CLOSE_TIMEOUT_S)


def run_scheduler(server_args: "ServerArgs", *ports_and_ranks: object) -> None:
    """Run SGLang's scheduler; the kernel kills this process when the launcher dies.

    SGLang makes sure of that itself, but only after the import of its modules.

    Args:
        server_args: SGLang's flags.
        ports_and_ranks: Addresses of sockets, ranks, and last the pipe that tells that the model is loaded.
    """
    _follow_parent(signal.SIGKILL)
    from sglang.srt.entrypoints.engine import Engine

    *others, pipe = ports_and_ranks
    if server_args.load_format == DUMMY:
        assert isinstance(pipe, Connection)
        pipe = ReadyPipe(pipe)
    Engine.run_scheduler_process_func(server_args, *others, pipe)


def run_detokenizer(*args: object, **kwargs: object) -> None:
    """Run SGLang's detokenizer, as `run_scheduler` does; it has no work, but SGLang starts it always."""
    _follow_parent(signal.SIGKILL)
    from sglang.srt.entrypoints.engine import Engine

    Engine.run_detokenizer_process_func(*args, **kwargs)


def _follow_parent(signum: int) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    if not end_with_parent(parent.pid, signum):
        os._exit(1)


class _NoTokenizerManager:
    """Stands for SGLang's TokenizerManager, whose sockets the worker binds; SGLang sets its attributes."""


def _no_tokenizer_manager(*_: object) -> tuple[_NoTokenizerManager, None]:
    return _NoTokenizerManager(), None


def _stop(*_: object) -> None:
    raise SglangFailed("stopped by SIGTERM")


def report_failure(*_: object) -> None:
    """Handle SIGQUIT, which SGLang's processes send to the process that started them when they fail.

    Raises:
        SglangFailed: Always.
    """
    raise SglangFailed("one of SGLang's processes has failed; see its log above")


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of the futures is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def exit_text(code: int | None) -> str:
    """Describe how a process has ended."""
    if code is None:
        return "still running"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
