"""Metrics of a coordinator: the process that serves them, and the figures of a run."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from common.metrics import Series
from coordinator.config import RunConfig
from coordinator.recording import metrics_feed
from coordinator.recording.metrics_feed import MetricsFeed
from coordinator.recording.run_snapshot import RunPhase
from tests import fleet
from tests.certificates import Authority
from tests.forked import completed, main_of
from tests.worker.test_metrics import scrape

WAIT_S = 60.0
# A run whose last readings are served until they have been scraped: two files tell of both moments.
SERVES_ON = """
import os, sys, time
from coordinator.__main__ import main
from coordinator.recording.metrics_feed import MetricsFeed
leave = MetricsFeed.__exit__
def leave_when_scraped(*args):
    open({complete!r}, "w").close()
    while not os.path.exists({scraped!r}):
        time.sleep(0.01)
    leave(*args)
MetricsFeed.__exit__ = leave_when_scraped
sys.exit(main(sys.argv[1:]))
"""


def config(port: int | None, **flags: object) -> RunConfig:
    """Make the flags of a run with metrics."""
    return RunConfig(
        input_file=Path("data"),
        workers=("a:1",),
        metrics_port=port,
        **flags,  # type: ignore[arg-type]
    )


def is_gone(port: int) -> bool:
    """Whether nothing listens at a port any more, within the deadline."""
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.05)
    return False


def test_the_phase_and_the_latest_readings_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections wait until the process serves; after the block the port is free."""
    port = fleet.free_port()
    # The second reading is within the interval after the first, on a busy machine too.
    monkeypatch.setattr(metrics_feed, "INTERVAL_S", 3600.0)
    with MetricsFeed(config(port)) as feed:
        assert 1 == scrape(port)['tokenfleet_coordinator_phase{phase="waiting for workers"}']
        feed.tick(lambda: {"tokenfleet_coordinator_losses": [Series((), 2.0)]})
        feed.tick(lambda: {"tokenfleet_coordinator_losses": [Series((), 3.0)]})
        assert 2 == scrape(port)["tokenfleet_coordinator_losses_total"]
        feed.tick(lambda: {"tokenfleet_coordinator_losses": [Series((), 4.0)]}, last=True)
        feed.enter(RunPhase.LOGS)
        found = scrape(port)
        assert 4 == found["tokenfleet_coordinator_losses_total"]
        phases = [found[f'tokenfleet_coordinator_phase{{phase="{phase}"}}'] for phase in RunPhase]
        assert [float(phase is RunPhase.LOGS) for phase in RunPhase] == phases
    assert is_gone(port)


def test_with_a_certificate_metrics_have_tls(tmp_path: Path) -> None:
    """A scraper that trusts the CA reads them; the process has loaded certificate and key."""
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("coordinator", "localhost")
    port = fleet.free_port()
    trusting = ssl.create_default_context(cafile=authority.path)
    with MetricsFeed(config(port, metrics_tls_cert=pair.cert, metrics_tls_key=pair.key)):
        url = f"https://localhost:{port}/metrics"
        with urllib.request.urlopen(url, timeout=WAIT_S, context=trusting) as answer:
            assert b'tokenfleet_coordinator_phase{phase="waiting for workers"} 1.0' in answer.read()


def test_without_the_flag_nothing_is_read() -> None:
    """Neither a process nor a reading."""
    with MetricsFeed(config(None)) as feed:
        feed.enter(RunPhase.TEST)
        feed.tick(lambda: pytest.fail("read"), last=True)


