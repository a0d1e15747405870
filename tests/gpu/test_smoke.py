"""A new node with GPUs: `pytest -m gpu` says in minutes whether worker, coordinator and engine work on it.

TOKENFLEET_GPU_ENGINE is vllm, the default, or sglang. TOKENFLEET_GPU_MODEL names a checkpoint directory;
without it gpt-oss-120b is loaded with random weights. TOKENFLEET_GPU_FLAGS are the engine's flags; without
them few CUDA graphs are captured, for a quick start.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from bench.gpu.model import write_full_size
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from sut.settings import Scenario
from sut.synthetic import DatasetSpec, write_dataset
from tests.fleet import (
    WORKER,
    WorkerProcess,
    coordinate,
    health,
    run_json,
    start_worker,
    wait_serving,
    write_conf,
)

pytestmark = pytest.mark.gpu

LOAD_TIMEOUT_S = 900.0
RUN_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 90.0
NUM_SAMPLES = 64
MAX_NEW_TOKENS = 64
ENGINE = os.environ.get("TOKENFLEET_GPU_ENGINE", "vllm")
DUMMY_FLAGS = {
    "vllm": "--load-format dummy --max-num-seqs 64 --max-num-batched-tokens 8192 --max-model-len 4096 "
    "--cudagraph-capture-sizes 1 2 4 8 16 32 64",
    "sglang": "--load-format dummy --max-running-requests 64 --chunked-prefill-size 8192 "
    "--context-length 4104 --cuda-graph-bs-decode 1 2 4 8 16 32 64 --cuda-graph-backend-prefill disabled",
}
CONF = """\
*.Offline.min_duration = 1
*.Offline.target_qps = 1
*.Server.min_duration = 5000
*.Server.target_qps = 10
"""
# What a GPU without a model may hold: driver, and other processes' contexts of before.
SPARE_BYTES = 1 << 30


class Node(NamedTuple):
    """A serving worker, and what the accelerators held before it came."""

    worker: WorkerProcess
    used_bytes: dict[str, int]
    """By UUID."""


def used_bytes() -> dict[str, int]:
    """Ask the driver what each GPU holds, by UUID."""
    query = ["nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"]
    text = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    lines = [line.split(",") for line in text.splitlines() if line.strip()]
    return {uuid.strip(): int(mib) << 20 for uuid, mib in lines}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Load the model once, for all tests; the last one stops it."""
    try:
        before = used_bytes()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no NVIDIA GPU here: {error}")
    directory = tmp_path_factory.mktemp("gpu")
    model, flags = os.environ.get("TOKENFLEET_GPU_MODEL"), os.environ.get("TOKENFLEET_GPU_FLAGS", "")
    if model is None:
        model, flags = str(directory / "gpt-oss-120b"), f"{DUMMY_FLAGS[ENGINE]} {flags}"
        write_full_size(Path(model))
    log = directory / "worker.log"
    worker = start_worker(log, "--model", model, *shlex.split(flags), engine=ENGINE, program=WORKER)
    try:
        wait_serving(worker, LOAD_TIMEOUT_S)
        yield Node(worker, before)
    finally:
        worker.stop(STOP_TIMEOUT_S)


def host_of(worker: WorkerProcess) -> pb.HostInfo:
    """Ask what machine the worker is on."""
    with grpc.insecure_channel(worker.address) as channel:
        return rpc.WorkerStub(channel).GetHost(pb.GetHostRequest(), timeout=60)


def test_the_worker_serves_and_names_its_gpus(node: Node) -> None:
    """Health is SERVING, and GetHost tells at least one accelerator with its memory, part of it ours."""
    assert "SERVING" == health(node.worker.address)
    host = host_of(node.worker)
    assert [] == [words for words in host.not_told if words.startswith("accelerator")]
    assert len(host.accelerators) >= 1
    assert all(device.memory_bytes >= device.used_memory_bytes > 0 for device in host.accelerators)
    assert set(node.used_bytes) >= {device.uuid for device in host.accelerators}


@pytest.mark.parametrize("scenario", [Scenario.OFFLINE, Scenario.SERVER])
def test_a_small_run_accounts_for_every_token(node: Node, scenario: Scenario, tmp_path: Path) -> None:
    """What the engine produced, what came and what LoadGen was told are one number, and all is complete."""
    data = tmp_path / "data.parquet"
    lengths = {"mean_prompt_len": 200, "max_prompt_len": 1000, "mean_answer_len": 32, "max_answer_len": 64}
    write_dataset(data, DatasetSpec(num_samples=NUM_SAMPLES, vocab_size=199_998, **lengths))
    flags = ["--scenario", scenario, "--user-conf", str(write_conf(tmp_path / "user.conf", CONF))]
    flags += ["--max-new-tokens", str(MAX_NEW_TOKENS)]
    done = coordinate([node.worker], data, tmp_path / "out", *flags, timeout_s=RUN_TIMEOUT_S)
    # 3: complete; so short a Server run cannot be VALID by LoadGen's early stopping.
    assert done.returncode in ((0,) if scenario is Scenario.OFFLINE else (0, 3)), done.stdout + done.stderr
    record = run_json(tmp_path / "out" / scenario / "performance")
    checks = {check["name"]: check for check in record["verdict"]["checks"]}
    for name in ("completion", "tokens", "coverage"):
        assert checks[name]["passed"], checks[name]
    assert record["summary"]["answer_tokens"]["count"] >= NUM_SAMPLES
    assert [] == record["summary"]["losses"]


def test_a_stopped_worker_leaves_no_memory_behind(node: Node) -> None:
    """After SIGTERM the worker ends with 0, and each GPU holds what it held before."""
    assert 0 == node.worker.stop(STOP_TIMEOUT_S)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while True:
        left = {uuid: used - node.used_bytes[uuid] for uuid, used in used_bytes().items()}
        if max(left.values()) <= SPARE_BYTES or time.monotonic() > deadline_s:
            break
        time.sleep(0.5)
    assert max(left.values()) <= SPARE_BYTES, left
