"""File system calls for the main thread, made on another thread so that every wait has a bound."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from common.idle_timer import IdleTimer
from common.signals import SIGNAL_POLL_S

_T = TypeVar("_T")


class FileThread:
    """Runs calls in order. The thread is a daemon: a call that hangs does not keep the process alive."""

    def __init__(self) -> None:
        """Start the thread."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._hung = False
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the thread after the calls that were made; does not wait."""
        self._calls.put(None)

    def call(self, work: Callable[[], _T], timeout_s: float) -> _T:
        """Run one call and wait for it; signals are handled meanwhile.

        Time during which this process is suspended does not count: the call cannot return then.

        Raises:
            TimeoutError: It did not return in time, or an earlier call has not returned in its time.
            Exception: What the call raised.

        Thread: main.
        """
        future = self._start(work)
        step_s = min(SIGNAL_POLL_S, timeout_s)
        timer = IdleTimer(step_s)
        while not wait([future], step_s).done:
            timer.tick()
            if timer.idle_s >= timeout_s:
                self._hung = True
                raise TimeoutError(f"no answer within {timeout_s:g} s")
        return future.result()

    def call_while_active(self, work: Callable[[], _T], stall_timeout_s: float) -> _T:
        """Run one call and wait for it as long as its thread uses CPU time; signals are handled meanwhile.

        A call that reads gigabytes from a slow disk may take its time; one that hangs uses no CPU time.

        Raises:
            TimeoutError: It used no CPU time for `stall_timeout_s`, or an earlier call has not returned.
            Exception: What the call raised.

        Thread: main.
        """
        future = self._start(work)
        timer, last_ns = IdleTimer(SIGNAL_POLL_S), 0
        while not wait([future], SIGNAL_POLL_S).done:
            used_ns = self._cpu_ns()
            if used_ns > last_ns:
                timer.mark_active()
            last_ns = used_ns
            timer.tick()
            if timer.idle_s >= stall_timeout_s:
                self._hung = True
                raise TimeoutError(f"no answer within {stall_timeout_s:g} s")
        return future.result()

    def _cpu_ns(self) -> int:
        assert self._thread.ident is not None
        return time.clock_gettime_ns(time.pthread_getcpuclockid(self._thread.ident))

    def _start(self, work: Callable[[], _T]) -> "Future[_T]":
        if self._hung:
            raise TimeoutError("an earlier call to this file system has not returned")
        future: Future[_T] = Future()
        self._calls.put(partial(_complete, future, work))
        return future

    def _run(self) -> None:
        for work in iter(self._calls.get, None):
            work()


def _complete(future: "Future[_T]", work: Callable[[], _T]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
        future.set_exception(error)
