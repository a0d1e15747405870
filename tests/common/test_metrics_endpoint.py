"""The HTTP server of metrics: what it answers, to whom, and whom it does not wait for."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import metrics_endpoint
from common.flags import FlagError
from common.metrics import Metric, MetricKind, Series
from common.metrics_endpoint import MAX_SCRAPES, MetricsEndpoint, families
from common.metrics_port import bind_metrics_port, server_context
from tests.certificates import Authority
from tests.fleet import free_port

TEXT = "# HELP apples_total Apples.\n# TYPE apples_total counter\napples_total 3.0\n"
OPEN_TEXT = "# HELP apples Apples.\n# TYPE apples counter\napples_total 3.0\n# EOF\n"
TIMEOUT_S = 60.0


@contextlib.contextmanager
def endpoint(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve one counter; yields the port."""
    metrics = [Metric("apples", MetricKind.COUNTER, "Apples.")]
    port = free_port()
    with MetricsEndpoint(
        bind_metrics_port("127.0.0.1", port),
        lambda: families(metrics, {"apples": [Series((), 3.0)]}),
        tls,
    ):
        yield port


def get(
    port: int,
    path: str = "/metrics",
    accept: str = "",
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[int, str]:
    """Ask once; returns status and text."""
    if tls is None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    else:
        client = http.client.HTTPSConnection("localhost", port, timeout=timeout_s, context=tls)
    with contextlib.closing(client):
        client.request("GET", path, headers={"Accept": accept} if accept else {})
        answer = client.getresponse()
        return answer.status, answer.read().decode()


def test_metrics_are_served_in_the_format_that_the_scraper_asks_for() -> None:
    """Text of Prometheus by default, OpenMetrics for a scraper that prefers it; no other path is served."""
    with endpoint() as port:
        assert (200, TEXT) == get(port)
        assert (200, OPEN_TEXT) == get(port, accept="application/openmetrics-text; version=1.0.0")
        assert 404 == get(port, "/")[0]
        assert 404 == get(port, "/metrics/../etc/passwd")[0]


def test_silent_connections_do_not_stop_a_scrape() -> None:
    """With all but one of the places taken by clients that send nothing, a scrape is answered."""
    with endpoint() as port, contextlib.ExitStack() as stack:
        for _ in range(MAX_SCRAPES - 1):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
        assert (200, TEXT) == get(port)


def test_clients_that_send_byte_by_byte_lose_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all places taken by clients that send ten bytes a second, with no end, a scrape is answered."""
    monkeypatch.setattr(metrics_endpoint, "SCRAPE_TIMEOUT_S", 1.0)
    ended = threading.Event()

    def send_slowly(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            while not ended.wait(0.1):
                sock.sendall(b"x")

    with endpoint() as port, contextlib.ExitStack() as stack:
        for _ in range(MAX_SCRAPES):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
            threading.Thread(target=send_slowly, args=(sock,), daemon=True).start()
        stack.callback(ended.set)
        assert (200, TEXT) == get(port, timeout_s=20.0)


def test_a_time_without_threads_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be started for two scrapes, nor one to bound the third: the next one is answered."""
    monkeypatch.setattr(metrics_endpoint, "RETRY_S", 0.1)
    start = threading.Thread.start
    refused = iter([True, True, False, True])

    def start_or_refuse(thread: threading.Thread) -> None:
        if next(refused, False):
            raise RuntimeError("can't start new thread")
        start(thread)

    with endpoint() as port:
        monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
        for _ in range(3):
            with pytest.raises((http.client.HTTPException, OSError)):
                get(port, timeout_s=20.0)
        assert (200, TEXT) == get(port, timeout_s=20.0)


def test_a_connection_that_sends_no_request_is_harmless() -> None:
    """After garbage and after a closed connection, scrapes are answered."""
    with endpoint() as port:
        for words in (
            b"",
            b"\x16\x03\x01 no request\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /metrics HTTP/9.9\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
                sock.sendall(words)
        assert (200, TEXT) == get(port)


def test_with_a_ca_only_its_clients_are_answered(tmp_path: Path) -> None:
    """With TLS plaintext gets no answer, and without a certificate of the CA there is none either."""
    authority = Authority(tmp_path, "ca")
    server, client = authority.issue("server", "localhost"), authority.issue("client")
    context = server_context(server.cert, server.key, authority.path)
    anonymous = ssl.create_default_context(cafile=authority.path)
    known = ssl.create_default_context(cafile=authority.path)
    known.load_cert_chain(client.cert, client.key)
    with endpoint(context) as port:
        assert (200, TEXT) == get(port, tls=known)
        with pytest.raises((ssl.SSLError, OSError)):
            get(port, tls=anonymous)
        with pytest.raises((http.client.HTTPException, OSError)):
            get(port)
        assert (200, TEXT) == get(port, tls=known)


@pytest.mark.parametrize(
    "host, port, reason",
    [
        ("127.0.0.1", None, "--metrics-port: cannot listen on 127.0.0.1:{port}, is it in use?"),
        ("192.0.2.1", 9464, "--metrics-host: 192.0.2.1 is not an address of this machine"),
        ("no such host", 9464, "--metrics-host: 'no such host' cannot be resolved"),
    ],
)
def test_a_port_that_cannot_be_bound_is_refused(host: str, port: int | None, reason: str) -> None:
    """The line names flag, address and cause."""
    with bind_metrics_port("127.0.0.1", free_port()) as taken:
        port = port or taken.getsockname()[1]
        with pytest.raises(FlagError) as refused:
            bind_metrics_port(host, port)
    assert reason.format(port=port) == str(refused.value)
