"""`tokenfleet doctor` over real workers: a healthy fleet, and broken ones."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from coordinator.__main__ import main
from protos import worker_pb2 as pb
from protos.hashes import engine_hash
from tests import fleet, secure
from tests.coordinator.doctor.teller import Teller, telling, told_by
from tests.forked import completed, end_of

DOCTOR = [sys.executable, "-m", "coordinator", "doctor"]
END_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[fleet.WorkerProcess]]:
    """Run two workers that nothing is wrong with."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 2) as started:
        yield started


def doctor(addresses: Sequence[str], *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the doctor to its end; without addresses, without --workers."""
    workers = ["--workers", ",".join(addresses)] if addresses else []
    return completed(main, ["doctor", *workers, *flags], END_TIMEOUT_S, **variables)


def failures(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Read the failing rows of a table that must have some: what was seen and what to do, by check."""
    assert (1, "") == (done.returncode, done.stderr), done.stdout
    lines = done.stdout.splitlines()
    rows = {}
    for number, line in enumerate(lines):
        if line.startswith("  FAIL  "):
            check, seen = re.split(" {2,}", line.removeprefix("  FAIL  "), maxsplit=1)
            assert check not in rows, done.stdout
            before, arrow, advice = lines[number + 1].partition("-> ")
            assert ("", "-> ") == (before.strip(), arrow)
            rows[check] = (seen, advice)
    return rows


def copy_of(info: pb.WorkerInfo, **changed: object) -> pb.WorkerInfo:
    """Copy what a worker says of itself, as another process, with changes."""
    copy = pb.WorkerInfo()
    copy.CopyFrom(info)
    for name, value in ({"instance_id": "another"} | changed).items():
        setattr(copy, name, value)
    copy.engine_hash = engine_hash(copy)
    return copy


def test_healthy_fleet_passes(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """Nothing fails, each check has one row with what was seen, and the workers are left as they were."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
    flags = ["--input-file", str(data), "--target-qps", "10", "--output-dir", str(tmp_path / "out")]
    done = doctor([worker.address for worker in two], *flags, "--scenario", "server")
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    lines = done.stdout.splitlines()
    levels = [line[2:6].strip() for line in lines if re.match(r"  (ok|warn|FAIL) ", line)]
    assert {"ok", "warn"} >= set(levels)
    # Sample count, rows and engine are no submission's.
    counts = f"0 fail, {levels.count('warn')} warn, {levels.count('ok')} ok"
    assert f"{counts}; no submission run: 3 deviations above" == lines[-1]
    # What a busy machine or a small disk does not change.
    for row in (
        "reachable +all 2 addresses answer",
        "health +all SERVING",
        "run token +every worker would accept this coordinator",
        "protocol +all have version 4",
        "distinct +2 different processes",
        f"model_hash +{told_by(two[0].address)[0].model_hash}",
        "reported +every worker reports its machine",
        f"readable +10 samples, 3 tokens at most, SHA-256 {sha256(data.read_bytes()).hexdigest()}",
        "fits +ids below 201,088, prompt and 10,240 in 131,072 tokens",
        r"planned rate +estimate: at most 0\.\d\d core for 10 queries/s, 120 frames/s, 12,782 tokens/s",
    ):
        assert re.search(f"^  ok    {row}", done.stdout, re.MULTILINE), (row, done.stdout)
    # On a machine with GPUs the workers report them.
    assert ("not checked: accelerators: no worker reports any" in lines) is not any(
        Path("/dev").glob("nvidia[0-9]*")
    )
    assert not (tmp_path / "out").exists()
    assert ["SERVING"] * 2 == [fleet.health(worker.address) for worker in two]


def test_wrong_model_hash_fails(two: list[fleet.WorkerProcess]) -> None:
    """A worker with another model is named with both hashes."""
    info, host = told_by(two[0].address)
    with telling(Teller(copy_of(info, model_hash="f00d"), host)) as odd:
        rows = failures(doctor([worker.address for worker in two] + [odd]))
    assert {"model_hash"} == set(rows)
    seen, advice = rows["model_hash"]
    good = f"{two[0].address}, {two[1].address} has {info.model_hash}"
    assert f"{odd}: f00d where {good}" == seen
    assert "same model" in advice


def test_model_other_than_asked_for_fails(two: list[fleet.WorkerProcess]) -> None:
    """Workers that agree on a model fail where it is not --model-hash."""
    done = doctor([two[0].address], "--model-hash", "f00d")
    expected = f"{two[0].address}: {told_by(two[0].address)[0].model_hash}, not f00d"
    assert {
        "model as asked": (expected, "copy the model to that machine again, or correct --model-hash")
    } == failures(done)


def test_dead_worker_fails(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """A worker that was killed is named, and the others are still judged."""
    dead = fleet.start_worker(tmp_path / "dead.log")
    fleet.wait_serving(dead)
    dead.process.kill()
    dead.process.wait(60)
    done = doctor([two[0].address, dead.address])
    start = "start the worker on that machine, or correct the port in --workers"
    assert {"reachable": (f"{dead.address}: connection refused", start)} == failures(done)
    assert "  ok    health" in done.stdout


def test_stopped_worker_fails_in_time(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """A worker that takes connections and says nothing is named after --timeout-s."""
    stopped = fleet.start_worker(tmp_path / "stopped.log")
    try:
        fleet.wait_serving(stopped)
        stopped.process.send_signal(signal.SIGSTOP)
        rows = failures(doctor([two[0].address, stopped.address], "--timeout-s", "2"))
    finally:
        stopped.process.send_signal(signal.SIGCONT)
        stopped.stop()
    seen, advice = rows["reachable"]
    assert f"{stopped.address}: does not answer all calls within 2 s (--timeout-s)" == seen
    assert "stopped or overloaded" in advice


def test_version_mismatch_fails(two: list[fleet.WorkerProcess]) -> None:
    """A worker of another protocol, which does not know GetHost either, is named with both versions."""
    info, _ = told_by(two[0].address)
    with telling(Teller(copy_of(info, protocol_version=99))) as odd:
        done = doctor([two[0].address, odd])
    seen, advice = failures(done)["protocol"]
    assert f"{odd}: version 99, this coordinator has 4" == seen
    assert "install the same version of tokenfleet" in advice
    assert re.search(f"^  warn  reported +{odd}: does not report its machine$", done.stdout, re.MULTILINE)


def test_closed_port_and_wrong_name_fail(two: list[fleet.WorkerProcess]) -> None:
    """A port where nobody listens is told from a name that nobody has; each says what to do."""
    closed = f"127.0.0.1:{fleet.free_port()}"
    done = doctor([two[0].address, closed])
    start = "start the worker on that machine, or correct the port in --workers"
    assert {"reachable": (f"{closed}: connection refused", start)} == failures(done)
    nobody = failures(doctor(["no-such-host.invalid:50051"]))
    assert nobody["reachable"][0].startswith("no-such-host.invalid:50051: no such name: ")
    assert "correct --workers, or DNS or /etc/hosts on this machine" == nobody["reachable"][1]


@pytest.mark.parametrize("ahead_s", [5.0, -5.0])
def test_clock_that_is_off_fails(two: list[fleet.WorkerProcess], ahead_s: float) -> None:
    """A worker whose system clock is seconds off is named with the offset, in its direction."""
    info, host = told_by(two[0].address)
    with telling(Teller(copy_of(info), host, ahead_s)) as odd:
        rows = failures(doctor([two[0].address, odd]))
    assert {"clock"} == set(rows)
    seen, advice = rows["clock"]
    told = re.fullmatch(rf"{odd}: ([+-][0-9.]+) s \(\+-([0-9.]+)\) against ours", seen)
    assert told, seen
    assert abs(float(told[1]) - ahead_s) <= float(told[2]) + 0.001
    assert "NTP" in advice


def test_clocks_of_one_machine_agree(two: list[fleet.WorkerProcess]) -> None:
    """Real workers on this machine are found to have its clock, within what the way leaves open."""
    done = doctor([worker.address for worker in two])
    told = re.search(r"clock +the farthest is ([+-][0-9.]+) s \(\+-([0-9.]+)\)", done.stdout)
    assert told, done.stdout
    assert abs(float(told[1])) <= float(told[2]) + 0.001


def test_node_stands_for_its_replicas(two: list[fleet.WorkerProcess]) -> None:
    """Each replica is checked at its own port, but one given up, which is named with the reason alone."""
    ports = [int(worker.address.rpartition(":")[2]) for worker in two]
    gone = fleet.free_port()
    node = pb.WorkerInfo(protocol_version=4, state=pb.WORKER_STATE_DEGRADED)
    node.replicas.add(port=ports[0], state=pb.WORKER_STATE_READY)
    node.replicas.add(port=ports[1], state=pb.WORKER_STATE_READY)
    node.replicas.add(port=gone, state=pb.WORKER_STATE_FAILED, reason="exit code 1, 5 times")
    with telling(Teller(node)) as address:
        done = doctor([address])
    rows = failures(done)
    assert {"replicas"} == set(rows)
    assert f"{address} replica 2: FAILED: exit code 1, 5 times" == rows["replicas"][0]
    assert "distinct          2 different processes" in done.stdout


def test_held_worker_fails(tmp_path: Path) -> None:
    """A worker that another run holds is named with that run, which goes on."""
    secure.write_files(tmp_path)
    token = ("--run-token-file", str(tmp_path / "token"))
    with (
        secure.doors(tmp_path, tmp_path, "token") as doors,
        secure.held(doors["token"], tmp_path, "token", "the-first-run"),
    ):
        rows = failures(doctor([doors["token"].address], *token))
    assert {"free"} == set(rows)
    assert f"{doors['token'].address}: run the-first-run holds it" == rows["free"][0]


def test_doors_that_stay_shut_are_told(tmp_path: Path) -> None:
    """Missing TLS and a missing or wrong run token fail before a run; who belongs passes."""
    secure.write_files(tmp_path)
    with secure.doors(tmp_path, tmp_path, "token", "mutual") as doors:
        token, mutual = doors["token"].address, doors["mutual"].address
        keys = secure.KEYS["mutual"].format(d=tmp_path).split()
        assert 0 == doctor([mutual], *keys).returncode
        missing = f"{token}: no run token: --run-token-file is missing"
        assert missing == failures(doctor([token]))["run token"][0]
        wrong = failures(doctor([token], "--run-token-file", str(tmp_path / "other-token")))
        assert f"{token}: wrong run token" == wrong["run token"][0]
        shut = failures(doctor([mutual]))
        assert f"{mutual}: the worker speaks TLS: --tls-ca is missing" == shut["reachable"][0]


def test_proxy_is_not_gone_through(two: list[fleet.WorkerProcess]) -> None:
    """A proxy that the environment names, and that is not there, keeps nobody from a worker."""
    nobody = f"http://127.0.0.1:{fleet.free_port()}"
    variables = {"http_proxy": nobody, "https_proxy": nobody, "grpc_proxy": nobody, "no_proxy": ""}
    done = doctor([two[0].address], **variables)
    assert 0 == done.returncode, done.stdout


def test_data_set_that_does_not_fit_fails(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """Prompts outside the vocabulary and a file that is not there are rows, not the end."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7], [3, 201_088]])
    seen, advice = failures(doctor([two[0].address], "--input-file", str(data)))["fits"]
    assert f"--input-file {data}: row 1: token 201088 is outside 0 <= id < 201088" == seen
    assert "correct --input-file, or the workers' --model: its vocabulary differs" == advice
    absent = tmp_path / "absent.parquet"
    seen, _ = failures(doctor([two[0].address], "--input-file", str(absent)))["readable"]
    assert f"--input-file {absent}: cannot be read: No such file or directory" == seen


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_interrupted_doctor_says_so(signum: signal.Signals) -> None:
    """A signal while a worker is waited for ends it with one line and 128 plus the signal's number."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(END_TIMEOUT_S)
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        process = subprocess.Popen(
            [*DOCTOR, "--workers", address, "--timeout-s", str(END_TIMEOUT_S)],
            cwd=fleet.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            connection, _ = listening.accept()
            connection.close()
            process.send_signal(signum)
            out, err = process.communicate(timeout=END_TIMEOUT_S / 2)
        finally:
            process.kill()
    line = f"coordinator: interrupted by {signum.name}\n"
    assert (128 + signum, "", line) == (process.returncode, out, err)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("", "--workers"),
        ("--workers 127.0.0.1", "--workers|'127.0.0.1'|host:port"),
        ("--workers http://127.0.0.1:9", "--workers|'http://127.0.0.1:9'|host:port|'/'"),
        ("--workers ::1:9", "--workers|'::1:9'|host:port|[::1]:50051"),
        ("--workers a:1 --timeout-s 0", "--timeout-s|0.0|above 0"),
        ("--workers a:1 --timeout-s nan", "--timeout-s|nan|above 0"),
        ("--workers a:1 --target-qps -1", "--target-qps|-1.0|above 0"),
        ("--workers a:1 --model-hsah x", "--model-hsah"),
        ("--workers a:1 --tls-ca {d}/absent.pem", "--tls-ca|{d}/absent.pem|No such file"),
        ("--workers a:1 --generation-config {d}/absent.json", "--generation-config|{d}/absent.json"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, flags: str, says: str) -> None:
    """A bad flag ends the doctor at once with one line, exit code 2, and no table."""
    ended = end_of(main, ["doctor", *flags.format(d=tmp_path).split()], tmp_path)
    assert (2, "", 1) == (ended.code, ended.stdout, len(ended.stderr.splitlines())), ended.stderr
    assert [] == [word for word in says.format(d=tmp_path).split("|") if word not in ended.stderr]
