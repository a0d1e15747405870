"""The transport benchmark does the same work on every side, and leaves nothing running."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from bench.workload import Load, Workload, counting_answer
from tests.bench.outliving import check_takes_all_along, run_bench

# 8 requests in flight / (8 tokens * 5 ms) = 200 requests a second, for half a second: 100 requests.
TINY = [
    "--in-flight",
    "8",
    "--answer-tokens",
    "8",
    "--step-ms",
    "5",
    "--seconds",
    "0.5",
    "--prompt-tokens",
    "4",
]
COMMAND = ["bench.transport", "--rounds", "1", *TINY]


def accuracy_log(answers: list[list[int]]) -> str:
    """Compose LoadGen's accuracy log of answers by sample, one line each, as LoadGen does."""
    entries = [
        {"qsl_idx": sample, "data": np.array(answer, "<i4").tobytes().hex(), "token_count": len(answer)}
        for sample, answer in enumerate(answers)
    ]
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"


def test_every_side_does_the_same_work(tmp_path: Path) -> None:
    """Each side completes the same 100 requests with the same tokens, all of them as the prompts ask."""
    output = tmp_path / "figures.json"
    done = run_bench([*COMMAND, "--output", str(output)])
    assert 0 == done.returncode, done.stdout + done.stderr
    record = json.loads(output.read_text())
    rounds = {name: side["rounds"] for name, side in record["sides"].items()}
    assert ["frames", "grpc-1", "grpc-10", "sse"] == list(rounds)
    for figures in rounds.values():
        assert 1 == len(figures)
        assert 100 == figures[0]["requests"]
        assert record["tokens"] == figures[0]["tokens"]
        assert rounds["frames"][0]["answers_sha256"] == figures[0]["answers_sha256"]
        assert 0 < figures[0]["coordinator_cpu_s"] < figures[0]["process_cpu_s"]


# Benchmarks start and end alike: that of bench.guards, with fewer processes, is asked each time.
@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_benchmark(tmp_path: Path, signum: signal.Signals) -> None:
    """Interrupted or killed, the benchmark takes its workers and coordinator along."""
    # Four sides with two workers each, and a coordinator.
    check_takes_all_along(COMMAND, 9, tmp_path, signum)


def test_an_answer_is_known_from_its_prompt() -> None:
    """A prompt [4, 9, 17] asks for 18, 19, 20 and the stop id; counting wraps at 199,999."""
    assert [18, 19, 20, 200_002] == counting_answer(np.array([4, 9, 17], np.int32)).tolist()
    assert [0, 1, 200_002] == counting_answer(np.array([3, 199_998], np.int32)).tolist()


def test_a_wrong_or_missing_answer_is_refused(tmp_path: Path) -> None:
    """The check takes the right answers, and neither one token less, one other token, nor a sample less."""
    workload = Workload(
        Load(in_flight=1, answer_tokens=4, prompt_tokens=2, step_ms=10, seconds=0.2), tmp_path
    )
    # 1 / (4 * 10 ms) = 25 a second for 0.2 s: 5 requests.
    prompts = workload.prompts
    assert (5, 2) == prompts.shape
    right = [
        [(prompt[1] + 1 + i) % 199_999 for i in range(prompt[0] - 1)] + [200_002]
        for prompt in prompts.tolist()
    ]
    log = tmp_path / "log.json"
    log.write_text(accuracy_log(right))
    answers = workload.check(log)
    assert (5, sum(map(len, right))) == (answers.requests, answers.tokens)
    short, other = [right[0][:-1], *right[1:]], [[7, *right[0][1:]], *right[1:]]
    for wrong in (short, other, right[:-1]):
        log.write_text(accuracy_log(wrong))
        with pytest.raises(RuntimeError, match=r"sample (0|4)"):
            workload.check(log)
