"""Real vLLM through the fleet: greedy tokens equal those of vLLM's own LLM.generate."""

import json
import random
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # vLLM brings it, nobody its stubs
import pytest

from tests import fleet

pytestmark = pytest.mark.vllm
BUDGET = 24
FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "16")
START_TIMEOUT_S = 240.0

GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
model, prompts, stop_ids, budget, out = json.loads(sys.argv[1])
llm = LLM(model=model, skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=256,
          max_num_seqs=16, enable_prefix_caching=False, seed=0)
params = SamplingParams(temperature=0, max_tokens=budget, stop_token_ids=stop_ids, detokenize=False)
answers = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
json.dump([list(a.outputs[0].token_ids) for a in answers], open(out, "w"))
"""


def make_prompts() -> list[list[int]]:
    """Draw 40 prompts of 4 to 40 tokens below the tiny model's stop ids."""
    rng = random.Random(3)
    return [[rng.randrange(3990) for _ in range(rng.randrange(4, 41))] for _ in range(40)]


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Let vLLM's own LLM.generate answer, in a process of its own."""
    out = tmp_path_factory.mktemp("expected") / "answers.json"
    stop_ids = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    job = json.dumps([str(checkpoint), make_prompts(), stop_ids, BUDGET, str(out)])
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, job],
        # The engine in that process itself: three processes import vLLM one after the other else.
        env=fleet.VLLM_CPU_ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-4000:]
    answers: list[list[int]] = json.loads(out.read_text())
    return answers


def check_fleet(
    tmp_path: Path, started: list[fleet.WorkerProcess], scenario: str, expected: list[list[int]]
) -> None:
    """Run one accuracy run and compare every logged answer."""
    data = fleet.write_prompts(tmp_path / "data.parquet", make_prompts())
    greedy = tmp_path / "generation_config.json"
    greedy.write_text('{"_about": "greedy", "temperature": 0.0}')
    flags = ["--scenario", scenario, "--accuracy", "--generation-config", str(greedy)]
    flags += ["--max-new-tokens", str(BUDGET), "--target-qps", "8"]
    done = fleet.coordinate(started, data, tmp_path / "out", *flags, timeout_s=120)
    assert 0 == done.returncode, done.stderr + done.stdout
    answers = {
        int(str(entry["qsl_idx"])): fleet.tokens_of(str(entry["data"]))
        for entry in fleet.accuracy_entries(tmp_path / "out" / scenario / "accuracy")
    }
    assert dict(enumerate(expected)) == answers


def test_answers_differ_between_prompts(expected: list[list[int]]) -> None:
    """The tiny model tells right from wrong: no two answers are alike, none repeats one token."""
    assert len(expected) == len({tuple(answer) for answer in expected})
    assert all(len(set(answer)) > 1 for answer in expected if len(answer) > 2)


def test_replicas_answer_as_vllm_does(tmp_path: Path, checkpoint: Path, expected: list[list[int]]) -> None:
    """Offline and Server over a node of two replicas of one rank: every token equals LLM.generate's."""
    flags = ("--model", str(checkpoint), *FLAGS, "--tensor-parallel-size", "1")
    with fleet.node(tmp_path, 2, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as node:
        check_fleet(tmp_path, [node], "offline", expected)
        check_fleet(tmp_path, [node], "server", expected)


def test_two_ranks_answer_as_vllm_does(tmp_path: Path, checkpoint: Path, expected: list[list[int]]) -> None:
    """With tensor parallel size 2 every token equals LLM.generate's, and no rank outlives its worker.

    On a machine of one NUMA node each rank has its own cores.
    """
    flags = ("--model", str(checkpoint), *FLAGS, "--tensor-parallel-size", "2")
    with fleet.workers(tmp_path, 1, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as started:
        ranks = psutil.Process(started[0].process.pid).children(recursive=True)
        check_fleet(tmp_path, started, "offline", expected)
    (worker,) = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["summary"]["workers"]
    assert 2 == worker["info"]["tensor_parallel_size"]
    # The engine core, and the ranks below it.
    assert 3 <= len(ranks)
    assert [] == psutil.wait_procs(ranks, timeout=10)[1]
