"""Real vLLM: the file of its own greedy answers, and a qualification against it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fleet
from tests.forked import end_of
from tests.worker.engines.greedy import ANSWER_LEN, Reference, stop_ids_of, walk_prompts
from tokenfleet.cli import main

pytestmark = [pytest.mark.vllm, pytest.mark.long]
FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "16")
START_TIMEOUT_S = 240.0


def test_answers_through_the_harness_are_those_of_vllms_own_class(
    tmp_path: Path, checkpoint: Path, reference: Reference
) -> None:
    """The file has LLM.generate's answers, and every token through coordinator and worker equals them."""
    data, output = fleet.write_prompts(tmp_path / "data.parquet", walk_prompts()), tmp_path / "greedy.json"
    model = ["--model", str(checkpoint), *FLAGS, "--tensor-parallel-size", "1"]
    own = ["--input-file", str(data), "--output", str(output), "--num-prompts", "40"]
    own += ["--max-new-tokens", str(ANSWER_LEN)]
    # vLLM starts processes of its own, which need a program with a __main__.
    done = subprocess.run(
        [sys.executable, "-m", "tokenfleet", "qualify", "reference", *own, *model],
        cwd=fleet.ROOT,
        env=fleet.VLLM_CPU_ENV,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    assert reference.walk == json.loads(output.read_text())["answers"]

    expected = tmp_path / "expected.toml"
    expected.write_text(f"stop_ids = {stop_ids_of(checkpoint)}\n")
    with fleet.workers(tmp_path, 1, *model, engine="vllm", timeout_s=START_TIMEOUT_S) as (worker,):
        argv = ["qualify", "--workers", worker.address, "--output-dir", str(tmp_path / "out")]
        argv += ["--reference", str(output), "--expected", str(expected), "--random-weights"]
        ended = end_of(main, argv, tmp_path, 120)
    assert 0 == ended.code, ended.stderr + ended.stdout
    checks = json.loads((tmp_path / "out" / "qualify.json").read_text())["checks"]
    seen = {row["check"]: row["seen"] for row in checks}
    assert "40 of 40 equal to LLM.generate's" == seen["greedy answers"]
    assert "same engine, model and settings as 1 workers" == seen["engine of the reference"]
