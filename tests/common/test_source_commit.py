"""The commit of a source tree, as git itself names it."""

import os
import subprocess
from pathlib import Path

import pytest

from common.source_commit import read_commit


def git(directory: Path, *words: str) -> str:
    """Run git."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a work tree with one commit and a tag."""
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    git(tmp_path, "tag", "v1")
    return tmp_path


def test_the_commit_is_that_of_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is HEAD, neither a tag nor what GIT_DIR names; untracked files do not matter."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    (tree / "untracked").touch()
    commit = read_commit(tree)
    monkeypatch.delenv("GIT_DIR")
    assert git(tree, "rev-parse", "HEAD") == commit


def test_a_changed_tree_says_so(tree: Path) -> None:
    """A tracked file that differs adds `-dirty`."""
    (tree / "file").write_text("b")
    assert f"{git(tree, 'rev-parse', 'HEAD')}-dirty" == read_commit(tree)


def test_a_folder_of_a_foreign_tree_has_no_commit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages installed below somebody's work tree, and machines without git, have no commit."""
    (tree / "site-packages").mkdir()
    assert "" == read_commit(tree / "site-packages")
    monkeypatch.setenv("PATH", os.devnull)
    assert "" == read_commit(tree)
