"""Runs that several tests copy and change."""

import shutil
from pathlib import Path

import pytest

from tests.fleet import workers
from tests.sut.submission.small_runs import WORKER_FLAGS, make_repository, make_runs


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the source repository of the runs."""
    return make_repository(tmp_path_factory.mktemp("source") / "repository")


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Make the runs, once per session."""
    directory = tmp_path_factory.mktemp("runs")
    with workers(directory, 2, *WORKER_FLAGS) as fleet:
        return make_runs(directory, fleet, repository)


@pytest.fixture
def results(made_runs: Path, tmp_path: Path) -> Path:
    """Copy the runs, for a test that changes them; `origin` is a link to the runs themselves."""
    copy = Path(shutil.copytree(made_runs, tmp_path / "results"))
    (copy / "origin").symlink_to(made_runs)
    return copy
