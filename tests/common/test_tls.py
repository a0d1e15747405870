"""TLS and the run token before a run: who is let in, and who is told what, with exit code 2."""

import subprocess
from collections.abc import Iterator
from concurrent import futures
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from tests import fleet, secure
from tests.certificates import Authority

# Far longer than any case may take: a door that stays shut is told at once.
READY_TIMEOUT_S = "600"
END_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates, tokens and ten prompts."""
    directory = tmp_path_factory.mktemp("files")
    secure.write_files(directory)
    fleet.write_prompts(directory / "good.parquet", [[3, 7, i] for i in range(10)])
    return directory


@pytest.fixture(scope="module")
def doors(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, fleet.WorkerProcess]]:
    """Run one worker for each kind of door."""
    with secure.doors(tmp_path_factory.mktemp("fleet"), files, *secure.DOORS) as started:
        yield started


def coordinate(address: str, files: Path, out: Path, flags: str) -> subprocess.CompletedProcess[str]:
    """Run a coordinator against one address."""
    words = [
        "--workers",
        address,
        "--ready-timeout-s",
        READY_TIMEOUT_S,
        "--accuracy",
        "--max-new-tokens",
        "8",
    ]
    words += flags.format(d=files).split()
    return fleet.coordinate([], files / "good.parquet", out, *words, timeout_s=END_TIMEOUT_S)


def check_refused(done: subprocess.CompletedProcess[str], out: Path, *says: str) -> None:
    """Check exit code 2, the words of the reason, that no secret is in it, and that there is no output."""
    lines = fleet.without_first_lines(done.stderr).splitlines()
    assert (2, 1) == (done.returncode, len(lines)), done.stderr
    assert lines[0].startswith("coordinator: --workers: ")
    assert [] == [word for word in says if word not in lines[0]], lines[0]
    assert [] == [secret for secret in (secure.TOKEN, secure.OTHER_TOKEN) if secret in lines[0]]
    assert "" == done.stdout
    assert not out.exists()


@pytest.mark.parametrize("door", secure.KEYS)
def test_who_belongs_is_let_in(
    files: Path, doors: dict[str, fleet.WorkerProcess], tmp_path: Path, door: str
) -> None:
    """With what the worker asks for, a run is VALID and its tokens are exact."""
    done = coordinate(doors[door].address, files, tmp_path / "out", secure.KEYS[door])
    assert 0 == done.returncode, done.stderr
    entries = fleet.accuracy_entries(tmp_path / "out" / "offline" / "accuracy")
    # The counting engine answers [3, 7, i] with i + 1, i + 2 and the stop id.
    expected = {i: [i + 1, i + 2, fleet.STOP] for i in range(10)}
    assert expected == {int(str(e["qsl_idx"])): fleet.tokens_of(str(e["data"])) for e in entries}


def test_certificate_that_nobody_asks_for_does_no_harm(
    files: Path, doors: dict[str, fleet.WorkerProcess], tmp_path: Path
) -> None:
    """A client certificate may be given for a worker that asks for none."""
    done = coordinate(doors["tls"].address, files, tmp_path / "out", secure.PAIR_KEY)
    assert 0 == done.returncode, done.stderr


STRANGE_PAIR = "--tls-cert {d}/strange-client.pem --tls-key {d}/strange-client.key"
NO_TOKEN = "UNAUTHENTICATED|this worker has no run token"
REFUSED = {
    "plaintext-to-TLS": ("tls", "", "the worker speaks TLS|--tls-ca is missing"),
    "plaintext-to-mutual-TLS": ("mutual", "", "the worker speaks TLS|--tls-ca is missing"),
    "TLS-to-plaintext": ("plain", secure.TLS_KEY, "--tls-ca is given|speaks plaintext"),
    "wrong-CA": ("tls", "--tls-ca {d}/strangers.pem", "not accepted|issuer certificate"),
    "another-name": ("other-name", secure.TLS_KEY, "not accepted|not valid for '127.0.0.1'"),
    "no-client-certificate": ("mutual", secure.TLS_KEY, "client certificate|--tls-cert|missing"),
    "strange-client": ("mutual", f"{secure.TLS_KEY} {STRANGE_PAIR}", "refuses our client certificate"),
    "wrong-token": ("token", "--run-token-file {d}/other-token", "UNAUTHENTICATED|wrong run token"),
    "no-token": ("token", "", "UNAUTHENTICATED: no run token|--run-token-file is missing"),
    "token-for-nobody": ("plain", "--run-token-file {d}/token", NO_TOKEN),
    "no-token-over-TLS": (
        "mutual",
        secure.PAIR_KEY,
        "UNAUTHENTICATED: no run token|--run-token-file is missing",
    ),
}


@pytest.mark.parametrize(("door", "flags", "says"), REFUSED.values(), ids=REFUSED)
def test_who_does_not_belong_is_told_at_once(
    files: Path, doors: dict[str, fleet.WorkerProcess], tmp_path: Path, door: str, flags: str, says: str
) -> None:
    """One line with the worker's address, exit code 2, nothing written; the worker serves and is free."""
    worker = doors[door]
    done = coordinate(worker.address, files, tmp_path / "out", flags)
    check_refused(done, tmp_path / "out", worker.address, *says.split("|"))
    secure.check_free(worker, files, door)


def test_second_coordinator_is_told_whose_run_it_is(
    files: Path, doors: dict[str, fleet.WorkerProcess], tmp_path: Path
) -> None:
    """With certificate and token in order a held worker is still refused, by the name of its run."""
    worker = doors["mutual"]
    with secure.held(worker, files, "mutual", "the-first-run"):
        done = coordinate(worker.address, files, tmp_path / "out", secure.KEYS["mutual"])
    check_refused(done, tmp_path / "out", worker.address, "the-first-run")
    secure.check_free(worker, files, "mutual")


def test_one_bad_worker_of_many_is_named_while_others_load(
    files: Path, doors: dict[str, fleet.WorkerProcess], tmp_path: Path
) -> None:
    """The run ends for the worker that will never let it in, and does not wait for those that load."""
    loading = f"127.0.0.1:{fleet.free_port()}"
    done = coordinate(f"{loading},{doors['tls'].address}", files, tmp_path / "out", "")
    check_refused(done, tmp_path / "out", doors["tls"].address, "speaks TLS")
    assert loading not in done.stderr


def test_expired_certificate_is_told(files: Path, tmp_path: Path) -> None:
    """A certificate that ran out while its worker served is named with the reason.

    A worker does not start with one; here a bare gRPC server shows it.
    """
    ours = Authority(tmp_path, "ours")
    expired = ours.issue("expired", "127.0.0.1", valid=timedelta(days=-1))
    pairs = [(expired.key.read_bytes(), expired.cert.read_bytes())]
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pairs))
    server.start()
    try:
        done = coordinate(f"127.0.0.1:{port}", files, tmp_path / "out", f"--tls-ca {ours.path}")
    finally:
        server.stop(grace=None).wait(timeout=60)
    check_refused(done, tmp_path / "out", f"127.0.0.1:{port}", "not accepted", "certificate has expired")
