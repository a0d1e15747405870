"""TLS and token files that are wrong: one line that names flag and file, exit code 2, on both sides.

A mistake is tried in a process of its own, forked from one that has done the imports.
"""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from coordinator.__main__ import main as coordinator_main
from tests import fleet, secure
from tests.certificates import Authority
from tests.forked import end_of
from worker.__main__ import main as worker_main

NOBODY = "127.0.0.1:9"  # the discard port: nothing may be asked of it
MAINS = {"coordinator": coordinator_main, "worker": worker_main}
CA, CERT, KEY = "--tls-ca {d}/ca.pem", "--tls-cert {d}/worker.pem", "--tls-key {d}/worker.key"
# Of two equal flags the last one counts.
GOOD = f"{CA} {CERT} {KEY} --run-token-file {{d}}/token"
BAD = {
    "no-ca": ("--tls-ca {d}/absent.pem", "--tls-ca|{d}/absent.pem|No such file"),
    "ca-folder": ("--tls-ca {d}", "--tls-ca|{d}|Is a directory"),
    "ca-no-PEM": ("--tls-ca {d}/token", "--tls-ca|{d}/token|no PEM certificate"),
    "ca-empty": ("--tls-ca {d}/empty", "--tls-ca|{d}/empty|no PEM certificate"),
    "no-cert": ("--tls-cert {d}/absent.pem", "--tls-cert|{d}/absent.pem|No such file"),
    "cert-cut": ("--tls-cert {d}/cut.pem", "--tls-cert|{d}/cut.pem|no PEM certificate"),
    "cert-is-key": ("--tls-cert {d}/worker.key", "--tls-cert|{d}/worker.key|no PEM certificate"),
    "no-key": ("--tls-key {d}/absent.key", "--tls-key|{d}/absent.key|No such file"),
    "key-no-PEM": ("--tls-key {d}/token", "--tls-key|{d}/token|no PEM private key"),
    "weak-key": ("--tls-cert {d}/weak.pem --tls-key {d}/weak.key", "--tls-cert|{d}/weak.pem|KEY_TOO_SMALL"),
    "edwards-key": ("--tls-cert {d}/ed.pem --tls-key {d}/ed.key", "--tls-key|{d}/ed.key|Ed25519|gRPC|P-256"),
    "other-key": ("--tls-key {d}/client.key", "--tls-key|{d}/client.key|not the key of {d}/worker.pem"),
    "locked-key": ("--tls-key {d}/locked.key", "--tls-key|{d}/locked.key|encrypted"),
    "expired": (
        "--tls-cert {d}/expired.pem --tls-key {d}/expired.key",
        "--tls-cert|{d}/expired.pem|certificate has expired",
    ),
    "no-token": ("--run-token-file {d}/absent", "--run-token-file|{d}/absent|No such file"),
    "token-short": ("--run-token-file {d}/short", "--run-token-file|{d}/short|15 characters|16"),
    "token-spaced": ("--run-token-file {d}/spaced", "--run-token-file|{d}/spaced|without spaces"),
    "token-lines": ("--run-token-file {d}/lines", "--run-token-file|{d}/lines|one line"),
    "token-binary": ("--run-token-file {d}/binary", "--run-token-file|{d}/binary|printable ASCII"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write good files and bad ones."""
    directory = tmp_path_factory.mktemp("files")
    secure.write_files(directory)
    Authority(directory, "other").issue("expired", "127.0.0.1", valid=timedelta(days=-1))
    (directory / "empty").write_text("")
    (directory / "cut.pem").write_text((directory / "worker.pem").read_text()[:200])
    ours = Authority(directory, "third")
    ours.issue("weak", key=rsa.generate_private_key(65537, 1024))
    ours.issue("ed", key=ed25519.Ed25519PrivateKey.generate())
    key = serialization.load_pem_private_key((directory / "worker.key").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (directory / "locked.key").write_bytes(locked)
    (directory / "short").write_text(f"  {secure.TOKEN[:15]}\n")
    (directory / "spaced").write_text("two words of a secret")
    (directory / "lines").write_text(f"{secure.TOKEN}\n{secure.TOKEN}\n")
    (directory / "binary").write_bytes(bytes(range(128, 160)))
    fleet.write_prompts(directory / "good.parquet", [[3, 7, 9]])
    return directory


def refusal(module: str, flags: str, directory: Path) -> str:
    """Start a worker or a coordinator that will not live; returns the only line, without its name."""
    ended = end_of(MAINS[module], flags.split(), directory)
    assert (2, "") == (ended.code, ended.stdout), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{module}: ")
    assert secure.TOKEN[:15] not in line
    return line.removeprefix(f"{module}: ")


def coordinator_refusal(files: Path, directory: Path, flags: str) -> str:
    """Start a coordinator that must not even create its directory."""
    out = directory / "out"
    base = f"--input-file {files}/good.parquet --workers {NOBODY} --output-dir {out} "
    line = refusal("coordinator", base + flags.format(d=files), directory)
    assert not out.exists()
    return line


@pytest.mark.parametrize(("flags", "says"), BAD.values(), ids=BAD)
def test_bad_file_is_named_on_both_sides(files: Path, tmp_path: Path, flags: str, says: str) -> None:
    """A file that cannot be what its flag says ends worker and coordinator at once, in the same words."""
    both = f"{GOOD} {flags}".format(d=files)
    line = refusal("worker", f"--engine counting {both}", tmp_path)
    assert [] == [word for word in says.format(d=files).split("|") if word not in line], line
    assert line == coordinator_refusal(files, tmp_path, both)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (CERT, "--tls-cert: needs --tls-key too"),
        (f"{CA} {KEY}", "--tls-key: needs --tls-cert too"),
        (CA, "--tls-ca: client certificates need TLS: --tls-cert and --tls-key are missing"),
        (f"--insecure {CERT} {KEY}", "--insecure: means plaintext, but a --tls flag is given"),
        (f"--insecure {CA}", "--insecure: means plaintext, but a --tls flag is given"),
        ("--host 0.0.0.0", "--host: '0.0.0.0' is not a loopback address: give --tls-cert"),
        ("--host [::]", "--host: '[::]' is not a loopback address"),
        ("--metrics-host 0.0.0.0", "--metrics-host: '0.0.0.0' is not a loopback address: give --tls-cert"),
        ("--metrics-port 50051", "--metrics-port: 50051 is one of the ports of --port 50051"),
        ("--replicas 2 --metrics-port 50053", "--metrics-port: 50053 is one of the ports of --port 50051"),
        ("--host 192.0.2.1", "--host: '192.0.2.1' is not a loopback address"),
        ("--host node1", "--host: 'node1' is not a loopback address"),
        (f"--host 0.0.0.0 {CERT}", "--tls-cert: needs --tls-key too"),
    ],
)
def test_worker_flags_that_do_not_go_together(files: Path, tmp_path: Path, flags: str, says: str) -> None:
    """Half a pair, a CA without a certificate, plaintext on the network without --insecure are refused."""
    assert refusal("worker", f"--engine counting {flags.format(d=files)}", tmp_path).startswith(says)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (f"{CA} {CERT}", "--tls-cert: needs --tls-key too"),
        (KEY, "--tls-key: needs --tls-cert too"),
        (f"{CERT} {KEY}", "--tls-cert: needs --tls-ca too: a certificate is only used over TLS"),
    ],
)
def test_coordinator_flags_that_do_not_go_together(
    files: Path, tmp_path: Path, flags: str, says: str
) -> None:
    """Half a pair, and a certificate for a plaintext connection, are refused."""
    assert coordinator_refusal(files, tmp_path, flags).startswith(says)
