"""Ctrl-C while a command imports what its engine needs: one line, exit code 130, no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import fleet

# Stands for a package that takes long to import.
SLOW = """
import pathlib, time
pathlib.Path({mark!r}).touch()
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("argv", "slow", "line"),
    [
        ("-m worker --preset latency --print-config", "vllm", "worker: interrupted"),
        ("-m worker", "grpc", "worker: interrupted"),
        ("-m coordinator", "grpc", "coordinator: interrupted"),
        (
            "run_mlperf.py --backend vllm --model a/b",
            "huggingface_hub",
            "run_mlperf.py: interrupted by SIGINT",
        ),
    ],
    ids=["vllm-of-worker", "worker", "coordinator", "run_mlperf"],
)
def test_an_interrupt_before_anything_runs_is_one_line(
    tmp_path: Path, argv: str, slow: str, line: str
) -> None:
    """SIGINT within an import, where no handler of the command's own is at work yet, leaves no traceback."""
    mark = tmp_path / "importing"
    for name in {slow, "vllm"}:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(SLOW.format(mark=str(mark)))
    process = subprocess.Popen(
        # A test run in the background ignores SIGINT, and its children would too.
        ["env", "--default-signal=INT", sys.executable, *argv.split()],
        cwd=fleet.ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline_s = time.monotonic() + 60
        while not mark.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=240)
    finally:
        process.kill()
        process.communicate()
    assert (130, "", f"{line}\n") == (process.returncode, output, errors)
