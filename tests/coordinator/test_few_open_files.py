"""A low limit on open files is raised where that is allowed, and named at once where it is not."""

import asyncio
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from common.connect_errors import diagnose
from coordinator.transport.access import Access
from tests import fleet
from tests.forked import completed_command

# Long enough to tell a refusal at once from one after --ready-timeout-s.
READY_TIMEOUT_S, REFUSAL_S = 600, 120
# 64 of the coordinator's own and 3 for each of 2 workers.
NEEDED = 70


def run_with_limit(data: Path, out: Path, soft: int, hard: int) -> subprocess.CompletedProcess[str]:
    """Run a coordinator with two addresses where nobody listens."""
    addresses = f"127.0.0.1:{fleet.free_port()},127.0.0.2:{fleet.free_port()}"
    flags = ["--input-file", str(data), "--workers", addresses, "--output-dir", str(out)]
    return subprocess.run(
        [sys.executable, "-m", "coordinator", *flags, "--ready-timeout-s", str(READY_TIMEOUT_S)],
        cwd=fleet.ROOT,
        capture_output=True,
        text=True,
        timeout=READY_TIMEOUT_S,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )


def test_too_few_open_files_are_one_line_at_once(tmp_path: Path) -> None:
    """A hard limit below what two workers need: exit code 2 and both numbers, without a wait for workers."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7]])
    begun_s = time.monotonic()
    done = run_with_limit(data, tmp_path / "out", NEEDED - 1, NEEDED - 1)
    assert time.monotonic() - begun_s < REFUSAL_S
    expected = f"2 workers need {NEEDED} open files, the limit is {NEEDED - 1} (ulimit -n)"
    # Warnings about a submission precede it.
    assert (2, f"coordinator: --workers: {expected}") == (done.returncode, done.stderr.splitlines()[-1])
    assert not (tmp_path / "out").exists()


def test_a_soft_limit_is_raised_at_the_start() -> None:
    """With a soft limit of 50 and a higher hard limit the coordinator can open as many as that allows."""
    check = (
        "import resource; from coordinator.__main__ import main;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 4096));"
        "assert 2 == main(['no-command']); print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = completed_command([sys.executable, "-c", check])
    assert "(4096, 4096)\n" == done.stdout, done.stderr


def test_a_process_that_can_open_no_file_says_so() -> None:
    """Files used up by something else: the diagnosis of a connection is the limit, and no wait helps."""

    async def diagnosed() -> str | None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The loop has its files; the lowest free descriptor is at the limit.
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            return await diagnose("127.0.0.1:9", Access().client_tls)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert "Too many open files" == asyncio.run(diagnosed())
