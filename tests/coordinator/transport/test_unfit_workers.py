"""Workers that a run cannot use: one line that names them, exit code 2, and workers left as they were."""

import queue
import subprocess
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION, SERVICE
from tests import fleet

VOCAB_SIZE = 201_088  # gpt-oss's, which the counting engine claims


class Fleet(NamedTuple):
    """Two workers that should never get a request, but for the one run that is in order."""

    usual: fleet.WorkerProcess
    short: fleet.WorkerProcess
    """Has --max-model-len 64."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Run the two workers."""
    directory = tmp_path_factory.mktemp("fleet")
    usual = fleet.start_worker(directory / "usual.log")
    short = fleet.start_worker(directory / "short.log", "--max-model-len", "64")
    try:
        fleet.wait_serving(usual)
        fleet.wait_serving(short)
        yield Fleet(usual, short)
    finally:
        usual.stop()
        short.stop()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write ten prompts of three tokens."""
    return fleet.write_prompts(tmp_path / "good.parquet", [[3, 7, i] for i in range(10)])


def check_refused(done: subprocess.CompletedProcess[str], out: Path, *says: str) -> None:
    """Check exit code 2, the words of the only line besides the log's, and that there is no output."""
    lines = fleet.without_first_lines(done.stderr).splitlines()
    assert (2, 1) == (done.returncode, len(lines)), done.stderr
    assert lines[0].startswith("coordinator: ")
    assert [] == [word for word in says if word not in lines[0]], lines[0]
    assert "" == done.stdout
    assert not out.exists()


def check_idle(worker: fleet.WorkerProcess) -> None:
    """Check that a worker serves and that no run holds it."""
    assert "SERVING" == fleet.health(worker.address)
    with grpc.insecure_channel(worker.address) as channel:
        load = rpc.WorkerStub(channel).GetLoad(pb.GetLoadRequest(), timeout=60)
    assert fleet.holds_nothing(load), load


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--input-file {d}/vocabulary.parquet", "--input-file|row 1|201088|0 <= id < 201088"),
        # A prompt of 3 tokens and an answer of 62 are 65.
        ("--workers {short} --max-new-tokens 62", "good.parquet|3|62|max_model_len 64"),
        ("--workers {short}", "good.parquet|3|10240|max_model_len 64"),
        ("--workers {usual},localhost:{port}", "--workers|{usual}|localhost:{port}|same"),
        ("--workers {usual},{short} --max-new-tokens 9", "{usual}|{short}|max_model_len|131072|64"),
        ("--output-dir {d}/good.parquet/out", "--output-dir|{d}/good.parquet/out|Not a directory"),
    ],
    ids=["vocabulary", "length", "default-budget", "same-worker", "differ", "no-directory"],
)
def test_what_the_workers_cannot_serve_is_named(
    data: Path, two: Fleet, tmp_path: Path, flags: str, says: str
) -> None:
    """A run that does not fit the workers, or nowhere, leaves them serving and empty."""
    fleet.write_prompts(tmp_path / "vocabulary.parquet", [[3, 7], [3, VOCAB_SIZE]])
    names = {
        "d": str(tmp_path),
        "usual": two.usual.address,
        "short": two.short.address,
        "port": two.usual.address.rpartition(":")[2],
    }
    done = fleet.coordinate([two.usual], data, tmp_path / "out", *flags.format(**names).split())
    check_refused(done, tmp_path / "out", *says.format(**names).split("|"))
    check_idle(two.usual)
    check_idle(two.short)


def test_unreachable_worker_is_named_with_the_patience_it_had(data: Path, two: Fleet, tmp_path: Path) -> None:
    """A worker that does not answer ends the run after --ready-timeout-s; no other one is named."""
    nobody = f"127.0.0.1:{fleet.free_port()}"
    flags = ["--workers", f"{two.usual.address},{nobody}", "--ready-timeout-s", "1.5"]
    done = fleet.coordinate([two.usual], data, tmp_path / "out", *flags)
    check_refused(done, tmp_path / "out", "--workers", nobody, "1.5 s", "--ready-timeout-s", "UNAVAILABLE")
    assert two.usual.address not in done.stderr


