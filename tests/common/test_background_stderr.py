"""Stderr that is written on a thread: text arrives in order and whole, whatever was written before it."""

import os
import sys

from common.standard_streams import BackgroundStderr


def test_empty_text_ends_nothing() -> None:
    """Writing nothing, as a node does for half a line of a replica, ends nothing that follows."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as original, BackgroundStderr(original) as stderr:
        stderr.write("")
        assert stderr.drain(20)
        sys.stderr.write("after it\n")
        assert stderr.drain(20)
    with os.fdopen(reader) as written:
        assert "after it\n" == written.read()
