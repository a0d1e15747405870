"""Fixtures of several rooms."""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from common.signals import SIGNALS

if TYPE_CHECKING:
    from tests.worker.engines.greedy import Reference

# A file system in memory, if there is one.
SHARED_MEMORY = Path("/dev/shm")
# All tests together write half of it.
TESTS_BYTES = 1 << 30

# The same examples in each run, which thus fails for a change alone. No timed checks: an example that a busy
# machine takes long for is no failure.
settings.register_profile("repeated", derandomize=True, deadline=None)
settings.load_profile("repeated")


def pytest_configure() -> None:
    """Give child processes the default reaction to signals, also if this process was started by nohup.

    And let pytest create temporary directories in memory: a busy disk may not answer for seconds.
    """
    logging.getLogger("asyncio").addFilter(is_no_remainder_of_grpc)
    if free_memory_bytes() >= 4 * TESTS_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))
    for signum in SIGNALS:
        if signal.getsignal(signum) is signal.SIG_IGN:
            # exec resets a handler to the default, and leaves an ignored signal ignored.
            signal.signal(signum, lambda *_: None)


def is_no_remainder_of_grpc(record: logging.LogRecord) -> bool:
    """Whether an error of asyncio is not gRPC's about the closed event loop of an earlier test."""
    error = record.exc_info[1] if record.exc_info else None
    return "PollerCompletionQueue" not in record.getMessage() or str(error) != "Event loop is closed"


def free_memory_bytes() -> int:
    """Return how much the file system in memory holds, or 0 if tests cannot run programs from it."""
    if not SHARED_MEMORY.is_dir() or not os.access(SHARED_MEMORY, os.W_OK):
        return 0
    found = os.statvfs(SHARED_MEMORY)
    return 0 if found.f_flag & os.ST_NOEXEC else found.f_bavail * found.f_frsize


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of vLLM first: the first process of xdist then gets them all.

    Any other process would spend 13 s of CPU on importing vLLM, and 20 s on the reference answers.
    """
    items.sort(key=lambda item: item.get_closest_marker("vllm") is None)


@pytest.fixture(autouse=True)
def process_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokenfleet ...` changes its process and what child processes inherit; undo that after each test."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    # A variable that is absent now will be absent again.
    monkeypatch.setenv("PYTHONSAFEPATH", os.environ.get("PYTHONSAFEPATH", ""))
    if not os.environ["PYTHONSAFEPATH"]:
        monkeypatch.delenv("PYTHONSAFEPATH")


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A directory in memory, also where that has little room: a busy disk may not answer for seconds."""
    is_usable = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if is_usable else None) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny seeded gpt-oss."""
    # Imported where it is needed: it imports pandas, and the process that distributes the tests has none.
    from sut.synthetic import write_checkpoint

    path = tmp_path_factory.mktemp("model") / "tiny"
    write_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def reference(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> "Reference":
    """Generate the reference answers with vLLM's LLM class, once per session."""
    from tests.worker.engines.greedy import ask_vllm

    return ask_vllm(checkpoint, tmp_path_factory.mktemp("reference") / "answers.json")
