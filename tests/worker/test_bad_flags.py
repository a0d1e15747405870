"""What a user can get wrong at a worker: one line that says it, and exit code 2.

A mistake is tried in a process of its own, forked from one that has done the imports.
"""

import socket
import sys
from pathlib import Path

import pytest

from tests import fleet
from tests.forked import completed_command, end_of
from worker.__main__ import main

BAD = {
    "unknown engine": ("--engine nonsense", "--engine|'nonsense'|vllm, sglang, counting, simulated"),
    "no model": ("--engine vllm", "--model|missing"),
    "flag of no engine": ("--engine counting --max-num-seq 8", "--max-num-seq 8"),
    "word": ("--engine counting please", "please"),
    "port of 0": ("--engine counting --port 0", "--port|0|1..65535"),
    "port beyond": ("--engine counting --port 70000", "--port|70000|1..65535"),
    "port of words": ("--engine counting --port http", "--port|'http'"),
    "no port": ("--engine counting --port", "--port"),
    "hold below 0": ("--engine counting --frame-hold-ms -1", "--frame-hold-ms|-1.0|0..1000"),
    "hold beyond": ("--engine counting --frame-hold-ms 1001", "--frame-hold-ms|1001.0|0..1000"),
    "hold of nan": ("--engine counting --frame-hold-ms nan", "--frame-hold-ms|nan|0..1000"),
    "drain below 0": ("--engine counting --drain-timeout-s -1", "--drain-timeout-s|-1.0|below 0"),
    "drain of nan": ("--engine counting --drain-timeout-s nan", "--drain-timeout-s|nan|0"),
    "cores downward": ("--engine counting --cores 5-3", "--cores|'5-3'"),
    "silence too short": (
        "--engine counting --coordinator-timeout-s 1.5",
        "--coordinator-timeout-s|1.5|2..86400",
    ),
    "silence of nan": (
        "--engine counting --coordinator-timeout-s nan",
        "--coordinator-timeout-s|nan|2..86400",
    ),
    "step below 0": ("--engine counting --step-ms -1", "--step-ms|-1.0|below 0"),
    "step of nan": ("--engine counting --step-ms nan", "--step-ms|nan|0"),
    "step of words": ("--engine counting --step-ms fast", "--step-ms|'fast'"),
    "prefill below 0": ("--engine counting --prefill-ms -1", "--prefill-ms|-1.0|below 0"),
    "load below 0": ("--engine counting --load-ms -1", "--load-ms|-1.0|below 0"),
    "no places": ("--engine counting --max-num-seqs 0", "--max-num-seqs|0|below 1"),
    "no length": ("--engine counting --max-model-len 0", "--max-model-len|0|below 1"),
    "flag of another engine": ("--engine simulated --step-ms 1", "--step-ms 1"),
    "simulated without places": ("--engine simulated --max-num-seqs 0", "--max-num-seqs|0|below 1"),
    "more places than tokens": (
        "--engine simulated --max-num-seqs 100 --max-num-batched-tokens 99",
        "--max-num-batched-tokens|99|--max-num-seqs 100",
    ),
    "half a cost model": (
        "--engine simulated --step-base-ms 10 --step-per-seq-us 50",
        "--prefill-tokens-per-s|missing",
    ),
    "no prefill": (
        "--engine simulated --prefill-tokens-per-s 0 --step-base-ms 10 --step-per-seq-us 50",
        "--prefill-tokens-per-s|0.0|not above 0",
    ),
    "simulated step below 0": (
        "--engine simulated --prefill-tokens-per-s 9 --step-base-ms -1 --step-per-seq-us 50",
        "--step-base-ms|-1.0|below 0",
    ),
    "simulated request of nan": (
        "--engine simulated --prefill-tokens-per-s 9 --step-base-ms 1 --step-per-seq-us nan",
        "--step-per-seq-us|nan|finite",
    ),
    "replay of nothing": ("--engine replay", "--answers"),
    "replay of no file": ("--engine replay --answers /absent", "--answers|/absent|No such file"),
    "replay at no rate": ("--engine replay --answers a --tokens-per-s 0", "--tokens-per-s|0.0|above 0"),
}


@pytest.mark.parametrize(("flags", "says"), BAD.values(), ids=[name.replace(" ", "-") for name in BAD])
def test_mistake_is_named_before_the_engine_loads(tmp_path: Path, flags: str, says: str) -> None:
    """A bad flag ends the worker at once with one line that names it, its value and its bound."""
    ended = end_of(main, flags.split(), tmp_path)
    assert (2, "") == (ended.code, ended.stdout), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("worker: ")
    assert [] == [word for word in says.split("|") if word not in line], line


def has_ipv6() -> bool:
    """Say whether one may listen at ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_model_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """A byte that is not UTF-8 cannot be sent: the line is printed before loading, with the byte escaped."""
    ended = end_of(main, ["--model", "/models/a\udcff"], tmp_path)
    line = "worker: --model: '/models/a\\udcff' is not UTF-8\n"
    assert (2, "", line) == (ended.code, ended.stdout, ended.stderr)


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]")]
)
def test_port_in_use_is_named(tmp_path: Path, host: str, shown: str) -> None:
    """Two workers on one port would each get some of the calls: the second ends, the first serves on."""
    if ":" in host and not has_ipv6():
        pytest.skip("this machine's loopback has no IPv6")
    flags = ["--host", host, "--port", str(fleet.free_port())]
    first = fleet.start_worker(tmp_path / "log", *flags, address=f"{shown}:{flags[-1]}")
    try:
        fleet.wait_serving(first)
        done = completed_command([sys.executable, "-m", "worker", "--engine", "counting", *flags])
        assert "SERVING" == fleet.health(first.address)
    finally:
        first.stop()
    # gRPC's own core writes a line of its own before.
    last = done.stderr.splitlines()[-1]
    assert (2, "", True) == (done.returncode, done.stdout, last.startswith("worker: --port"))
    assert f"cannot listen on {first.address}, is it in use?" in last
