"""LoadGen's traps, one test each: inputs with which LoadGen would crash, hang or report wrongly.

LoadGen keeps state and takes its process with it, so every test's LoadGen lives in a process of its own, a
`child_...` function of this file. Traps that take a whole fleet are in test_loadgen_traps_in_runs.py.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sut.loadgen import LoadGenTest
from sut.loadgen_conf import NO_USER_CONF, USER_FLAG, parse_conf
from sut.log_files import ACCURACY, DETAIL, find_log
from sut.results.logs import DetailLog, read_detail
from sut.settings import Mode, Scenario
from sut.sut import SUT, Reports
from sut.user_conf import compose_user_conf
from tests import fleet
from tests.forked import completed_command

ANSWER = np.array([5, 6, fleet.STOP], np.int32)
Query = tuple[list[int], list[int]]


def run_child(child: Callable[[Path], None], directory: Path, cwd: Path = fleet.ROOT) -> None:
    """Run a function of this file in a child process until it prints "end"."""
    code = f"import pathlib, sys, {child.__module__} as m; m.{child.__name__}(pathlib.Path(sys.argv[1]))"
    done = completed_command(
        [sys.executable, "-c", code, str(directory)], cwd=cwd, PYTHONPATH=str(fleet.ROOT)
    )
    assert (0, "end\n") == (done.returncode, done.stdout), done.stderr


def end_child() -> None:
    """Exit without waiting for LoadGen's threads, as the coordinator does when a run cannot continue."""
    sys.stdout.write("end\n")
    sys.stdout.flush()
    os._exit(0)


class Drive:
    """A LoadGen test without workers, with the same answer to every request."""

    def __init__(self, scenario: Scenario, mode: Mode, num_samples: int, user_text: str = "") -> None:
        conf = compose_user_conf(
            parse_conf(USER_FLAG, user_text),
            scenario=scenario,
            mode=mode,
            num_samples=num_samples,
            target_qps=None,
        )
        self.test = LoadGenTest(conf, scenario, mode)
        self.issued: queue.SimpleQueue[Query | None] = queue.SimpleQueue()
        self.sut = SUT(lambda ids, samples: self.issued.put((ids, samples)), _raise)
        self.reports = Reports(scenario)
        self.num_samples = num_samples
        self.last_ids: list[int] = []

    def run(self, directory: Path) -> DetailLog:
        """Run to the end; this thread reports."""
        thread = threading.Thread(target=self._start_test, args=(directory,), daemon=True)
        thread.start()
        for ids, _ in iter(lambda: self.issued.get(timeout=60), None):
            self.answer(ids)
        thread.join(timeout=60)
        return read_detail(find_log(directory, DETAIL))

    def answer(self, ids: list[int]) -> None:
        """Report first tokens and answers."""
        addresses = [ANSWER.ctypes.data] * len(ids)
        if self.reports.reports_first_tokens:
            self.reports.first_tokens(ids, addresses)
        self.reports.complete(ids, addresses, [len(ANSWER)] * len(ids))
        self.last_ids = ids

    def _start_test(self, directory: Path) -> None:
        self.test.run(self.num_samples, self.sut.issue_queries, directory, None)
        self.issued.put(None)


def _raise(error: BaseException) -> None:
    raise error


def child_reports_from_two_threads(directory: Path) -> None:
    """Report a first token here, and try to report the answer from another thread."""
    drive = Drive(Scenario.SERVER, Mode.ACCURACY, 1, "*.Server.target_qps = 100\n")
    refusals: list[str] = []

    def report(ids: list[int]) -> None:
        with pytest.raises(RuntimeError) as refusal:
            drive.reports.complete(ids, [ANSWER.ctypes.data], [len(ANSWER)])
        refusals.append(str(refusal.value))

    def answer(ids: list[int]) -> None:
        drive.reports.first_tokens(ids, [ANSWER.ctypes.data])
        other = threading.Thread(target=report, args=(ids,))
        other.start()
        other.join()
        drive.reports.complete(ids, [ANSWER.ctypes.data], [len(ANSWER)])

    drive.answer = answer  # type: ignore[method-assign]
    assert [] == drive.run(directory).errors
    assert ["first tokens and completions must come from one thread"] == refusals
    end_child()


def test_report_from_a_second_thread_is_refused(tmp_path: Path) -> None:
    """Trap 1: the SUT raises if a second thread reports; the report does not reach LoadGen."""
    run_child(child_reports_from_two_threads, tmp_path)


def child_submit_raises(directory: Path) -> None:
    """Let `submit` fail on the first query."""
    errors: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def submit(ids: list[int], samples: list[int]) -> None:
        raise KeyError(len(ids), len(samples))

    drive = Drive(Scenario.OFFLINE, Mode.PERFORMANCE, 10)
    sut = SUT(submit, errors.put)
    arguments = (10, sut.issue_queries, directory, None)
    threading.Thread(target=drive.test.run, args=arguments, daemon=True).start()
    # 660 = 1.1 * 600 s * 1 query/s, LoadGen's Offline query.
    assert (660, 660) == errors.get(timeout=60).args
    end_child()


