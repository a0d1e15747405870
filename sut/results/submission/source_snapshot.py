"""The source snapshot: the files of the commit that ran, from the Git repository of the source tree."""

import os
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

from common.flags import FlagError

SOURCE_FLAG = "--source"
COMMIT_FLAG = "--commit"
DIRTY_SUFFIX = "-dirty"
_COMMIT = re.compile("[0-9a-f]{40}")
_ARCHIVE_TIMEOUT_S = 120.0
_MAX_REASON_LEN = 400


def check_source(repository: Path, commits: list[str], given: str | None) -> str:
    """Return the one commit of all runs, which the repository must have.

    Args:
        repository: A Git work tree.
        commits: Revisions that the runs recorded; empty for an installed package or a container.
        given: The user's statement for runs that recorded none.

    Raises:
        FlagError: The runs have no revision, several, or one with changes; or the repository lacks it.
    """
    known = list(dict.fromkeys(commit or given or "" for commit in commits))
    if not all(known) or not known:
        reason = "a run from an installed package or a container has no commit; pip install -e . keeps it"
        raise FlagError(COMMIT_FLAG, f"missing: {reason}")
    if len(known) > 1:
        raise FlagError(SOURCE_FLAG, f"the runs have several commits: {', '.join(known)}")
    commit = known[0]
    if commit.endswith(DIRTY_SUFFIX):
        raise FlagError(SOURCE_FLAG, f"the runs have the commit {commit}: files differed from it")
    if not _COMMIT.fullmatch(commit):
        raise FlagError(COMMIT_FLAG, f"{commit[:100]!r} is not 40 hexadecimal digits")
    with tempfile.TemporaryFile() as nothing:
        _git(repository, "cat-file", "-e", f"{commit}^{{commit}}", output=nothing.fileno())
    return commit


def write_snapshot(repository: Path, commit: str, directory: Path) -> None:
    """Write the files of a commit to a new directory.

    Raises:
        FlagError: The repository does not have the commit.
        OSError: A file cannot be written.
    """
    with tempfile.TemporaryFile() as archive:
        _git(repository, "archive", "--format=tar", commit, output=archive.fileno())
        archive.seek(0)
        with tarfile.open(fileobj=archive) as files:
            files.extractall(directory, filter="data")


def _git(repository: Path, *words: str, output: int) -> None:
    # The tree may belong to another user; GIT_DIR and the like may name another repository.
    command = ["git", "--no-optional-locks", "-c", f"safe.directory={repository}", "-C", str(repository)]
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        subprocess.run(
            [*command, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=_ARCHIVE_TIMEOUT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        reason = f"git {words[0]} {words[-1]}: {(told or ['failed'])[0][:_MAX_REASON_LEN]}"
        raise FlagError(SOURCE_FLAG, reason, repository) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise FlagError(SOURCE_FLAG, f"git {words[0]}: {error}", repository) from error
