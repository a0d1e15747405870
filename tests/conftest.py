"""Fixtures of several rooms."""

from pathlib import Path

import pytest
from hypothesis import settings

from sut.synthetic import write_checkpoint
from tests.worker.engines.greedy import Reference, ask_vllm

# No timed checks: an example that a busy machine takes long for is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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
