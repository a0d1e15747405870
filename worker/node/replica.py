"""One replica of a node: a worker process that is started, watched, started again, and at last given up."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable

from protos import worker_pb2 as pb
from worker.machine.cores import format_cores
from worker.machine.gpus import VARIABLE
from worker.machine.sd_notify import NODE_PID, NOTIFY_SOCKET, READY, STATUS, STOPPING, open_notices
from worker.node.placement import Share

logger = logging.getLogger(__name__)

MAX_CRASHES = 5
"""So many processes in a row that did not last, and it is given up."""
LASTING_S = 60.0
"""A process that served for so long is no part of a crash loop."""
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
# After its process has ended, for what is left in the pipe.
LOG_TIMEOUT_S = 5.0
MAX_LINE_BYTES = 1 << 16
MAX_REASON_LEN = 300
NUM_LAST_LINES = 20
BAD_INPUT = 2


class Replica:
    """Every method runs on the node's event loop."""

    def __init__(
        self, index: int, argv: list[str], port: int, share: Share, on_change: Callable[[], None]
    ) -> None:
        """Create it without a process.

        Args:
            index: Position on the node.
            argv: The node's own flags; the replica's port and cores come behind them.
            port: Its own.
            share: What it has to itself.
            on_change: Called when its state is another.
        """
        self.index = index
        self.state = pb.WORKER_STATE_STARTING
        self.reason = ""
        self.exit_code: int | None = None
        """Of its last process; below 0: the signal that ended it. None: it could not be started, or runs."""
        self._argv = [*argv, "--replicas", "1", "--port", str(port)]
        if share.cores:
            self._argv += ["--cores", format_cores(share.cores)]
        self._port = port
        self._share = share
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._num_starts = 0
        self._ready_since_s: float | None = None
        self._has_served = False
        self._stopping = asyncio.Event()
        self._told = ""
        self._last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)

    @property
    def is_refused(self) -> bool:
        """Its flags are bad: flags that have served once are not, and something else was in the way."""
        return self.exit_code == BAD_INPUT and not self._has_served

    def describe(self) -> pb.Replica:
        """Say what GetInfo says of it."""
        return pb.Replica(
            port=self._port,
            state=self.state,
            reason=self.reason,
            restarts=max(self._num_starts - 1, 0),
            pid=self._process.pid if self._process is not None else 0,
            devices=self._share.devices,
            cores=format_cores(self._share.cores),
        )

    async def run(self) -> None:
        """Keep a process up until `stop`, or until it is given up."""
        num_crashes = 0
        while not self._stopping.is_set():
            lasted = await self._live()
            if self._stopping.is_set():
                return
            num_crashes = 1 if lasted else num_crashes + 1
            if self.is_refused or num_crashes == MAX_CRASHES:
                self._give_up(num_crashes)
                return
            backoff_s = min(FIRST_BACKOFF_S * 2 ** (num_crashes - 1), MAX_BACKOFF_S)
            logger.warning("replica %d: %s; starts again in %g s", self.index, self.reason, backoff_s)
            self._enter(pb.WORKER_STATE_STARTING)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)

    def stop(self, signum: int) -> None:
        """Send a signal to its process, and start no other."""
        self._stopping.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signum)

    async def _live(self) -> bool:
        """Run one process to its end, where it begins at all; returns whether it lasted."""
        self._process = self.exit_code = self._ready_since_s = None
        self._told = ""
        self._last_lines.clear()
        with contextlib.ExitStack() as stack:
            try:
                notices, path = stack.enter_context(open_notices())
                process, log = await self._start(path)
            except (OSError, RuntimeError) as error:
                # No descriptor, memory, process or directory is to be had; RuntimeError: no thread.
                self.reason = f"cannot be started: {error}"
                return False
            loop = asyncio.get_running_loop()
            loop.add_reader(notices, self._hear, notices)
            stack.callback(loop.remove_reader, notices)
            relaying = asyncio.ensure_future(self._relay(log))
            self.exit_code = await process.wait()
            # What it started holds its accelerators, and the pipe.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait((relaying,), timeout=LOG_TIMEOUT_S)
            relaying.cancel()
            self._hear(notices)
        self._process = None
        self.reason = self._compose_reason()
        served_s = 0.0 if self._ready_since_s is None else time.monotonic() - self._ready_since_s
        return served_s >= LASTING_S

    async def _start(self, notices: str) -> tuple[asyncio.subprocess.Process, int]:
        """Start a process; its log comes out of a pipe, whose descriptor is the caller's.

        Raises:
            OSError: There is none.
            RuntimeError: No thread can be had that waits for it; it is killed.
        """
        environment = os.environ | {NOTIFY_SOCKET: notices, NODE_PID: str(os.getpid())}
        if self._share.devices:
            environment[VARIABLE] = ",".join(self._share.devices)
        # A pipe of our own: asyncio's would make its end a condition of the process's.
        log, log_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "worker", *self._argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_end,
                stderr=log_end,
                env=environment,
                start_new_session=True,
            )
        except (OSError, RuntimeError):
            os.close(log)
            raise
        finally:
            os.close(log_end)
        self._process = process
        self._num_starts += 1
        logger.info("replica %d: process %d at port %d", self.index, process.pid, self._port)
        self._enter(pb.WORKER_STATE_LOADING)
        if self._stopping.is_set():
            # It was asked for before it was there.
            self.stop(signal.SIGTERM)
        return process, log

    def _hear(self, notices: socket.socket) -> None:
        """Take what the process has told of itself."""
        with contextlib.suppress(BlockingIOError):
            while True:
                for word in notices.recv(MAX_LINE_BYTES).decode(errors="replace").splitlines():
                    self._take(word)

    def _take(self, word: str) -> None:
        if word == READY:
            self._ready_since_s = time.monotonic()
            self._has_served = True
            self._enter(pb.WORKER_STATE_READY)
        elif word == STOPPING:
            self._enter(pb.WORKER_STATE_DRAINING)
        elif word.startswith(STATUS):
            self._told = word.removeprefix(STATUS)

    async def _relay(self, log: int) -> None:
        """Pass its log on, each line with its number before it; a line without an end comes in pieces."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(log, "rb")
        )
        rest = b""
        try:
            while data := await reader.read(MAX_LINE_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                self._say(lines)
            self._say([rest] if rest else [])
        finally:
            transport.close()

    def _say(self, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace") for line in lines]
        self._last_lines.extend(text for text in texts if text.strip())
        sys.stderr.write("".join(f"[replica {self.index}] {text}\n" for text in texts))
        sys.stderr.flush()

    def _compose_reason(self) -> str:
        assert self.exit_code is not None
        code = self.exit_code
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        # The interpreter, and what is loaded into it, may have the last line, and says nothing of the cause.
        words = self._told or ("" if code < 0 or not self._last_lines else self._last_lines[-1])
        clean = "".join(c if c.isprintable() else "?" for c in words)
        return f"{how}: {clean}"[:MAX_REASON_LEN] if clean else how

    def _give_up(self, num_crashes: int) -> None:
        if not self.is_refused:
            self.reason = f"given up after {num_crashes} processes, the last: {self.reason}"
        logger.error("replica %d: %s; its last lines:", self.index, self.reason)
        sys.stderr.write("".join(f"[replica {self.index}] {line}\n" for line in self._last_lines))
        self._enter(pb.WORKER_STATE_FAILED)

    def _enter(self, state: "pb.WorkerState") -> None:
        self.state = state
        self._on_change()
