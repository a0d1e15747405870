"""Fixtures of the fault tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.table import Table


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    """Collect the outcome of each case; written to the directory in FAULTS_TABLE."""
    table = Table()
    yield table
    if os.environ.get("FAULTS_TABLE"):
        table.write(Path(os.environ["FAULTS_TABLE"]))
