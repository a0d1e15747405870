"""Fixtures of the scripts' tests."""

from pathlib import Path

import pytest

from tests.docker.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh workspace."""
    return Workspace(tmp_path)
