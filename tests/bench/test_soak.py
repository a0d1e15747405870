"""bench.soak kills workers, checks every answer, detects a leak, and leaves no process running."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.process_usage import ProcessUsage, read_usage
from bench.soak.killed_workers import Kill
from bench.soak.soak_run import NUM_SAMPLES, Leftover, Sample, check_answers
from bench.soak.verdict import judge, returns
from sut.results.logs import DetailLog
from tests.bench.outliving import accuracy_log, check_takes_all_along, run_bench

TINY = [
    "--workers",
    "3",
    "--step-ms",
    "5",
    "20",
    "--answer-tokens",
    "4",
    "12",
    "--target-qps",
    "200",
    "--kill-every-s",
    "2",
]
SECOND_NS = 1_000_000_000


def leftover(rss_kib: list[int], fds: list[int], losses: list[dict[str, Any]], num: int = 1) -> Leftover:
    """Build the results of a 100 s soak that killed 127.0.0.1:1 after 10 s, with `num` answers per sample."""
    samples = [
        Sample(float(second), 2, 1, ProcessUsage(rss, None, fd, 5, 0.0))
        for second, rss, fd in zip(range(0, 100, 100 // len(rss_kib)), rss_kib, fds, strict=True)
    ]
    summary = {
        "latency_ns": {"count": NUM_SAMPLES * num},
        "losses": losses,
        "workers": [{"streams": 1 + len(losses)}, {"streams": 1}],
    }
    window = {"power_begin": "01-01-1970 00:00:00.000", "power_end": "01-01-1970 00:01:40.000"}
    return Leftover(
        exit_code=0,
        samples=samples,
        kills=[Kill(10.0, 10 * SECOND_NS, "127.0.0.1:1", 1)],
        record={"summary": summary, "verdict": {"outcome": "VALID", "reason": ""}},
        detail=DetailLog(dict(window), []),
        num_answers=NUM_SAMPLES,
        num_samples=NUM_SAMPLES,
        wrong=[],
        log="",
    )


def loss(address: str = "127.0.0.1:1", at_s: float = 10.5) -> dict[str, Any]:
    """Build a loss with the fields of run.json that the verdict reads."""
    return {"address": address, "at_ns": int(at_s * SECOND_NS)}


def failed(left: Leftover) -> list[str]:
    """List the failed checks of a soak."""
    return [check.name for check in judge(left) if not check.passed]


@pytest.mark.long
def test_a_short_soak_is_exact(tmp_path: Path) -> None:
    """With kills and restarts a run ends VALID, each kill is a loss, and every answer has its tokens."""
    output = tmp_path / "soak.json"
    flags = ["--minutes", "0.075", *TINY, "--sample-every-s", "0.5", "--output", str(output)]
    done = run_bench(["bench.soak", *flags])
    assert output.exists(), done.stdout + done.stderr
    record = json.loads(output.read_text())
    checks = {check["name"]: check["passed"] for check in record["checks"]}
    # 4.5 seconds are too short to judge memory.
    checks.pop("memory")
    assert all(checks.values()), done.stdout
    assert ["exit code", "exact tokens", "kills seen", "taken back", "descriptors"] == list(checks)
    # The last kill may follow the last answer.
    assert len(record["kills"]) >= len(record["losses"]) >= 1
    assert all(sample["rss_kib"] > 0 and sample["fds"] > 0 for sample in record["samples"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_soak(tmp_path: Path, signum: signal.Signals) -> None:
    """When the soak is interrupted or killed, its three workers and the coordinator end too."""
    check_takes_all_along(["bench.soak", "--minutes", "5", *TINY], 4, tmp_path, signum)


def test_a_steady_soak_passes() -> None:
    """Constant memory and descriptors, a detected kill and a returned worker: no check fails."""
    assert [] == failed(leftover([100_000] * 20, [20] * 20, [loss()]))


def test_growth_after_the_warm_up_fails() -> None:
    """Growth by 11 MiB or five descriptors at the end fails; the same growth in the first fifth does not."""
    grown = [100_000] * 10 + [111_264] * 10
    assert ["memory"] == failed(leftover(grown, [20] * 20, [loss()]))
    assert ["descriptors"] == failed(leftover([100_000] * 20, [20] * 10 + [25] * 10, [loss()]))
    warm = [100_000] * 4 + [200_000] * 16
    assert [] == failed(leftover(warm, [20] * 4 + [99] * 16, [loss()]))


def test_records_of_queries_are_no_leak() -> None:
    """256,000 queries, 0.75 of them after the warm-up, keep 295 bytes each: 55,312 KiB of growth."""
    for grown_kib, verdict in ((55_312 + 10_000, []), (55_312 + 10_500, ["memory"])):
        rss = [100_000] * 10 + [100_000 + grown_kib] * 10
        left = leftover(rss, [20] * 20, [loss()], num=1_000)
        assert verdict == [name for name in failed(left) if name == "memory"]


def test_a_kill_must_be_seen_and_answers_must_be_whole() -> None:
    """A kill without a loss in time, a worker that does not return, a missing answer: each fails a check."""
    steady = [100_000] * 20, [20] * 20
    assert ["kills seen", "taken back"] == failed(leftover(*steady, []))
    assert ["kills seen"] == failed(leftover(*steady, [loss(at_s=19.0)]))
    assert ["kills seen"] == failed(leftover(*steady, [loss(address="127.0.0.1:2")]))
    assert 1 == returns(leftover(*steady, [loss(address="127.0.0.1:2")])).num_unexplained
    assert ["exact tokens"] == failed(leftover(*steady, [loss()], num=2))


def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    """[3, 9] expects 10, 11 and the stop id: the right answer counts, a wrong token is reported."""
    log = tmp_path / "log.json"
    prompts = np.array([[3, 9]], np.int32)
    log.write_text(accuracy_log([[10, 11, 200_002]]))
    counts, wrong = check_answers(log, prompts)
    assert ([1], []) == (counts.tolist(), wrong)
    log.write_text(accuracy_log([[10, 12, 200_002]]))
    assert ["sample 0: [10, 12, 200002] instead of [10, 11, 200002]"] == check_answers(log, prompts)[1]


def test_descriptors_of_a_process_are_counted(tmp_path: Path) -> None:
    """One more open file is one more descriptor; an ended process has no usage."""
    before = read_usage(os.getpid())
    with (tmp_path / "file").open("w"):
        during = read_usage(os.getpid())
    assert before is not None
    assert during is not None
    assert before.fds + 1 == during.fds
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    assert read_usage(ended.pid) is None
