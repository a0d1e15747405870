"""File systems of the kernel that stop answering in mid-run: a frozen ext4, a FUSE without its server.

Needs root, loop devices and /dev/fuse.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fleet
from tests.coordinator.test_broken_runs import COORDINATOR, Started, check_freed, load_of, wait_busy
from tests.forked import completed_command

pytestmark = pytest.mark.long

RELEASE_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 3.0
# Each answer takes 3,000 steps of 20 ms.
LONG_PROMPTS = [[3000, 7, 1000 * i] for i in range(10)]
# Each takes 150 steps: long enough to stop the disk meanwhile.
SHORT_PROMPTS = [[150, 7, 1000 * i] for i in range(10)]
MNT_DETACH = 2


def sh(*words: str) -> None:
    """Run a command; the test is skipped if this machine cannot."""
    if os.geteuid() != 0 or shutil.which(words[0]) is None:
        pytest.skip(f"needs root and {words[0]}")
    done = completed_command(words, 60)
    if done.returncode != 0:
        pytest.skip(f"{' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run one worker for all tests."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1, "--step-ms", "20") as (started,):
        yield started


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """Mount an ext4 of 256 MiB."""
    image, directory = tmp_path / "image", tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(256 << 20)
    directory.mkdir()
    sh("mkfs.ext4", "-q", str(image))
    sh("mount", "-o", "loop", str(image), str(directory))
    try:
        yield directory
    finally:
        subprocess.run(["fsfreeze", "-u", str(directory)], capture_output=True, timeout=60, check=False)
        subprocess.run(["umount", "-l", str(directory)], timeout=60, check=False)


@contextlib.contextmanager
def run_on(
    worker: fleet.WorkerProcess, disk: Path, logs: Path, prompts: list[list[int]], *flags: str
) -> Iterator[Started]:
    """Run a coordinator whose output directory, stdout and stderr are on a disk, until the worker is busy."""
    data = fleet.write_prompts(logs / "data.parquet", prompts)
    words = ["--accuracy", "--ungraded", "--max-new-tokens", "3000", *flags]
    run = Started(fleet.coordinator_flags([worker], data, disk / "out", *words), disk, COORDINATOR)
    try:
        wait_busy([worker], run)
        yield run
    finally:
        run.process.kill()


def wait_free(worker: fleet.WorkerProcess, timeout_s: float) -> None:
    """Wait until a worker has no requests."""
    deadline_s = time.monotonic() + timeout_s
    while load_of(worker).running:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_releases_the_workers_of_a_run_on_a_frozen_disk(
    worker: fleet.WorkerProcess, ext4: Path, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    """The kernel holds the threads that write: workers are free in time, the exit follows the thaw."""
    with run_on(worker, ext4, tmp_path, LONG_PROMPTS) as run:
        sh("fsfreeze", "-f", str(ext4))
        time.sleep(2.0)
        run.process.send_signal(signum)
        wait_free(worker, RELEASE_TIMEOUT_S)
        sh("fsfreeze", "-u", str(ext4))
        assert code == run.process.wait(RELEASE_TIMEOUT_S)
    check_freed(worker)


def test_run_whose_disk_freezes_ends_after_the_last_completion(
    worker: fleet.WorkerProcess, ext4: Path, tmp_path: Path
) -> None:
    """Nobody sends a signal: the stall ends the run, the worker serves the next one, exit code 1."""
    flags = ("--log-stall-timeout-s", str(STALL_TIMEOUT_S))
    with run_on(worker, ext4, tmp_path, SHORT_PROMPTS, *flags) as run:
        sh("fsfreeze", "-f", str(ext4))
        wait_free(worker, 30.0)
        time.sleep(STALL_TIMEOUT_S + RELEASE_TIMEOUT_S)
        (tmp_path / "next").mkdir()
        data = fleet.write_prompts(tmp_path / "next.parquet", [[3, 7, 9]])
        words = ["--accuracy", "--ungraded", "--max-new-tokens", "8"]
        done = fleet.coordinate([worker], data, tmp_path / "next", *words)
        assert 0 == done.returncode, done.stderr
        sh("fsfreeze", "-u", str(ext4))
        assert 1 == run.process.wait(RELEASE_TIMEOUT_S)


def test_frozen_disk_that_thaws_in_time_costs_nothing(
    worker: fleet.WorkerProcess, ext4: Path, tmp_path: Path
) -> None:
    """Frozen for 5 s in mid-run, longer than a progress line and a flush: the run is complete."""
    with run_on(worker, ext4, tmp_path, SHORT_PROMPTS) as run:
        sh("fsfreeze", "-f", str(ext4))
        time.sleep(5.0)
        sh("fsfreeze", "-u", str(ext4))
        assert 0 == run.process.wait(60.0)


@contextlib.contextmanager
def dead_fuse(directory: Path) -> Iterator[None]:
    """Mount a FUSE whose server never answers over a directory."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse")
    libc = ctypes.CDLL(None, use_errno=True)
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
    try:
        if libc.mount(b"dead", os.fsencode(directory), b"fuse", 0, options.encode()) != 0:
            pytest.skip(f"no FUSE here: {os.strerror(ctypes.get_errno())}")
        yield
    finally:
        os.close(server)
        libc.umount2(os.fsencode(directory), MNT_DETACH)


@pytest.mark.parametrize("signum", [None, signal.SIGTERM])
def test_run_whose_directory_hangs_says_why_and_ends(
    worker: fleet.WorkerProcess, tmp_path: Path, signum: signal.Signals | None
) -> None:
    """Every path of the run hangs in FUSE: by a signal or by the stall, within 15 s, with the reason."""
    logs = tmp_path / "logs"
    logs.mkdir()
    data = fleet.write_prompts(logs / "data.parquet", LONG_PROMPTS if signum else SHORT_PROMPTS)
    words = ["--accuracy", "--ungraded", "--max-new-tokens", "3000"]
    words += ["--log-stall-timeout-s", str(STALL_TIMEOUT_S)]
    run = Started(fleet.coordinator_flags([worker], data, tmp_path / "out", *words), logs, COORDINATOR)
    try:
        wait_busy([worker], run)
        with dead_fuse(tmp_path / "out"):
            if signum is None:
                wait_free(worker, 30.0)
            else:
                run.process.send_signal(signum)
            code, log = run.end(STALL_TIMEOUT_S + RELEASE_TIMEOUT_S)
            check_freed(worker)
    finally:
        run.process.kill()
    reason = "interrupted by SIGTERM" if signum else "does not answer for 3 s after the last completion"
    assert (143 if signum else 1, True) == (code, reason in log), log
