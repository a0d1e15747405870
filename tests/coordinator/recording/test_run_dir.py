"""The directory of a run belongs to that run alone until it ends."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from tests import fleet
from tests.coordinator.test_broken_runs import PROMPTS, Started, wait_busy, wait_handling

ANSWER_LEN = 200
PATIENT = ("--worker-timeout-s", "60")


def start(address: str, directory: Path, name: str, *flags: str) -> Started:
    """Start a coordinator over one worker; both of a test have the same output directory."""
    data = fleet.write_prompts(directory / "data.parquet", PROMPTS)
    conf = fleet.write_conf(directory / "user.conf")
    words = ["--workers", address, "--user-conf", str(conf), "--accuracy"]
    words += ["--max-new-tokens", str(ANSWER_LEN), *flags]
    (directory / name).mkdir()
    return Started(fleet.coordinator_flags([], data, directory / "out", *words), directory / name)


@contextlib.contextmanager
def paused(worker: fleet.WorkerProcess) -> Iterator[None]:
    """Stop a worker's process, so that its run cannot end before the block does."""
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def started_later(directory: Path, address: str) -> Iterator[None]:
    """Run a worker at an address that a coordinator already asks."""
    worker = fleet.start_worker(directory / "later.log", address=address)
    try:
        yield
    finally:
        worker.stop()


def check_whole(first: Started, directory: Path) -> None:
    """The first run ends as if it had been alone."""
    code, log = first.end(60.0)
    assert 0 == code, log
    assert "NOT_GRADED" == fleet.run_json(directory / "out" / "offline" / "accuracy")["verdict"]["outcome"]


def test_a_run_that_comes_later_does_not_take_the_directory_of_another(tmp_path: Path) -> None:
    """Both find no directory; the one whose worker is ready later ends with exit code 2."""
    later = f"127.0.0.1:{fleet.free_port()}"
    with fleet.workers(tmp_path, 1, "--step-ms", "10") as (ready,):
        second = start(later, tmp_path, "second")
        wait_handling(second, signal.SIGTERM)
        first = start(ready.address, tmp_path, "first", *PATIENT)
        try:
            wait_busy([ready], first)
            with paused(ready), started_later(tmp_path, later):
                code, log = second.end(30.0)
            assert (2, True) == (code, "accuracy exists; --overwrite" in log.splitlines()[-1]), log
            check_whole(first, tmp_path)
        finally:
            for started in (first, second):
                started.process.kill()


def test_the_directory_of_a_run_that_has_not_ended_is_not_overwritten(tmp_path: Path) -> None:
    """--overwrite replaces the directory of a run that has ended, and is refused at once before that."""
    with fleet.workers(tmp_path, 2, "--step-ms", "10") as (one, other):
        first = start(one.address, tmp_path, "first", *PATIENT)
        try:
            wait_busy([one], first)
            with paused(one):
                code, log = start(other.address, tmp_path, "second", "--overwrite").end(30.0)
            refused = "accuracy belongs to a run that has not ended" in log.splitlines()[-1]
            assert (2, True) == (code, refused), log
            check_whole(first, tmp_path)
        finally:
            first.process.kill()


def test_a_run_that_was_killed_can_be_overwritten(tmp_path: Path) -> None:
    """After SIGKILL of the first coordinator, --overwrite replaces its directory."""
    with fleet.workers(tmp_path, 1, "--step-ms", "10") as (worker,):
        first = start(worker.address, tmp_path, "first")
        wait_busy([worker], first)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(60)
        second = start(worker.address, tmp_path, "second", "--overwrite")
        assert 0 == second.end(60.0)[0], second.log.read_text()


def test_a_directory_below_a_file_is_named_as_the_user_named_it(tmp_path: Path) -> None:
    """The hidden name under which a run makes its directory is not shown."""
    (tmp_path / "out").write_text("mine")
    with fleet.workers(tmp_path, 1) as (worker,):
        code, log = start(worker.address, tmp_path, "run").end(60.0)
    directory = tmp_path / "out" / "offline" / "accuracy"
    line = f"coordinator: --output-dir: cannot write {directory}: Not a directory"
    assert (2, line) == (code, log.splitlines()[-1])
