"""Program that answers scrapes of a coordinator's metrics, so that the run's process spends no time on them.

    python -m coordinator.recording.metrics_process SOCKET_FD READINGS_FD [CERT KEY]

The coordinator starts it and writes the readings once a second. It ends when its stdin does: then the
coordinator has ended, however it did.
"""

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from prometheus_client.metrics_core import Metric as Family

from common.metrics_endpoint import MetricsEndpoint, families
from common.metrics_port import server_context
from common.shared_readings import SharedReadings
from coordinator.recording.run_metrics import RUN_METRICS


def main(argv: list[str]) -> None:
    """Serve until stdin ends."""
    # The terminal's signals are for the coordinator, which ends this process at its own end.
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    listening = socket.socket(fileno=int(argv[0]))
    cert, key = map(Path, argv[2:]) if argv[2:] else (None, None)
    with SharedReadings(int(argv[1])) as shared:

        def collect() -> list[Family]:
            return families(RUN_METRICS, shared.read_metrics(RUN_METRICS))

        with MetricsEndpoint(listening, collect, server_context(cert, key)), contextlib.suppress(OSError):
            os.read(sys.stdin.fileno(), 1)


if __name__ == "__main__":
    main(sys.argv[1:])
