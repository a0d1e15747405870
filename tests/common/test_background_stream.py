"""Streams that are written on a thread: text arrives in order and whole, whatever was written before it."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.standard_streams import BackgroundStream, background_output


@contextlib.contextmanager
def streams_to(stdout: Path, stderr: Path) -> Iterator[None]:
    """Let the standard streams of sys lead to these files during a block."""
    # Not in a fixture: pytest replaces the streams between the fixtures and the test.
    with stdout.open("a") as out, stderr.open("a") as err, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield


def test_empty_text_ends_nothing(tmp_path: Path) -> None:
    """Writing nothing, as a node does for half a line of a replica, ends nothing that follows."""
    written = tmp_path / "written"
    with streams_to(tmp_path / "other", written), BackgroundStream("stderr") as stderr:
        stderr.write("")
        assert stderr.drain(20)
        sys.stderr.write("after it\n")
        assert stderr.drain(20)
    assert "after it\n" == written.read_text()


def test_two_streams_to_one_file_keep_their_order(tmp_path: Path) -> None:
    """A thousand lines, on stdout and stderr in turn, arrive in the order in which they were written."""
    written = tmp_path / "written"
    lines = [f"line {number}\n" for number in range(1000)]
    with streams_to(written, written), background_output():
        for number, line in enumerate(lines):
            (sys.stderr if number % 2 else sys.stdout).write(line)
    assert "".join(lines) == written.read_text()


def test_a_full_disk_under_one_stream_does_not_stop_the_other(tmp_path: Path) -> None:
    """The error of stdout is told; stderr, which leads elsewhere, is written."""
    written = tmp_path / "written"
    with streams_to(Path("/dev/full"), written), background_output() as stdout:
        sys.stdout.write("lost\n")
        sys.stderr.write("told\n")
    assert errno.ENOSPC == (stdout.failure and stdout.failure.errno)
    assert "told\n" == written.read_text()
