"""Skip what needs a sandbox on a machine without namespaces, with the reason."""

import functools
import tempfile
from pathlib import Path

import pytest

from sut.results.code_grading.program import SandboxUnavailableError
from tests.sut.code_grading.graded import question, verdicts


@functools.cache
def _refusal() -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            verdicts(Path(folder), [("echo", "print(input())")], question("echo", None, ("1", "1")))
        except SandboxUnavailableError as error:
            return str(error)
    return ""


@pytest.fixture(scope="session", autouse=True)
def _sandbox() -> None:
    """Run one program."""
    if refusal := _refusal():
        pytest.skip(f"no sandbox on this machine: {refusal}")
