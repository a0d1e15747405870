"""The ranks of a follower: one node's part of an engine whose head, on another node, serves it."""

import asyncio
import logging
from contextlib import ExitStack, closing
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from worker.engine_protocol import EngineDead
from worker.engines.model.hash_task import HashTask
from worker.engines.vllm.causes import CauseLog, one_line, with_type
from worker.engines.vllm.core_process import ranks_ending_with_worker, stop_processes
from worker.engines.vllm.engine_args import EngineFlags, create_config
from worker.engines.vllm.engine_facts import node_settings
from worker.engines.vllm.head_link import HeadLink, join_head
from worker.engines.vllm.ipc_directory import IpcDirectory
from worker.engines.vllm.multi_node import use_network
from worker.machine.host_info import HostInspector

if TYPE_CHECKING:
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

logger = logging.getLogger(__name__)


class HeadlessEngine:
    """Runs vLLM's ranks of this node while the head is alive."""

    def __init__(self, flags: EngineFlags) -> None:
        """Take the flags, whose --node-rank is above 0."""
        self._flags, self._place = flags, flags.place
        self._head: HeadLink | None = None
        self._watching: asyncio.Task[str] | None = None
        self._hashing: HashTask | None = None
        self._sending: asyncio.Task[None] | None = None
        self._loading: asyncio.Future[MultiprocExecutor] | None = None
        self._ranks: list[BaseProcess] = []
        """Processes of the loaded ranks; the event loop notices their end."""
        self._exits = ExitStack()
        self._ended = asyncio.Event()
        self._end: ValueError | str = "its daemon has been stopped"
        """Why this node ends: the reason, or the error of a model that cannot be hashed."""

    async def start(self) -> None:
        """Join the head and load this node's ranks.

        Raises:
            ValueError: vLLM or the head refuses the flags.
            EngineDead: The head does not answer or is lost, or a rank failed.
        """
        causes = self._exits.enter_context(closing(CauseLog(is_local=True)))
        self._exits.enter_context(closing(IpcDirectory(is_local=True)))
        host = await HostInspector().read()
        self._head = await join_head(self._place, node_settings(self._flags.given), host)
        use_network(self._head.own_address)
        self._loading = asyncio.get_running_loop().run_in_executor(None, _build_executor, self._flags)
        self._watching = asyncio.create_task(self._head.wait_lost())
        downloaded = None if self._flags.is_downloaded else self._loading
        self._hashing = HashTask(self._flags.hash_model, downloaded)
        self._sending = asyncio.create_task(self._send_hash(self._head, self._hashing))
        self._sending.add_done_callback(self._note_hashed)
        waits: set[asyncio.Future[Any]] = {self._loading, self._watching}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not self._loading.done():
            raise EngineDead(self._watching.result())
        try:
            executor = self._loading.result()
        except ValueError as error:
            self._end = str(error)
            raise
        except EngineDead as error:
            self._end = causes.first() or str(error)
            raise EngineDead(self._end) from error
        causes.clear()
        self._ranks = [handle.proc for handle in executor.workers]
        for process in self._ranks:
            asyncio.get_running_loop().add_reader(process.sentinel, self._note_rank_end, process)

    async def wait_end(self) -> str:
        """Wait until the head or a rank of this node has ended; return the reason.

        Raises:
            ValueError: The model cannot be hashed.
        """
        assert self._watching is not None
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait({self._watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not self._ended.is_set():
            return self._watching.result()
        if isinstance(self._end, ValueError):
            raise self._end
        return self._end

    async def close(self) -> None:
        """Tell the head that this node ends, and stop its ranks, also during a load."""
        if self._hashing is not None:
            self._hashing.close()
        for task in (self._watching, self._sending):
            if task is not None:
                task.cancel()
        if self._head is not None:
            await self._head.close(str(self._end))
        for process in self._ranks:
            asyncio.get_running_loop().remove_reader(process.sentinel)
        loading, self._loading = self._loading, None
        if loading is not None:
            await stop_processes(loading, _stop_ranks)
        self._exits.close()

    def _note_rank_end(self, process: BaseProcess) -> None:
        asyncio.get_running_loop().remove_reader(process.sentinel)
        # Its exit code is known once it is joined.
        process.join(1)
        self._note(_describe_end(process))

    def _note_hashed(self, sending: "asyncio.Task[None]") -> None:
        error = None if sending.cancelled() else sending.exception()
        if error is not None:
            self._note(error if isinstance(error, ValueError) else with_type(error))

    def _note(self, end: ValueError | str) -> None:
        """Keep the first reason for which this node ends."""
        if not self._ended.is_set():
            self._end = end
            self._ended.set()

    async def _send_hash(self, head: HeadLink, hashing: HashTask) -> None:
        head.send_model_hash((await hashing.result()).model_hash)


def _build_executor(flags: EngineFlags) -> "MultiprocExecutor":
    """Start the ranks of this node; blocks until they are loaded.

    Raises:
        ValueError: vLLM refuses the configuration.
        EngineDead: A rank failed.
    """
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    config = create_config(flags, headless=True)
    try:
        with ranks_ending_with_worker():
            return MultiprocExecutor(config, monitor_workers=False)
    except Exception as error:
        # vLLM raises a plain Exception for a rank that has failed.
        raise EngineDead(one_line(error)) from error


def _stop_ranks(executor: "MultiprocExecutor") -> None:
    """End the ranks; vLLM kills those that have not stopped within its own limits."""
    executor.shutdown()  # type: ignore[no-untyped-call]


def _describe_end(process: BaseProcess) -> str:
    """Say how a rank has ended."""
    code = process.exitcode
    how = f"ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    return f"{process.name} (process {process.pid}) {how}"
