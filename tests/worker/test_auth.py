"""Authentication of clients other than a coordinator: which calls need no token, and what TLS requires."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION, SERVICE
from tests import fleet, secure
from tests.forked import completed_command

BUF = os.environ.get("BUF") or shutil.which("buf")
needs_buf = pytest.mark.skipif(BUF is None, reason="no buf on PATH or in $BUF (npm package @bufbuild/buf)")
WAIT_S = 60.0
NO_TOKEN = "no run token: --run-token-file is missing"
UNAUTHENTICATED_EXIT = 128  # buf's exit code is 8 times gRPC's status code; UNAUTHENTICATED is 16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates and tokens."""
    directory = tmp_path_factory.mktemp("files")
    secure.write_files(directory)
    return directory


@pytest.fixture(scope="module")
def doors(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, fleet.WorkerProcess]]:
    """Run a worker with a token in plaintext, and one with a token and mutual TLS."""
    with secure.doors(tmp_path_factory.mktemp("fleet"), files, "token", "mutual") as started:
        yield started


def buf(
    worker: fleet.WorkerProcess, files: Path, path: str, *words: str, pair: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run `buf curl` over TLS to its end, with a client certificate or without."""
    command = [str(BUF), "curl", "--protocol", "grpc", "--cacert", str(files / "ca.pem")]
    if pair:
        command += ["--cert", str(files / "client.pem"), "--key", str(files / "client.key")]
    command += [*words, f"https://{worker.address}{path}"]
    return completed_command(command, WAIT_S)


@pytest.mark.parametrize("door", ["token", "mutual"])
def test_people_need_no_token(files: Path, doors: dict[str, fleet.WorkerProcess], door: str) -> None:
    """Health, GetInfo and GetLoad answer without a token while a run with a token is open."""
    worker = doors[door]
    with secure.held(worker, files, door, "holder"), secure.channel(worker, files, door) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        healthy = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60)
        stub = rpc.WorkerStub(channel)
        info = stub.GetInfo(pb.GetInfoRequest(), timeout=60)
        load = stub.GetLoad(pb.GetLoadRequest(), timeout=60)
    assert health_pb2.HealthCheckResponse.SERVING == healthy.status
    assert (worker.process.pid, pb.WORKER_STATE_READY) == (info.pid, info.state)
    assert "holder" == load.run_id


def test_token_is_looked_for_before_the_call_is_read(
    files: Path, doors: dict[str, fleet.WorkerProcess]
) -> None:
    """A call without a token is refused before its first message is read."""
    with secure.channel(doors["token"], files, "token") as channel:
        for messages in ([], [pb.ToWorker(ping=pb.Ping(nonce=1))], [pb.ToWorker(open=pb.Open(run_id="r"))]):
            call = rpc.WorkerStub(channel).Generate(iter(messages), timeout=60)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            status = (caught.value.code(), caught.value.details())
            assert (grpc.StatusCode.UNAUTHENTICATED, NO_TOKEN) == status


def test_readme_makes_certificates_that_work(tmp_path: Path) -> None:
    """The files that the README's openssl commands create work for mutual TLS and as a run token."""
    blocks = re.findall("^```bash\n(.*?)^```$", (fleet.ROOT / "README.md").read_text(), re.M | re.S)
    (block,) = (text for text in blocks if "openssl" in text)
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, check=True, timeout=WAIT_S)
    pair = ["--tls-cert", f"{tmp_path}/node1.pem", "--tls-key", f"{tmp_path}/node1.key"]
    pair += ["--tls-ca", f"{tmp_path}/ca.pem", "--run-token-file", f"{tmp_path}/token"]
    worker = fleet.start_worker(tmp_path / "worker.log", *pair)
    files = [(tmp_path / name).read_bytes() for name in ("ca.pem", "coordinator.key", "coordinator.pem")]
    options = [("grpc.ssl_target_name_override", "node1")]
    try:
        secure.wait_serving(worker)
        credentials = grpc.ssl_channel_credentials(*files)
        with grpc.secure_channel(worker.address, credentials, options=options) as channel:
            refused = secure.refusal_of(channel, secure.bearer(secure.TOKEN))
    finally:
        worker.stop()
    assert ("UNAUTHENTICATED", "wrong run token") == refused


@needs_buf
def test_buf_finds_its_way_over_mutual_tls(files: Path, doors: dict[str, fleet.WorkerProcess]) -> None:
    """With --cacert, --cert and --key `buf curl` lists and calls; Generate needs the token."""
    worker = doors["mutual"]
    listed = buf(worker, files, "", "--list-services")
    asked = buf(worker, files, f"/{SERVICE}/GetInfo")
    opening = {"protocolVersion": PROTOCOL_VERSION, "spec": {"topP": 1, "topK": -1, "maxNewTokens": 8}}
    refused = buf(worker, files, f"/{SERVICE}/Generate", "--data", json.dumps({"open": opening}))
    assert {"grpc.health.v1.Health", SERVICE} <= set(listed.stdout.split()), listed.stderr
    assert worker.process.pid == json.loads(asked.stdout)["pid"]
    assert UNAUTHENTICATED_EXIT == refused.returncode, refused.stderr
    assert "no run token" in refused.stderr


@needs_buf
def test_buf_without_a_certificate_gets_nowhere(files: Path, doors: dict[str, fleet.WorkerProcess]) -> None:
    """With mutual TLS, health does not answer without a client certificate either."""
    done = buf(doors["mutual"], files, "/grpc.health.v1.Health/Check", pair=False)
    assert 0 != done.returncode
    assert "" == done.stdout