def test_the_process_ends_with_a_killed_coordinator() -> None:
    """After SIGKILL of the process that feeds it nothing listens at the port any more."""
    port = fleet.free_port()
    program = (
        "import sys, time\n"
        "from tests.coordinator.recording.test_metrics_feed import MetricsFeed, config\n"
        "with MetricsFeed(config(int(sys.argv[1]))): print('fed', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(port)], cwd=fleet.ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert "fed\n" == process.stdout.readline()
        assert scrape(port)
        process.kill()
    assert is_gone(port)


def test_a_run_continues_when_the_process_dies(caplog: pytest.LogCaptureFixture) -> None:
    """One line says that the process has ended; later readings are not taken."""
    port = fleet.free_port()
    caplog.set_level("INFO", "coordinator.recording.metrics_feed")
    with MetricsFeed(config(port)) as feed:
        assert scrape(port)
        os.kill(int(caplog.messages[-1].rpartition(" ")[2]), signal.SIGKILL)
        assert is_gone(port)
        feed.tick(dict, last=True)
        feed.tick(lambda: pytest.fail("read"), last=True)
    assert "the metrics process ended with -9; the run continues without metrics" in caplog.text


@pytest.mark.parametrize(
    "flags, reason",
    [
        (
            "--metrics-host 0.0.0.0",
            "--metrics-host: '0.0.0.0' is not a loopback address: give --metrics-tls-cert and "
            "--metrics-tls-key, or --metrics-insecure for plaintext",
        ),
        ("--metrics-tls-cert a.pem", "--metrics-tls-cert: needs --metrics-tls-key too"),
        ("--metrics-port {port}", "--metrics-port: cannot listen on 127.0.0.1:{port}, is it in use?"),
    ],
)
def test_a_run_with_bad_metrics_flags_writes_nothing(tmp_path: Path, flags: str, reason: str) -> None:
    """One line, exit code 2, and no output directory; no worker is asked."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7]])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        argv = ["--metrics-port", "9464", *flags.format(port=port).split(), "--workers", "127.0.0.1:1"]
        argv += ["--input-file", str(data), "--output-dir", str(tmp_path / "out")]
        done = fleet.coordinate([], data, tmp_path / "out", *argv)
    assert 2 == done.returncode
    assert reason.format(port=port) in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    """The last scrape of a Server run has the counts of run.json and LoadGen's limits."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(20))
    conf = fleet.write_conf(tmp_path / "user.conf")
    port = fleet.free_port()
    complete, scraped = tmp_path / "complete", tmp_path / "scraped"
    program = SERVES_ON.format(complete=str(complete), scraped=str(scraped))
    scrapes: list[dict[str, float]] = []

    def scrape_at_end() -> None:
        while not complete.exists() and not scraped.exists():
            time.sleep(0.05)
        # Nobody serves if the run has failed before.
        with contextlib.suppress(OSError):
            scrapes.append(scrape(port))
        scraped.touch()

    with fleet.workers(tmp_path, 1, "--step-ms", "1") as workers:
        thread = threading.Thread(target=scrape_at_end)
        thread.start()
        flags = ("--scenario", "server", "--user-conf", str(conf), "--max-new-tokens", "64")
        argv = fleet.coordinator_flags(workers, data, tmp_path / "out", *flags, "--metrics-port", str(port))
        try:
            done = completed(main_of(program), argv)
        finally:
            scraped.touch()
            thread.join()
    assert done.returncode in (0, 3), done.stderr
    summary = fleet.run_json(tmp_path / "out/server/performance")["summary"]
    last, prefix = scrapes[-1], "tokenfleet_coordinator_"
    assert summary["ttft_ns"]["count"] == last[f"{prefix}completed_requests_total"]
    assert last[f"{prefix}issued_requests_total"] == last[f"{prefix}expected_requests"]
    tokens = round(summary["answer_tokens"]["mean"] * summary["answer_tokens"]["count"])
    assert tokens == last[f"{prefix}tokens_total"]
    assert last[f"{prefix}ttft_seconds_count"] == summary["ttft_ns"]["count"]
    worker = f'{{worker="{workers[0].address}"}}'
    assert tokens == last[f"{prefix}worker_tokens_total{worker}"]
    assert (3.0, 0.08) == (last[f"{prefix}ttft_limit_seconds"], last[f"{prefix}tpot_limit_seconds"])
