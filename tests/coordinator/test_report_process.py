"""The report at the end of a run: written when the verdict is known, and never able to change it."""

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.signals import Interrupted, Interrupts
from coordinator import report_process
from sut.log_files import DETAIL, find_log
from sut.results.logs import read_detail
from tests import fleet
from tests.sut.report.page_reader import Page, value_of


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run a counting worker for all tests of this file."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1, "--step-ms", "2") as started:
        yield started[0]


def run(worker: fleet.WorkerProcess, directory: Path, *flags: str) -> tuple[int, Path]:
    """Run Server with a report; returns exit code and directory of the run."""
    data = fleet.write_prompts(directory / "data.parquet", fleet.counting_prompts(40))
    conf = fleet.write_conf(directory / "user.conf")
    words = ["--user-conf", str(conf), "--max-new-tokens", "16", "--scenario", "server", "--report", *flags]
    done = fleet.coordinate([worker], data, directory / "out", *words)
    return done.returncode, directory / "out" / "server" / "performance"


def test_a_run_ends_with_a_report_of_its_figures(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """A complete run has a page with the numbers of run.json and of LoadGen's log; it can be replaced."""
    code, run_dir = run(worker, tmp_path)
    # The load of the machine decides whether LoadGen calls it VALID.
    assert code in (0, 3)
    page = Page((run_dir / "report.html").read_text(encoding="utf-8"))
    assert page.is_closed
    record = fleet.run_json(run_dir)
    assert record["verdict"]["outcome"] in page.texts
    log = read_detail(find_log(run_dir, DETAIL)).values
    headline = [number for number in page.numbers if "#/loadgen/" in number.source]
    assert 4 == len(headline), headline
    for number in headline:
        assert repr(log[number.source.rpartition("/")[2]]) == number.value
    latencies = [
        number for number in page.numbers if "#/loadgen_latencies/ttft_ns/percentiles/" in number.source
    ]
    for number in latencies:
        percent = float(number.source.rpartition("/p")[2])
        assert repr(log[f"result_first_token_{percent:.2f}_percentile_latency_ns"]) == number.value
    assert 5 == len(latencies)
    for number in page.numbers:
        if number.source.startswith("run.json#/"):
            assert repr(value_of(record, number.source)) == number.value
    assert {"scenario", "input_file", "workers", "output_dir", "max_new_tokens"} <= set(
        record["changed_flags"]
    )
    assert "ready_timeout_s" not in record["changed_flags"]
    assert run(worker, tmp_path, "--overwrite", "--no-report")[0] in (0, 3)
    assert not (run_dir / "report.html").exists()


def test_a_failed_run_has_a_report(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """A run that fails by an overdue query: exit code 1, and the page gives the reason."""
    code, run_dir = run(worker, tmp_path, "--query-timeout-s", "0.001")
    assert 1 == code
    page = Page((run_dir / "report.html").read_text(encoding="utf-8"))
    assert "FAILED" in page.texts
    assert fleet.run_json(run_dir)["verdict"]["reason"] in page.texts


def test_a_report_that_fails_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A report of a directory without a run: one warning with the reason and the command for later."""
    report_process.write_report(tmp_path, 60.0)
    (record,) = caplog.records
    assert logging.WARNING == record.levelno
    reason = (
        f"exit code 2: report: {tmp_path}: not the directory of a run: run.json: No such file or directory"
    )
    assert f"no report.html: {reason}; `tokenfleet report {tmp_path}` writes it" == record.message


def test_a_report_that_takes_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that does not end in time is killed; one warning."""
    monkeypatch.setattr(report_process, "_MODULE", "tests.coordinator.endless")
    began_s = time.monotonic()
    report_process.write_report(tmp_path, 0.2)
    assert time.monotonic() - began_s < 120
    assert "no report.html: not written within 0.2 s; " in caplog.messages[0]


def test_a_signal_ends_the_report_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal while the report is written: a warning, and the program goes on to its exit code."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(report_process, "write_report", interrupted)
    try:
        report_process.report_run(tmp_path, Interrupts())
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    assert "no report.html: interrupted by SIGINT; " in caplog.messages[0]
