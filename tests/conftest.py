"""Fixtures of several rooms."""

from pathlib import Path

import pytest

from sut.synthetic import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tiny seeded gpt-oss."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    write_checkpoint(path)
    return path
