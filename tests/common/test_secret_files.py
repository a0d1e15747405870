"""Secrets in files that every user of the machine can read are warned of, at both ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

from common.tls import SecurityFiles
from coordinator.transport.access import Access
from tests import secure
from worker.auth import AuthInterceptor
from worker.machine.parent_death import NODE_PID


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates and tokens that only this user can read."""
    directory = tmp_path_factory.mktemp("files")
    secure.write_files(directory)
    return directory


def security_files(files: Path, name: str) -> SecurityFiles:
    """Return the files of a worker or a client."""
    return SecurityFiles(files / "ca.pem", files / f"{name}.pem", files / f"{name}.key", files / "token")


@pytest.mark.parametrize(("read", "name"), [(AuthInterceptor.from_files, "worker"), (Access.read, "client")])
@pytest.mark.parametrize(("mode", "is_warned_of"), [(0o644, True), (0o604, True), (0o640, False)])
def test_secret_that_every_user_can_read_is_warned_of(
    files: Path,
    caplog: pytest.LogCaptureFixture,
    read: Callable[[SecurityFiles], object],
    name: str,
    mode: int,
    is_warned_of: bool,
) -> None:
    """The run token and the private key; the line has the flag, the file, its mode and the remedy."""
    paths = {"--tls-key": files / f"{name}.key", "--run-token-file": files / "token"}
    for path in paths.values():
        path.chmod(mode)
    read(security_files(files, name))
    expected = [
        f"{flag}: every user can read {path} (mode {mode:04o}): chmod 600 {path}"
        for flag, path in paths.items()
    ]
    assert (expected if is_warned_of else []) == caplog.messages


def test_node_warns_for_its_replicas(
    files: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node and each of its replicas read the same files; only the node warns."""
    (files / "token").chmod(0o644)
    monkeypatch.setenv(NODE_PID, "1")
    AuthInterceptor.from_files(security_files(files, "worker"))
    assert [] == caplog.messages
