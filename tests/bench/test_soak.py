"""The soak kills workers and checks every answer, sees a leak, and leaves nothing running."""

import json
import os
import random
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
from worker.node.ports import steady_port

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
    """Make what a soak of 100 s leaves that killed 127.0.0.1:1 at its 10th second, `num` answers each."""
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
    """Make a loss as run.json has it, as far as it is looked at."""
    return {"address": address, "at_ns": int(at_s * SECOND_NS)}


def failed(left: Leftover) -> list[str]:
    """List the checks that a soak does not pass."""
    return [check.name for check in judge(left) if not check.passed]


def test_a_short_soak_is_exact(tmp_path: Path) -> None:
    """Over kills and returns a run ends VALID, each kill is a loss, and every answer has its tokens."""
    output = tmp_path / "soak.json"
    flags = ["--minutes", "0.075", *TINY, "--sample-every-s", "0.5", "--output", str(output)]
    done = run_bench(["bench.soak", *flags])
    assert output.exists(), done.stdout + done.stderr
    record = json.loads(output.read_text())
    checks = {check["name"]: check["passed"] for check in record["checks"]}
    # 4.5 seconds are no time to judge memory by.
    checks.pop("memory")
    assert all(checks.values()), done.stdout
    assert ["exit code", "exact tokens", "kills seen", "taken back", "descriptors"] == list(checks)
    # The last kill may come when the last answer has.
    assert len(record["kills"]) >= len(record["losses"]) >= 1
    assert all(sample["rss_kib"] > 0 and sample["fds"] > 0 for sample in record["samples"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_soak(tmp_path: Path, signum: signal.Signals) -> None:
    """Interrupted or killed, the soak takes its three workers and the coordinator along."""
    check_takes_all_along(["bench.soak", "--minutes", "5", *TINY], 4, tmp_path, signum)


def test_a_steady_soak_passes() -> None:
    """The same memory and descriptors, the kill seen and the worker back: no check fails."""
    assert [] == failed(leftover([100_000] * 20, [20] * 20, [loss()]))


def test_growth_after_the_warm_up_fails() -> None:
    """11 MiB or five descriptors more at the end fail; the same growth in the first fifth does not."""
    grown = [100_000] * 10 + [111_264] * 10
    assert ["memory"] == failed(leftover(grown, [20] * 20, [loss()]))
    assert ["descriptors"] == failed(leftover([100_000] * 20, [20] * 10 + [25] * 10, [loss()]))
    warm = [100_000] * 4 + [200_000] * 16
    assert [] == failed(leftover(warm, [20] * 4 + [99] * 16, [loss()]))


def test_records_of_queries_are_no_leak() -> None:
    """256,000 queries, 0.75 of them after the warm-up, keep 183 bytes each: 34,312 KiB of growth."""
    for grown_kib, verdict in ((34_312 + 10_000, []), (34_312 + 10_500, ["memory"])):
        rss = [100_000] * 10 + [100_000 + grown_kib] * 10
        left = leftover(rss, [20] * 20, [loss()], num=1_000)
        assert verdict == [name for name in failed(left) if name == "memory"]


def test_a_kill_must_be_seen_and_answers_must_be_whole() -> None:
    """A kill without a loss in time, a worker that does not come back, a missing answer: each fails."""
    steady = [100_000] * 20, [20] * 20
    assert ["kills seen", "taken back"] == failed(leftover(*steady, []))
    assert ["kills seen"] == failed(leftover(*steady, [loss(at_s=19.0)]))
    assert ["kills seen"] == failed(leftover(*steady, [loss(address="127.0.0.1:2")]))
    assert 1 == returns(leftover(*steady, [loss(address="127.0.0.1:2")])).num_unexplained
    assert ["exact tokens"] == failed(leftover(*steady, [loss()], num=2))


def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    """[3, 9] asks for 10, 11 and the stop id: logged so it counts, with a token off it is named."""
    log = tmp_path / "log.json"
    prompts = np.array([[3, 9]], np.int32)
    log.write_text(accuracy_log([[10, 11, 200_002]]))
    counts, wrong = check_answers(log, prompts)
    assert ([1], []) == (counts.tolist(), wrong)
    log.write_text(accuracy_log([[10, 12, 200_002]]))
    assert ["sample 0: [10, 12, 200002] where [10, 11, 200002] belongs"] == check_answers(log, prompts)[1]


def test_descriptors_of_a_process_are_counted(tmp_path: Path) -> None:
    """One file more is one descriptor more; an ended process has no figures."""
    before = read_usage(os.getpid())
    with (tmp_path / "file").open("w"):
        during = read_usage(os.getpid())
    assert before is not None
    assert during is not None
    assert before.fds + 1 == during.fds
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    assert read_usage(ended.pid) is None


def test_a_workers_port_is_no_connections() -> None:
    """A port to come back to lies below those that connections get."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 10_000 <= steady_port(random.Random(1)) < first
