"""Real vLLM through the fleet: greedy tokens equal those of vLLM's own LLM.generate."""

from pathlib import Path

import psutil  # type: ignore[import-untyped]  # vLLM brings it, nobody its stubs
import pytest

from tests import fleet
from tests.worker.engines.greedy import ANSWER_LEN, Reference, walk_prompts

pytestmark = pytest.mark.vllm
FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "16")
START_TIMEOUT_S = 240.0


def check_fleet(
    tmp_path: Path, started: list[fleet.WorkerProcess], scenario: str, reference: Reference
) -> None:
    """Do one accuracy run and compare every logged answer."""
    data = fleet.write_prompts(tmp_path / "data.parquet", walk_prompts())
    greedy = tmp_path / "generation_config.json"
    greedy.write_text('{"_about": "greedy", "temperature": 0.0}')
    flags = ["--scenario", scenario, "--accuracy", "--generation-config", str(greedy)]
    flags += ["--max-new-tokens", str(ANSWER_LEN), "--target-qps", "40"]
    done = fleet.coordinate(started, data, tmp_path / "out", *flags, timeout_s=120)
    assert 0 == done.returncode, done.stderr + done.stdout
    answers = {
        int(str(entry["qsl_idx"])): fleet.tokens_of(str(entry["data"]))
        for entry in fleet.accuracy_entries(tmp_path / "out" / scenario / "accuracy")
    }
    assert dict(enumerate(reference.walk)) == answers


def test_answers_differ_between_prompts(reference: Reference) -> None:
    """The reference can reveal errors: no two answers are equal, none repeats one token."""
    expected = reference.walk
    assert len(expected) == len({tuple(answer) for answer in expected})
    assert all(len(set(answer)) > 1 for answer in expected if len(answer) > 2)


# Witnesses in the quick tests: one worker with the same answers, and nodes with the counting engine.
@pytest.mark.long
def test_replicas_answer_as_vllm_does(tmp_path: Path, checkpoint: Path, reference: Reference) -> None:
    """Offline and Server over a node of two replicas of one rank: every token equals LLM.generate's."""
    flags = ("--model", str(checkpoint), *FLAGS, "--tensor-parallel-size", "1")
    with fleet.node(tmp_path, 2, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as node:
        check_fleet(tmp_path, [node], "offline", reference)
        check_fleet(tmp_path, [node], "server", reference)


@pytest.mark.long
def test_two_ranks_answer_as_vllm_does(tmp_path: Path, checkpoint: Path, reference: Reference) -> None:
    """With tensor parallel size 2 every token equals LLM.generate's, and no rank outlives its worker.

    On a machine of one NUMA node each rank has its own cores.
    """
    flags = ("--model", str(checkpoint), *FLAGS, "--tensor-parallel-size", "2")
    with fleet.workers(tmp_path, 1, *flags, engine="vllm", timeout_s=START_TIMEOUT_S) as started:
        ranks = psutil.Process(started[0].process.pid).children(recursive=True)
        check_fleet(tmp_path, started, "offline", reference)
    (worker,) = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["summary"]["workers"]
    assert 2 == worker["info"]["tensor_parallel_size"]
    # The engine core, and the ranks below it.
    assert 3 <= len(ranks)
    assert [] == psutil.wait_procs(ranks, timeout=60)[1]
