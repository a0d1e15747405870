"""A run's directory is its own while it lasts, whoever else names it."""

import signal
from pathlib import Path

from tests import fleet
from tests.coordinator.test_broken_runs import PROMPTS, Started, wait_busy

ANSWER_LEN = 200


def start(worker: fleet.WorkerProcess, directory: Path, name: str, *flags: str) -> Started:
    """Start a coordinator over one worker; both of a test have the same output directory."""
    data = fleet.write_prompts(directory / "data.parquet", PROMPTS)
    conf = fleet.write_conf(directory / "user.conf")
    words = ["--user-conf", str(conf), "--max-new-tokens", str(ANSWER_LEN), "--accuracy", *flags]
    (directory / name).mkdir()
    return Started(fleet.coordinator_command([worker], data, directory / "out", *words), directory / name)


def check_whole(first: Started, directory: Path) -> None:
    """The first run ends as if it had been alone."""
    code, log = first.end(60.0)
    assert 0 == code, log
    assert "VALID" == fleet.run_json(directory / "out" / "offline" / "accuracy")["verdict"]["outcome"]


def test_a_run_that_comes_later_does_not_take_the_directory_of_another(tmp_path: Path) -> None:
    """Both find no directory; the one whose worker loads for longer then ends with exit code 2."""
    with fleet.workers(tmp_path, 1, "--step-ms", "10") as (ready,):
        loading = fleet.start_worker(tmp_path / "loading.log", "--load-ms", "2000")
        second = start(loading, tmp_path, "second")
        first = start(ready, tmp_path, "first")
        try:
            wait_busy([ready], first)
            code, log = second.end(20.0)
            assert (2, True) == (code, "accuracy exists; --overwrite" in log.splitlines()[-1]), log
            check_whole(first, tmp_path)
        finally:
            for started in (first, second):
                started.process.kill()
            loading.stop()


def test_a_run_that_goes_on_is_not_overwritten(tmp_path: Path) -> None:
    """--overwrite replaces what has ended: exit code 2 meanwhile, at once."""
    with fleet.workers(tmp_path, 2, "--step-ms", "10") as (one, other):
        first = start(one, tmp_path, "first")
        try:
            wait_busy([one], first)
            code, log = start(other, tmp_path, "second", "--overwrite").end()
            assert (2, True) == (
                code,
                "accuracy belongs to a run that has not ended" in log.splitlines()[-1],
            ), log
            check_whole(first, tmp_path)
        finally:
            first.process.kill()


def test_a_run_that_was_killed_can_be_overwritten(tmp_path: Path) -> None:
    """Nothing of a process that is gone keeps its directory."""
    with fleet.workers(tmp_path, 1, "--step-ms", "10") as (worker,):
        first = start(worker, tmp_path, "first")
        wait_busy([worker], first)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10.0)
        second = start(worker, tmp_path, "second", "--overwrite")
        assert 0 == second.end(60.0)[0], second.log.read_text()
