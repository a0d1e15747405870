"""What a person sees of a run takes nothing from it."""

from pathlib import Path
from typing import Any, cast

import pytest

import coordinator.recording.progress
from coordinator.recording.progress import Progress


def test_a_full_disk_under_the_lines_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that cannot be written are lost, and nothing else; /dev/full takes none."""
    monkeypatch.setattr(coordinator.recording.progress, "LINE_INTERVAL_S", 0.0)
    monkeypatch.setattr(Progress, "line", lambda _: "a line")
    # Without a buffer, nothing is left to be written when it is closed.
    with Path("/dev/full").open("wb", buffering=0) as full:
        progress = Progress(cast(Any, None), lambda: None, cast(Any, _Text(full)))
        progress.tick()
        progress.end()
        with pytest.raises(OSError, match="No space left"):
            full.write(b"a line")


class _Text:
    """Text of a binary file, as stderr is."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def isatty(self) -> bool:
        """Say that it is none."""
        return False

    def write(self, text: str) -> None:
        """Write it through."""
        self._out.write(text.encode())

    def flush(self) -> None:
        """Have nothing to flush."""
