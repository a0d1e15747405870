"""Many simulated workers in one process serve a run like workers in separate processes."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.fleet.simulated import main
from tests import fleet
from tests.bench.outliving import run_bench, wait_until
from tests.forked import completed_command, end_of
from tests.test_one_request import check_tokens

COSTS = "--prefill-tokens-per-s 1e5 --step-base-ms 1 --step-per-seq-us 20"


@contextmanager
def simulated_fleet(directory: Path, num: int) -> Iterator[tuple[subprocess.Popen[bytes], list[str]]]:
    """Run a fleet inside the block, which begins once the fleet prints `ready`."""
    base, log = fleet.free_port(num), directory / "fleet.log"
    command = ["bench.fleet.simulated", "--workers", str(num), "--port-base", str(base), *COSTS.split()]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", *command], cwd=fleet.ROOT, stdout=out, stderr=out)
    try:
        wait_until(lambda: process.poll() is not None or log.read_text() == "ready\n")
        assert process.poll() is None, log.read_text()
        yield process, [f"127.0.0.1:{base + index}" for index in range(num)]
    finally:
        process.kill()
        process.wait(60)


def test_each_worker_of_the_fleet_serves(tmp_path: Path) -> None:
    """`ready`: all are SERVING; a run over three gets every token, some from each; SIGTERM: exit code 0."""
    prompts = fleet.counting_prompts(70)
    data = fleet.write_prompts(tmp_path / "data.parquet", prompts)
    conf = fleet.write_conf(tmp_path / "user.conf")
    with simulated_fleet(tmp_path, 3) as (process, addresses):
        assert ["SERVING"] * 3 == [fleet.health(address) for address in addresses]
        command = [sys.executable, "-m", "coordinator", "--input-file", str(data), "--accuracy"]
        command += ["--workers", ",".join(addresses), "--output-dir", str(tmp_path / "out")]
        command += ["--user-conf", str(conf), "--max-new-tokens", "32", "--no-report"]
        done = completed_command(command)
        assert 0 == done.returncode, done.stderr
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(240)
    run_dir = tmp_path / "out" / "offline" / "accuracy"
    assert list(range(70)) == sorted(check_tokens(run_dir, prompts, 32, server=False))
    answering = fleet.run_json(run_dir)["summary"]["workers"]
    assert 3 == len({worker["info"]["instance_id"] for worker in answering})
    assert all(worker["tokens"] > 0 for worker in answering)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--workers 0 --port-base 20000", "--workers: 0 is below 1"),
        ("--workers 3 --port-base 65534", "--port-base: 65534 is not in 1..65533 for 3 workers"),
        ("--workers 3 --port-base 0", "--port-base: 0 is not in 1..65533 for 3 workers"),
        ("--workers 3", "--port-base"),
        ("--port-base 20000 --frame-hold-ms -1", "--frame-hold-ms: -1.0 is not in 0..1000"),
        ("--port-base 20000 --max-num-seqs 0", "--max-num-seqs: 0 is below 1"),
        ("--port-base 20000 --step-base-ms 1", "--prefill-tokens-per-s: missing"),
        ("--port-base 20000 --step-ms 1", "--step-ms 1"),
    ],
)
def test_bad_flags_are_named(tmp_path: Path, flags: str, says: str) -> None:
    """A bad flag ends the fleet before it listens, with exit code 2 and one line that names the flag."""
    ended = end_of(main, flags.split(), tmp_path)
    (line,) = ended.stderr.splitlines()
    assert (2, "") == (ended.code, ended.stdout)
    assert says in line


def test_a_taken_port_is_named() -> None:
    """If one port of the fleet is taken, no worker keeps running, and the last line names the port."""
    base = fleet.free_port(2)
    with socket.create_server(("127.0.0.1", base + 1)):
        done = run_bench(["bench.fleet.simulated", "--workers", "2", "--port-base", str(base)])
    assert (2, "") == (done.returncode, done.stdout)
    assert f"--port: cannot listen on 127.0.0.1:{base + 1}" in done.stderr.splitlines()[-1]
