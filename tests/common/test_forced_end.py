"""A process that does not end by itself is ended, whatever its threads do, and shows where they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import ROOT, end_of, main_of

WAITS = """
import sys, threading
from common import forced_end
from common.forced_end import end_after
# A slow machine needs more time than the other two ends give.
forced_end._WITHOUT_GIL_S = forced_end._BY_KERNEL_S = 300.0
if "full" not in sys.argv:
    forced_end.SHOW_TIMEOUT_S = 60.0

def waits_for_ever():
    threading.Event().wait()

end_after(0.2, 143)
waits_for_ever()
"""
HOLDS_THE_LOCK = """
import ctypes, sys
from common import forced_end
from common.forced_end import end_after
# Longer than a slow machine takes from here to the pause, where the timer can no longer end the process.
LIMIT_S = 2.0
forced_end._WITHOUT_GIL_S, forced_end._BY_KERNEL_S = 0.2, 300.0
if "full" in sys.argv:
    forced_end._BY_KERNEL_S = 0.5
pause = ctypes.PyDLL(None).pause

def keeps_the_interpreter():
    pause()

end_after(LIMIT_S, 143)
keeps_the_interpreter()
"""
WITHOUT_DESCRIPTORS = """
import resource, threading
from common import forced_end
from common.forced_end import end_after
forced_end._WITHOUT_GIL_S = forced_end._BY_KERNEL_S = 300.0
end_after(0.2, 143)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
threading.Event().wait()
"""


def test_a_wait_without_end_is_ended_and_shown(tmp_path: Path) -> None:
    """The process has the exit code that it was given, and stderr names the function that waits."""
    ended = end_of(main_of(WAITS), [], tmp_path, timeout_s=60)
    assert 143 == ended.code, ended.stderr
    assert ended.stderr.startswith("ended by force after 0.2 s; the threads were at:\n")
    assert "waits_for_ever" in ended.stderr


def test_a_process_without_free_descriptors_is_ended(tmp_path: Path) -> None:
    """It has the exit code that it was given, and says why it cannot show its threads."""
    ended = end_of(main_of(WITHOUT_DESCRIPTORS), [], tmp_path, timeout_s=60)
    assert 143 == ended.code, ended.stderr
    assert "the threads were at:\nnot known: Too many open files\n" in ended.stderr


def test_a_thread_that_keeps_the_interpreter_is_ended_and_shown(tmp_path: Path) -> None:
    """Foreign code that never returns the GIL: no thread of Python runs, exit code 1."""
    ended = end_of(main_of(HOLDS_THE_LOCK), [], tmp_path, timeout_s=60)
    assert 1 == ended.code, ended.stderr
    assert "keeps_the_interpreter" in ended.stderr


@pytest.mark.parametrize(("source", "code"), [(WAITS, 143), (HOLDS_THE_LOCK, -14)])
def test_a_stderr_that_takes_nothing_does_not_hold_the_end(source: str, code: int) -> None:
    """The pipe behind stderr is full; who keeps the GIL too is ended by SIGALRM, number 14."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
        process = subprocess.Popen([sys.executable, "-c", source, "full"], cwd=ROOT, stderr=writing)
        try:
            assert code == process.wait(60)
        finally:
            process.kill()
    finally:
        os.close(reading)
        os.close(writing)
