"""A fleet and a run, each flag from one TOML file; what a run keeps of it."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.forked import completed_command

BUDGET = 16


@contextlib.contextmanager
def worker_of(file: Path, port: int, *flags: str, timeout_s: float = 60.0) -> Iterator[fleet.WorkerProcess]:
    """Run a worker of a file for the length of a block."""
    log = file.with_name(f"worker{port}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "--config", str(file), *flags],
            cwd=fleet.ROOT,
            env=fleet.VLLM_CPU_ENV,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    worker = fleet.WorkerProcess(process, f"127.0.0.1:{port}", log)
    try:
        fleet.wait_serving(worker, timeout_s)
        yield worker
    finally:
        worker.stop()


def write(folder: Path, ports: list[int], **coordinator: object) -> tuple[Path, list[list[int]]]:
    """Write a data set and the one file, of which the first worker takes its port too."""
    prompts = fleet.counting_prompts(12)
    data = fleet.write_prompts(folder / "data.parquet", prompts)
    settings = {
        "input-file": str(data),
        "output-dir": str(folder / "out"),
        "workers": [f"127.0.0.1:{port}" for port in ports],
        "max-new-tokens": BUDGET,
        "accuracy": True,
        "report": False,
    }
    # JSON writes text, numbers, true and lists as TOML does.
    lines = [f"{name} = {json.dumps(value)}" for name, value in (settings | coordinator).items()]
    path = folder / "fleet.toml"
    worker = ["[worker]", 'engine = "counting"', f"port = {ports[0]}", "step_ms = 0.5", "frame_hold_ms = 0"]
    path.write_text("\n".join([*worker, "[coordinator]", *lines]), encoding="utf-8")
    return path, prompts


def check_answers(run_dir: Path, prompts: list[list[int]]) -> None:
    """Check every token of an accuracy run by the counting engine's definition."""
    answers = {
        entry["qsl_idx"]: fleet.tokens_of(str(entry["data"])) for entry in fleet.accuracy_entries(run_dir)
    }
    assert {row: fleet.counting_answer(prompt, BUDGET) for row, prompt in enumerate(prompts)} == answers


def test_one_file_starts_workers_and_coordinator(tmp_path: Path) -> None:
    """Two workers and a coordinator run wholly from one file; run.json says which, for each of the three."""
    ports = [fleet.free_port(), fleet.free_port()]
    path, prompts = write(tmp_path, ports)
    with worker_of(path, ports[0]), worker_of(path, ports[1], "--port", str(ports[1])):
        done = completed_command([sys.executable, "-m", "coordinator", "--config", str(path)])
    assert 0 == done.returncode, done.stderr
    run_dir = tmp_path / "out" / "offline" / "accuracy"
    check_answers(run_dir, prompts)
    record = fleet.run_json(run_dir)
    source = {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert source == record["config"]["config_file"]
    for worker in record["summary"]["workers"]:
        assert "0.5" == worker["info"]["engine_args"]["step_ms"]
        assert source == json.loads(worker["info"]["engine_args"]["config_file"])


@pytest.mark.vllm
@pytest.mark.long
def test_vllm_runs_with_preset_file_and_flags(tmp_path: Path, checkpoint: Path) -> None:
    """A vLLM worker serves what its preset, its file and its command line come to, and says where from."""
    port = fleet.free_port()
    path = tmp_path / "vllm.toml"
    path.write_text(
        f"[worker]\nmodel = '{checkpoint}'\npreset = 'latency'\nmax-num-seqs = 8\nmax-model-len = 256\n"
        'dtype = "float32"\ncompilation-config = {mode = 0}\n'
    )
    flags = ("--port", str(port), "--max-model-len", "128")
    with (
        worker_of(path, port, *flags, timeout_s=240.0) as worker,
        grpc.insecure_channel(worker.address) as channel,
    ):
        info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60)
    args = {name: json.loads(value) for name, value in info.engine_args.items()}
    assert (8, 128) == (info.max_num_seqs, info.max_model_len)
    assert (True, "latency") == (args["enforce_eager"], args["preset"])
    assert str(path) == args["config_file"]["path"]


def run_mlperf(*flags: str) -> subprocess.CompletedProcess[str]:
    """Run run_mlperf.py to its end."""
    return subprocess.run(
        [sys.executable, "run_mlperf.py", *flags],
        cwd=fleet.ROOT,
        env={name: value for name, value in os.environ.items() if name != "MLPERF_BACKEND"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_one_command_takes_the_same_file(tmp_path: Path) -> None:
    """run_mlperf.py takes both tables, starts its own workers on its own ports, and its flags win."""
    path, prompts = write(
        tmp_path, [9, 10], **{"scenario": "server", "target-qps": 50, "max-new-tokens": BUDGET + 1}
    )
    done = run_mlperf("--config", str(path), "--max-new-tokens", str(BUDGET))
    assert 0 == done.returncode, done.stderr
    run_dir = tmp_path / "out" / "server" / "accuracy"
    check_answers(run_dir, prompts)
    (worker,) = fleet.run_json(run_dir)["summary"]["workers"]
    assert "0.5" == worker["info"]["engine_args"]["step_ms"]
    assert str(path) == fleet.run_json(run_dir)["config"]["config_file"]["path"]


def test_one_command_refuses_what_the_file_cannot_give(tmp_path: Path) -> None:
    """An unknown key, TLS for local workers, --print-config: one line, exit 2, no run."""
    path, _ = write(tmp_path, [9], max_smaples=3)
    secure = tmp_path / "secure.toml"
    secure.write_text(
        '[worker]\nengine = "counting"\ntls-cert = "c.pem"\n[coordinator]\ninput-file = "d.parquet"\n'
    )
    plain = ["--backend", "counting", "--input-file", "d.parquet"]
    for flags, says in [
        (["--config", str(path)], f"{path}: [coordinator] max-smaples"),
        (["--config", str(secure)], "--tls-cert: c.pem: local workers"),
        ([*plain, "--print-config"], "--print-config"),
        ([*plain, "--config", str(tmp_path / uuid.uuid4().hex)], "No such file"),
    ]:
        done = run_mlperf(*flags)
        assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
        assert says in done.stderr
    assert not (tmp_path / "out").exists()
