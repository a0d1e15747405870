"""A replica of a node: keeps a worker process running, and stops restarting it after repeated crashes.

A process that serves and gives no sign of life any more is killed, and so restarted as one that has ended.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable

from common.command_exit import BAD_INPUT
from common.idle_timer import IdleTimer
from common.metrics import Readings, Series
from common.shared_readings import SharedReadings
from protos import worker_pb2 as pb
from worker.machine.cores import format_cores
from worker.machine.life_signs import INTERVAL_S, last_life_sign
from worker.machine.sd_notify import NotifySocket
from worker.node.placement import Share
from worker.node.replica_process import ProcessEnd, ReplicaProcess, run_process
from worker.worker_metrics import OWN, RESTARTS, STATE, WORKER_METRICS, state_readings

logger = logging.getLogger(__name__)

MAX_CRASHES = 5
"""A replica is not restarted after this many consecutive processes that served for less than MIN_UPTIME_S."""
MIN_UPTIME_S = 60.0
"""A process that served for this long does not count as a crash."""
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
HANG_TIMEOUT_S = 60.0
"""Longest time without a sign of life of a process that serves.

Coordinators give such a worker up after 10 s by default, and take it back when it answers again. A restart
loads the model again, so this is clearly longer.
"""


class Replica:
    """Supervises one replica; every method runs on the node's event loop."""

    def __init__(
        self, index: int, argv: list[str], port: int, share: Share, on_change: Callable[[], None]
    ) -> None:
        """Create the replica without starting a process.

        Args:
            index: Position on the node.
            argv: The node's command line; the replica's port and cores are appended.
            port: The replica's port.
            share: Accelerators and cores of this replica.
            on_change: Called after each change of state.
        """
        self.index = index
        self.state = pb.WORKER_STATE_STARTING
        self.reason = ""
        """How the last process ended; empty if none has ended."""
        self._argv = [*argv, "--replicas", "1", "--port", str(port)]
        if share.cores:
            self._argv += ["--cores", format_cores(share.cores)]
        self._port = port
        self._share = share
        self._on_change = on_change
        self._process: ReplicaProcess | None = None
        self._shared: SharedReadings | None = None
        self._num_starts = 0
        self._ready_since_s: float | None = None
        self._has_served = False
        self._hung = ""
        """Why the current process was killed; empty if it was not."""
        self._stopping = asyncio.Event()
        self._last_end: ProcessEnd | None = None

    @property
    def refusal(self) -> str | None:
        """Why the worker refuses its flags; None if it does not, or has served with them before."""
        if self._last_end is None or self._last_end.exit_code != BAD_INPUT or self._has_served:
            return None
        return self._last_end.status or self.reason

    def describe(self) -> pb.Replica:
        """Describe the replica for GetInfo."""
        return pb.Replica(
            port=self._port,
            state=self.state,
            reason=self.reason,
            restarts=max(self._num_starts - 1, 0),
            pid=self._process.pid if self._process is not None else 0,
            devices=self._share.devices,
            cores=format_cores(self._share.cores),
        )

    def read_metrics(self) -> Readings:
        """Read the metrics that the process has passed on, and add what only the node knows."""
        own = {} if self._shared is None else self._shared.read_metrics(WORKER_METRICS)
        restarts = Series((OWN,), float(max(self._num_starts - 1, 0)))
        return own | {STATE.name: state_readings(self.state), RESTARTS.name: [restarts]}

    async def run(self) -> None:
        """Keep a process running until `stop`, or until the replica has FAILED."""
        num_crashes = 0
        while not self._stopping.is_set():
            lasted = await self._run_once()
            if self._stopping.is_set():
                return
            num_crashes = 1 if lasted else num_crashes + 1
            if self.refusal is not None or num_crashes == MAX_CRASHES:
                self._give_up(num_crashes)
                return
            backoff_s = min(FIRST_BACKOFF_S * 2 ** (num_crashes - 1), MAX_BACKOFF_S)
            logger.warning("replica %d: %s; restarting in %g s", self.index, self.reason, backoff_s)
            self._enter(pb.WORKER_STATE_STARTING)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_s)

    def stop(self, signum: int) -> None:
        """Send a signal to the process and do not restart it."""
        self._stopping.set()
        if self._process is not None:
            self._process.send_signal(signum)

    async def _run_once(self) -> bool:
        """Start one process and wait until it ends; returns whether it served for MIN_UPTIME_S."""
        self._last_end = self._ready_since_s = None
        self._hung = ""
        async with contextlib.AsyncExitStack() as stack:
            try:
                shared = stack.enter_context(SharedReadings.create())
                process = await stack.enter_async_context(
                    run_process(self.index, self._argv, self._share.devices, self._on_notified, shared)
                )
            except (OSError, RuntimeError) as error:
                self.reason = f"cannot be started: {error}"
                return False
            self._process, self._shared = process, shared
            self._num_starts += 1
            logger.info("replica %d: process %d at port %d", self.index, process.pid, self._port)
            self._enter(pb.WORKER_STATE_LOADING)
            if self._stopping.is_set():
                # `stop` was called while the process was being started.
                self.stop(signal.SIGTERM)
            watching = asyncio.ensure_future(self._kill_if_hung(process, shared))
            try:
                self._last_end = await process.wait()
            finally:
                watching.cancel()
        self._process = self._shared = None
        self.reason = self._hung + self._last_end.describe()
        served_s = 0.0 if self._ready_since_s is None else time.monotonic() - self._ready_since_s
        return served_s >= MIN_UPTIME_S + (HANG_TIMEOUT_S if self._hung else 0.0)

    async def _kill_if_hung(self, process: ReplicaProcess, shared: SharedReadings) -> None:
        """Kill the process if it serves and gives no sign of life for HANG_TIMEOUT_S; not while it loads."""
        silence, last = IdleTimer(INTERVAL_S), 0
        while silence.idle_s <= HANG_TIMEOUT_S:
            await asyncio.sleep(INTERVAL_S)
            sign = last_life_sign(shared.fileno())
            if sign != last or self.state != pb.WORKER_STATE_READY:
                silence.mark_active()
            last = sign
            silence.tick()
        self._hung = f"no sign of life for {HANG_TIMEOUT_S:g} s, "
        # The kernel may hold a killed process.
        self.reason = self._hung + "killed"
        self._enter(pb.WORKER_STATE_STARTING)
        process.send_signal(signal.SIGKILL)

    def _on_notified(self, notify_socket: NotifySocket) -> None:
        if notify_socket.is_ready and self._ready_since_s is None:
            self._ready_since_s = time.monotonic()
            self._has_served = True
            self._enter(pb.WORKER_STATE_READY)
        if notify_socket.is_stopping and self.state != pb.WORKER_STATE_DRAINING:
            self._enter(pb.WORKER_STATE_DRAINING)

    def _give_up(self, num_crashes: int) -> None:
        if self.refusal is None:
            self.reason = f"given up after {num_crashes} processes, the last: {self.reason}"
        lines = self._last_end.last_lines if self._last_end is not None else ()
        logger.error("replica %d: %s; its last lines:", self.index, self.reason)
        sys.stderr.write("".join(f"[replica {self.index}] {line}\n" for line in lines))
        self._enter(pb.WORKER_STATE_FAILED)

    def _enter(self, state: "pb.WorkerState") -> None:
        self.state = state
        self._on_change()
