"""Child processes of this project: which modules they find."""

import sys

from common.child_process import PACKAGE_ROOT, child_command, child_environment

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
