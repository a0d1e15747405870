"""HTTP server that answers Prometheus scrapes at /metrics, on threads of its own.

Only processes that serve metrics import this module, because prometheus_client takes a tenth of a second.
"""

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from common.metrics import Metric, MetricKind, Readings, Series

logger = logging.getLogger(__name__)

PATH = "/metrics"
MAX_SCRAPES = 4
"""Connections served at the same time; others wait in the kernel's queue."""
SCRAPE_TIMEOUT_S = 5.0
"""Longest time for handshake, request and answer together: a client that sends a byte now and then would keep
its place for good."""
RETRY_S = 1.0


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
        self._listening = listening
        self._collect = collect
        self._tls = tls
        self._free = threading.BoundedSemaphore(MAX_SCRAPES)
        self._ended = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="metrics", daemon=True).start()
        host, port = self._listening.getsockname()[:2]
        logger.info("metrics at port %s of %s", port, host)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; does not wait for a scrape that is being answered."""
        self._ended = True
        # Wakes the thread that accepts.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        """Thread: metrics. Starts a thread for each connection, MAX_SCRAPES at a time."""
        while True:
            self._free.acquire()
            try:
                self._accept_one()
            except (OSError, RuntimeError) as error:
                self._free.release()
                if self._ended:
                    return
                # As without a free descriptor, or if no thread can be started.
                logger.warning("metrics: %s", error)
                time.sleep(RETRY_S)

    def _accept_one(self) -> None:
        connection, _ = self._listening.accept()
        try:
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except RuntimeError:
            connection.close()
            raise

    def _serve(self, connection: socket.socket) -> None:
        """Answer one request; runs on the connection's thread."""
        try:
            with connection, _ended_in_time(connection):
                if self._tls is None:
                    _Scrape(connection, self._collect)
                else:
                    with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                        _Scrape(encrypted, self._collect)
        except (OSError, ValueError, RuntimeError) as error:
            # Most often a client that has gone away, or one without a certificate; or there is no thread.
            logger.debug("scrape: %r", error)
        finally:
            self._free.release()


@contextlib.contextmanager
def _ended_in_time(connection: socket.socket) -> Iterator[None]:
    """Shut a connection down SCRAPE_TIMEOUT_S after the begin of the block, if the block has not ended."""
    ended = threading.Event()
    # TLS takes the descriptor out of `connection`.
    with connection.dup() as same:
        threading.Thread(target=_shut_down_late, args=(same, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def _shut_down_late(connection: socket.socket, ended: threading.Event) -> None:
    """Wake the thread that reads or writes, unless it ends in time; runs on a thread of its own."""
    if not ended.wait(SCRAPE_TIMEOUT_S):
        # The client, or the other thread, may have ended.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _Scrape(BaseHTTPRequestHandler):
    """One request, answered by the constructor; the connection is closed after it."""

    server_version = "tokenfleet"
    sys_version = ""

    def __init__(self, connection: socket.socket, collect: Callable[[], Iterable[Family]]) -> None:
        self._collect = collect
        super().__init__(connection, "", None)  # type: ignore[arg-type]  # neither address nor server is used

    def do_GET(self) -> None:
        """Answer with the metrics, in the format that the client prefers."""
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"only {PATH} is served")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        text = encode(_Now(self._collect))
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Log nothing: there is a scrape every few seconds."""


class _Now(Collector):
    """Gives prometheus_client the metrics of one scrape."""

    def __init__(self, collect: Callable[[], Iterable[Family]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Family]:
        return self._collect()


def families(metrics: Iterable[Metric], readings: Readings) -> list[Family]:
    """Convert readings for prometheus_client; a metric without readings is left out."""
    return [_family(metric, readings[metric.name]) for metric in metrics if readings.get(metric.name)]


def _family(metric: Metric, readings: Sequence[Series]) -> Family:
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