def test_worker_held_by_another_run_is_named_with_that_run(data: Path, two: Fleet, tmp_path: Path) -> None:
    """A second coordinator is refused, is told whose run holds the worker, and leaves that run alone."""
    opening = pb.Open(
        protocol_version=PROTOCOL_VERSION,
        run_id="the-first-run",
        spec=pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8),
    )
    outgoing: queue.SimpleQueue[pb.ToWorker | None] = queue.SimpleQueue()
    outgoing.put(pb.ToWorker(open=opening))
    with grpc.insecure_channel(two.usual.address) as channel:
        incoming = rpc.WorkerStub(channel).Generate(iter(outgoing.get, None), timeout=60)
        try:
            assert next(incoming).HasField("opened")
            done = fleet.coordinate([two.usual], data, tmp_path / "out", "--max-new-tokens", "8")
            check_refused(done, tmp_path / "out", "--workers", two.usual.address, "the-first-run")
            outgoing.put(pb.ToWorker(ping=pb.Ping(nonce=5)))
            assert 5 == next(incoming).pong.nonce
        finally:
            outgoing.put(None)
        assert [] == list(incoming)


class StrangeWorker(rpc.WorkerServicer):
    """Speaks a protocol that no coordinator knows."""

    def GetInfo(self, request: pb.GetInfoRequest, context: object) -> pb.WorkerInfo:  # noqa: N802
        """Answer what this worker is."""
        return pb.WorkerInfo(protocol_version=99, instance_id="strange")

    def GetLoad(self, request: pb.GetLoadRequest, context: object) -> pb.WorkerLoad:  # noqa: N802
        """Answer that there is nothing to do."""
        return pb.WorkerLoad()

    def Generate(self, request_iterator: object, context: object) -> Iterator[pb.FromWorker]:  # noqa: N802
        """End at once."""
        return iter([])


def test_worker_of_another_protocol_is_named_with_both_versions(data: Path, tmp_path: Path) -> None:
    """A worker of protocol 99 is refused before a stream is opened."""
    serving = health.HealthServicer()
    serving.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(serving, server)
    rpc.add_WorkerServicer_to_server(StrangeWorker(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        done = fleet.coordinate([], data, tmp_path / "out", "--workers", address)
    finally:
        server.stop(grace=0).wait(timeout=60)
    check_refused(done, tmp_path / "out", "--workers", address, "99", f"{PROTOCOL_VERSION}")


def test_earlier_run_stays_unless_overwritten(data: Path, two: Fleet, tmp_path: Path) -> None:
    """A directory with a run is left as it is; --overwrite replaces what the run wrote, and nothing else."""
    out, run_dir = tmp_path / "out", tmp_path / "out" / "offline" / "accuracy"
    flags = ["--accuracy", "--max-new-tokens", "8"]
    first = fleet.coordinate([two.usual], data, out, *flags)
    assert 0 == first.returncode, first.stderr
    notes = run_dir / "notes.txt"
    notes.write_text("mine")
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}

    refused = fleet.coordinate([two.usual], data, out, *flags)
    (line,) = fleet.without_first_lines(refused.stderr).splitlines()
    assert (2, "") == (refused.returncode, refused.stdout)
    assert line.startswith(f"coordinator: --output-dir: {run_dir} exists")
    assert before == {path.name: path.read_bytes() for path in run_dir.iterdir()}

    kept = fleet.coordinate([two.usual], data, out, *flags, "--overwrite")
    assert (2, "") == (kept.returncode, kept.stdout)
    assert "'notes.txt'" in kept.stderr
    assert before == {path.name: path.read_bytes() for path in run_dir.iterdir()}

    notes.unlink()
    replaced = fleet.coordinate([two.usual], data, out, *flags, "--overwrite")
    assert 0 == replaced.returncode, replaced.stderr
    assert set(before) - {"notes.txt"} == {path.name for path in run_dir.iterdir()}
    assert str(fleet.run_json(run_dir)["run_id"]) not in before["run.json"].decode()
