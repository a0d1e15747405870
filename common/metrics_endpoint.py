"""HTTP server that answers Prometheus scrapes at /metrics, on threads of its own.

Only processes that serve metrics import this module, because prometheus_client takes a tenth of a second.
"""

import contextlib
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from types import TracebackType
from typing import Any, Self

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from common.metrics import Metric, MetricKind, Reading, Readings

logger = logging.getLogger(__name__)

PATH = "/metrics"
MAX_SCRAPES = 4
"""Connections served at the same time; others wait in the kernel's queue."""
READ_TIMEOUT_S = 5.0
"""Longest wait for a client's handshake and for each part of its request."""


class MetricsEndpoint:
    """Answers GET /metrics within a `with` block; closes the socket at its end."""

    def __init__(
        self,
        listening: socket.socket,
        collect: Callable[[], Iterable[Family]],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; serving begins with the `with` block.

        Args:
            listening: Socket that listens.
            collect: Returns the metrics as of now; called once per scrape, on any thread.
            tls: TLS of the connections; None: plaintext.
        """
        self._server = _Server(listening, collect, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        host, port = self._server.server_address[:2]
        logger.info("metrics at port %s of %s", port, host)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, TCPServer):
    """Serves each connection on a thread, MAX_SCRAPES at a time."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        collect: Callable[[], Iterable[Family]],
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(listening.getsockname(), _Scrape, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.collect = collect
        self._tls = tls
        self._free = threading.BoundedSemaphore(MAX_SCRAPES)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; wait while MAX_SCRAPES are served."""
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection; runs on its thread."""
        try:
            request.settimeout(READ_TIMEOUT_S)
            if self._tls is not None:
                request = self._tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError as error:
            logger.debug("%s: %s", client_address, error)
            with contextlib.suppress(OSError):
                request.close()
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - of the base class
        """Log the error of a connection: most often a client that has gone away."""
        logger.debug("%s: %r", client_address, sys.exception())


class _Scrape(BaseHTTPRequestHandler):
    """One request; the connection is closed after the answer."""

    server: _Server
    server_version = "tokenfleet"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the metrics, in the format that the client prefers."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"only {PATH} is served")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        text = encode(_Now(self.server.collect))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log nothing: a scrape every few seconds is no news."""


class _Now(Collector):
    """Gives prometheus_client the metrics of one scrape."""

    def __init__(self, collect: Callable[[], Iterable[Family]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Family]:
        return self._collect()


def families(metrics: Iterable[Metric], readings: Readings) -> list[Family]:
    """Convert readings for prometheus_client; a metric without readings is left out."""
    return [_family(metric, readings[metric.name]) for metric in metrics if readings.get(metric.name)]


def _family(metric: Metric, readings: Sequence[Reading]) -> Family:
    if metric.kind is MetricKind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in readings:
            assert isinstance(value, tuple)
            histogram.add_metric(labels, _buckets(metric, value[:-1]), value[-1])
        return histogram
    kind = CounterMetricFamily if metric.kind is MetricKind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in readings:
        assert not isinstance(value, tuple)
        family.add_metric(labels, value)
    return family


def _buckets(metric: Metric, counts: Sequence[float]) -> list[tuple[str, float]]:
    """Return upper bound and number of observations up to it, as Prometheus counts them."""
    totals, total = [], 0.0
    for count in counts:
        total += count
        totals.append(total)
    return list(zip([*(str(bound) for bound in metric.bounds), "+Inf"], totals, strict=True))
