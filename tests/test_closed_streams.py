"""Commands whose stdout and stderr are closed end as they do with open ones."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import fleet

CLOSE_AND_RUN = 'exec "$@" <&- >&- 2>&-'
# Prints what the numbers of the standard streams lead to, to a file.
LIST_STREAMS = """
import os, sys
from common.standard_streams import open_standard_streams
open_standard_streams()
print("text", file=sys.stdout, flush=True)
print("text", file=sys.stderr, flush=True)
other = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
assert other > 2
os.write(other, repr([os.readlink(f"/proc/self/fd/{i}") for i in range(3)]).encode())
inherited = [os.get_inheritable(i) for i in range(3)]
assert inherited == [True] * 3
"""


def run(argv: Sequence[str]) -> int:
    """Run a program with all three standard streams closed; returns its exit code."""
    command = ["sh", "-c", CLOSE_AND_RUN, "sh", sys.executable, *argv]
    return subprocess.run(command, cwd=fleet.ROOT, timeout=240, check=False).returncode


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("-m worker --engine counting --port 0", 2),
        ("-m worker --print-config --engine counting", 0),
        ("-m coordinator --workers 127.0.0.1:9 --input-file /absent", 2),
        ("-m coordinator doctor --workers 127.0.0.1:9", 1),
        ("-m worker.probe 127.0.0.1:9", 1),
        ("-m sut.synthetic dataset --output {directory}/data.parquet --num-samples 4", 0),
        ("-m tokenfleet --version", 0),
        ("-m tokenfleet doctor --workers 127.0.0.1:9", 1),
        ("run_mlperf.py --backend counting --input-file /absent", 2),
    ],
)
def test_command_keeps_its_exit_code(tmp_path: Path, words: str, code: int) -> None:
    """Each command ends with the exit code that it has with open streams."""
    assert code == run(words.format(directory=tmp_path).split())


def test_no_other_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """All three lead to /dev/null, in child processes too; what is printed goes nowhere."""
    found = tmp_path / "found"
    assert 0 == run(["-c", LIST_STREAMS, str(found)])
    assert repr([os.devnull] * 3) == found.read_text()


def test_run_is_valid(tmp_path: Path) -> None:
    """A whole run without any standard stream is complete."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
    with fleet.workers(tmp_path, 1) as workers:
        words = ["--accuracy", "--ungraded", "--max-new-tokens", "8"]
        command = fleet.coordinator_command(workers, data, tmp_path / "out", *words)
        code = run(command[1:])
    assert 0 == code
    verdict = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["verdict"]
    assert "NOT_GRADED" == verdict["outcome"]
