"""File system calls for the main thread, made on another thread so that every wait has a bound."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from common.signals import SIGNAL_POLL_S

_T = TypeVar("_T")


class FileThread:
    """Runs calls in order. The thread is a daemon: a call that hangs does not keep the process alive."""

    def __init__(self) -> None:
        """Start the thread."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._hung = False
        threading.Thread(target=self._run, name="files", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the thread after the calls that were made; does not wait."""
        self._calls.put(None)

    def call(self, work: Callable[[], _T], timeout_s: float) -> _T:
        """Run one call and wait for it; signals are handled meanwhile.

        Raises:
            TimeoutError: It did not return in time, or an earlier call has not returned in its time.
            Exception: What the call raised.

        Thread: main.
        """
        if self._hung:
            raise TimeoutError("an earlier call to this file system has not returned")
        future: Future[_T] = Future()
        self._calls.put(partial(_complete, future, work))
        deadline_s = time.monotonic() + timeout_s
        while not wait([future], min(SIGNAL_POLL_S, timeout_s)).done:
            if time.monotonic() >= deadline_s:
                self._hung = True
                raise TimeoutError(f"no answer within {timeout_s:g} s")
        return future.result()

    def _run(self) -> None:
        for work in iter(self._calls.get, None):
            work()


def _complete(future: "Future[_T]", work: Callable[[], _T]) -> None:
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
        future.set_exception(error)