def test_issue_queries_never_raises(tmp_path: Path) -> None:
    """Trap 2: an error while a query is issued ends the run with a reason; LoadGen would crash."""
    run_child(child_submit_raises, tmp_path)


def child_reports_late(directory: Path) -> None:
    """Report again after StartTest has returned."""
    drive = Drive(Scenario.SERVER, Mode.ACCURACY, 3, "*.Server.target_qps = 100\n")
    drive.run(directory)
    drive.reports.close()
    with pytest.raises(RuntimeError, match="a report after StartTest returned"):
        drive.reports.first_tokens(drive.last_ids, [ANSWER.ctypes.data])
    with pytest.raises(RuntimeError, match="a report after StartTest returned"):
        drive.reports.complete(drive.last_ids, [ANSWER.ctypes.data], [len(ANSWER)])
    end_child()


def test_late_report_does_not_reach_loadgen(tmp_path: Path) -> None:
    """Trap 4: a closed SUT raises; LoadGen's ids then point to freed memory."""
    run_child(child_reports_late, tmp_path)


def child_offline_of_one_copy(directory: Path) -> None:
    """Run Offline over a data set of the official size, with the generated conf alone."""
    values = Drive(Scenario.OFFLINE, Mode.PERFORMANCE, 6396).run(directory).values
    assert 6396 == values["effective_samples_per_query"]
    assert 6396 == values["effective_performance_sample_count"]
    assert 600_000 == values["effective_min_duration_ms"]
    end_child()


def test_offline_takes_the_whole_data_set(tmp_path: Path) -> None:
    """Trap 8: LoadGen alone would issue 1.1 * 600 s * 1 query/s = 660 samples; the checker requires 6,396."""
    run_child(child_offline_of_one_copy, tmp_path)


def child_second_test(_: Path) -> None:
    """Ask for two tests."""
    Drive(Scenario.OFFLINE, Mode.PERFORMANCE, 10)
    with pytest.raises(RuntimeError, match="one LoadGen test per process"):
        Drive(Scenario.OFFLINE, Mode.PERFORMANCE, 10)
    end_child()


def test_second_test_in_one_process_is_refused(tmp_path: Path) -> None:
    """Trap 9: a second test, which would run without the embedded mlperf.conf, raises."""
    run_child(child_second_test, tmp_path)


def child_without_directory(directory: Path) -> None:
    """Run with an output directory that does not exist."""
    drive = Drive(Scenario.OFFLINE, Mode.PERFORMANCE, 10)
    with pytest.raises(FileNotFoundError, match="absent"):
        drive.test.run(10, drive.sut.issue_queries, directory / "absent", None)
    assert drive.issued.empty()
    end_child()


def test_missing_output_directory_is_an_error(tmp_path: Path) -> None:
    """Trap 10: run raises without an output directory; LoadGen would return silently."""
    run_child(child_without_directory, tmp_path)


def child_beside_an_audit_config(directory: Path) -> None:
    """Run in a working directory that holds an audit.config."""
    assert Path("audit.config").is_file()
    values = Drive(Scenario.OFFLINE, Mode.PERFORMANCE, 10).run(directory).values
    assert 0 == values["effective_accuracy_log_sampling_target"]
    assert values["effective_performance_issue_same"] is False
    assert [] == json.loads(find_log(directory, ACCURACY).read_text())
    end_child()


def test_audit_config_in_the_working_directory_is_not_read(tmp_path: Path) -> None:
    """Trap 11: only the file of --audit-config is read; LoadGen would read one in the working directory."""
    text = "*.*.accuracy_log_sampling_target = 10000\n*.*.performance_issue_same = 1\n"
    fleet.write_conf(tmp_path / "audit.config", text)
    run_child(child_beside_an_audit_config, tmp_path, cwd=tmp_path)


def child_server(directory: Path) -> None:
    """Run Server with a rate alone."""
    values = Drive(Scenario.SERVER, Mode.ACCURACY, 3, "*.Server.target_qps = 100\n").run(directory).values
    assert 600_000 == values["effective_min_duration_ms"]
    end_child()


def test_generated_server_conf_leaves_the_duration_alone(tmp_path: Path) -> None:
    """Trap 12: our user.conf sets no duration; the reference's sets 60 s, which the checker refuses."""
    conf = compose_user_conf(
        NO_USER_CONF, scenario=Scenario.SERVER, mode=Mode.PERFORMANCE, num_samples=6396, target_qps=10.0
    )
    assert "duration" not in conf
    run_child(child_server, tmp_path)
