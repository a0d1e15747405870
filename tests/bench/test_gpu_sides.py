"""bench.gpu: its sides over the real vLLM on a CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.bench.outliving import run_bench


@pytest.mark.vllm
@pytest.mark.long
def test_the_bare_engine_says_why_it_did_not_load(tmp_path: Path, checkpoint: Path) -> None:
    """The reason is what vLLM's engine core logged, not that it failed; the command exits with code 1."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model, ignore=shutil.ignore_patterns("*.safetensors"))
    argv = ["bench.gpu", "offline", "--model", str(model), "--sides", "bare", "--requests", "8"]
    argv += ["--rounds", "1", "--turns", "1", "--", "--load-format", "safetensors"]
    done = run_bench(argv, timeout_s=300)
    assert 1 == done.returncode, done.stdout + done.stderr
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("1-bare: ")]
    assert "engine failed: RuntimeError: Cannot find any model weights with `" in failed


@pytest.mark.vllm
@pytest.mark.long
def test_all_sides_serve_the_same_tokens_over_real_vllm(tmp_path: Path, checkpoint: Path) -> None:
    """On a CPU, every round of every side has the tokens of its plan, and random weights are the worker's."""
    output = tmp_path / "found.json"
    small = ["--requests", "32", "--mean-prompt-len", "24", "--max-prompt-len", "64"]
    small += ["--mean-answer-len", "16", "--max-answer-len", "32"]
    small += ["--rounds", "1", "--turns", "1", "--warm-requests", "4"]
    argv = ["bench.gpu", "offline", "--model", str(checkpoint), *small, "--output", str(output)]
    logs = tmp_path / "logs"
    logs.mkdir()
    argv += ["--keep-logs", str(logs), "--", "--load-format", "dummy"]
    done = run_bench(argv, timeout_s=600)
    assert 0 == done.returncode, done.stdout + done.stderr
    record: dict[str, Any] = json.loads(output.read_text())
    counted = [one for one in record["rounds"] if not one["warm_up"]]
    order = ["bare", "ours", "async", "serve"]
    assert order == [one["side"] for one in counted]
    assert 1 == len({(one["requests"], one["tokens"]) for one in counted})
    assert all(one["front_cpu_s"] > 0 for one in counted)
    evened = [path.stem for path in logs.glob("*.log") if "use all experts" in path.read_text()]
    assert set(order) == {name.partition("-")[2] for name in evened}
    # 32 requests over 16 slots: the last ones begin when half of the tokens are there.
    assert all(one["tokens_per_s_before_tail"] > 0 for one in counted)
    assert record["is_complete"]
