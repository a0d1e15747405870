"""Passes a run's metrics once a second to the process that answers scrapes."""

import contextlib
import logging
import os
import ssl
import subprocess
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from common.child_process import child_command, child_environment
from common.metrics import Readings, Series, to_message
from common.metrics_port import bind_metrics_port
from common.shared_readings import SharedReadings
from common.tls import SecurityFiles, read_credentials
from coordinator.config import RunConfig
from coordinator.recording.run_metrics import PHASE
from coordinator.recording.run_snapshot import RunPhase

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
END_TIMEOUT_S = 2.0
_MODULE = "coordinator.recording.metrics_process"


class _Serving(NamedTuple):
    """The process that answers scrapes."""

    process: "subprocess.Popen[bytes]"
    shared: SharedReadings


class MetricsFeed:
    """The metrics of one run; without --metrics-port every method does nothing. A context manager.

    Thread: main.
    """

    def __init__(self, config: RunConfig) -> None:
        """Bind the port and start the process.

        Raises:
            FlagError: The port cannot be bound, or a file of its TLS flags cannot be used.
        """
        self._serving = None if config.metrics_port is None else _start(config, config.metrics_port)
        self._phase = RunPhase.WAITING
        self._readings: Readings = {}
        self._due_s = 0.0
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        serving, self._serving = self._serving, None
        if serving is None:
            return
        with serving.shared:
            serving.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                serving.process.communicate(timeout=END_TIMEOUT_S)

    def enter(self, phase: RunPhase) -> None:
        """Name what the coordinator does from now on."""
        self._phase = phase
        self._write()

    def tick(self, read: Callable[[], Readings], *, last: bool = False) -> None:
        """Take new readings if they are due, or the last ones."""
        if self._serving is None or (time.monotonic() < self._due_s and not last):
            return
        self._due_s = time.monotonic() + INTERVAL_S
        self._readings = read()
        self._write()

    def _write(self) -> None:
        if self._serving is None:
            return
        if (code := self._serving.process.poll()) is not None:
            logger.warning("the metrics process ended with %d; the run continues without metrics", code)
            self.__exit__(None, None, None)
            return
        phases = [Series((phase,), float(phase is self._phase)) for phase in RunPhase]
        # Without memory for it, the readings are those of a second ago.
        with contextlib.suppress(OSError):
            self._serving.shared.write(to_message({**self._readings, PHASE.name: phases}))


def _start(config: RunConfig, port: int) -> _Serving:
    tls = _tls_argv(config)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bind_metrics_port(config.metrics_host, port))
        shared = stack.enter_context(SharedReadings.create())
        fds = (listening.fileno(), shared.fileno())
        process = subprocess.Popen(
            child_command(_MODULE, [*map(str, fds), *tls]),
            # It ends with this process, because nobody else holds the other end of the pipe.
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=child_environment(os.environ),
            pass_fds=fds,
            start_new_session=True,
        )
        stack.pop_all()
        listening.close()
    logger.info("metrics at port %d of %s, from process %d", port, config.metrics_host, process.pid)
    return _Serving(process, shared)


def _tls_argv(config: RunConfig) -> list[str]:
    """Check the certificate of the metrics port, and return the arguments that name it.

    Raises:
        FlagError: Names flag, file and error.
    """
    files = SecurityFiles(None, config.metrics_tls_cert, config.metrics_tls_key, flag_prefix="--metrics-")
    read_credentials(files, ssl.Purpose.SERVER_AUTH)
    return [str(path) for path in (config.metrics_tls_cert, config.metrics_tls_key) if path is not None]
