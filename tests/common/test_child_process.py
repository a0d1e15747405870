"""Child processes of this project: which modules they find, and how they end."""

import signal
import sys

import pytest

from common.child_process import (
    PACKAGE_ROOT,
    child_command,
    child_environment,
    child_process,
    wait_for_exit,
)

ROOT = str(PACKAGE_ROOT)


def test_a_child_does_not_search_the_current_directory() -> None:
    """-P for the child, PYTHONSAFEPATH for its own children; relative entries of PYTHONPATH are left out."""
    assert [sys.executable, "-P", "-m", "worker", "--port", "5"] == child_command("worker", ["--port", "5"])
    expected = {"A": "1", "PYTHONPATH": f"{ROOT}:/plugins", "PYTHONSAFEPATH": "1"}
    assert expected == child_environment({"A": "1", "PYTHONPATH": ":/plugins:.:x"}, site_dirs=["/site"])


def test_a_child_of_a_checkout_finds_the_checkout() -> None:
    """The packages' directory leads PYTHONPATH, but for site-packages, which every interpreter searches."""
    assert ROOT == child_environment({}, site_dirs=["/site"])["PYTHONPATH"]
    assert "" == child_environment({}, site_dirs=[ROOT])["PYTHONPATH"]


@pytest.mark.parametrize(("stop_timeout_s", "signum"), [(0.0, signal.SIGKILL), (20.0, signal.SIGTERM)])
def test_a_child_ends_with_its_block(stop_timeout_s: float, signum: int) -> None:
    """It is killed, or asked to end first; its exit code has been read. A wait for it has a bound."""
    with child_process("tests.coordinator.endless", [], {}, stop_timeout_s) as process:
        assert None is wait_for_exit(process, 0.01)
    assert -signum == process.returncode
