"""The doctor reads what a run reads before it needs a worker, and says what the run would say of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fleet
from tests.coordinator.doctor.test_doctor import DOCTOR, END_TIMEOUT_S, doctor, failures


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run one worker that nothing is wrong with."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1) as (started,):
        yield started


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--user-conf {d}/user.conf", "--user-conf {d}/user.conf: line 1: 'nonsense' is not "),
        ("--audit-config {d}/absent.config", "--audit-config {d}/absent.config: cannot be read: No such"),
        ("--audit-config {d}/odd.config", "--audit-config {d}/odd.config: must have the keys of exactly one"),
        ("--output-dir {d}/out", "--output-dir: {d}/out/offline/performance exists; --overwrite replaces it"),
    ],
    ids=["user.conf", "audit.config", "no-test", "earlier-run"],
)
@pytest.mark.parametrize("has_data", [False, True], ids=["no-data", "data"])
def test_what_a_run_refuses_at_once_fails(
    worker: fleet.WorkerProcess, tmp_path: Path, flags: str, says: str, has_data: bool
) -> None:
    """A user.conf, an audit.config or an earlier run that a run is refused for is a row with its message.

    The data set is judged all the same, where there is one.
    """
    (tmp_path / "user.conf").write_text("nonsense\n")
    (tmp_path / "odd.config").write_text("*.*.mode = 2\n")
    (tmp_path / "out" / "offline" / "performance").mkdir(parents=True)
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7]])
    words = flags.format(d=tmp_path).split()
    done = doctor([worker.address], *words, *["--input-file", str(data)] * has_data)
    ((check, (seen, advice)),) = failures(done).items()
    assert ("settings", "correct the file or the flag") == (check, advice)
    assert seen.startswith(says.format(d=tmp_path))
    assert has_data == ("  ok    fits" in done.stdout)
    run = fleet.coordinate([worker], data, tmp_path / "new", *words)
    assert (2, f"coordinator: {seen}\n") == (run.returncode, run.stderr)


def test_earlier_run_that_is_to_be_replaced_passes(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """With --overwrite an earlier run's directory is nothing to correct."""
    (tmp_path / "out" / "offline" / "performance").mkdir(parents=True)
    done = doctor([worker.address], "--output-dir", str(tmp_path / "out"), "--overwrite")
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    assert "  ok    settings" in done.stdout


def test_who_reads_only_the_first_lines_is_no_trouble() -> None:
    """Where the table's reader has gone, as `head` does, the exit code stays and nothing is on stderr."""
    command = [*DOCTOR, "--workers", "127.0.0.1:9", "--timeout-s", "1"]
    process = subprocess.Popen(
        command, cwd=fleet.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    try:
        _, errors = process.communicate(timeout=END_TIMEOUT_S)
    finally:
        process.kill()
    assert (1, "") == (process.returncode, errors)
