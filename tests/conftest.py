"""Fixtures of several rooms."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from common.signals import SIGNALS
from sut.synthetic import write_checkpoint
from tests.worker.engines.greedy import Reference, ask_vllm

# No timed checks: an example that a busy machine takes long for is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Give child processes the default reaction to signals, also if this process was started by nohup."""
    for signum in SIGNALS:
        if signal.getsignal(signum) is signal.SIG_IGN:
            # exec resets a handler to the default, and leaves an ignored signal ignored.
            signal.signal(signum, lambda *_: None)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny seeded gpt-oss."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    write_checkpoint(path)
    return path


@pytest.fixture(scope="session")
def reference(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Generate the reference answers with vLLM's LLM class, once per session."""
    return ask_vllm(checkpoint, tmp_path_factory.mktemp("reference") / "answers.json")
