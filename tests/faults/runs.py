"""Runs into which tests inject faults; each is checked token by token against hand-computed answers.

The counting engine's answers are known from the prompts (fleet.counting_answer), whichever workers gave them.
"""

import contextlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coordinator.__main__ import main
from sut.log_files import ACCURACY, DETAIL, NAMES, SUMMARY, find_log
from tests import fleet
from tests.forked import ForkedProcess

MODES = ("offline", "server", "accuracy")
BUDGET = 400
LOGGING_CONF = "*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 1000000\n"
# A loss makes answers late, not wrong: LoadGen's limits are far away. From 459 queries on, early stopping
# accepts a 99th percentile without a query over the limit.
CONF = """\
*.Offline.min_duration = 100
*.Offline.target_qps = 100
gpt-oss-120b.Server.min_duration = {min_duration_ms}
gpt-oss-120b.Server.target_qps = {target_qps}
gpt-oss-120b.Server.ttft_latency = 600000
gpt-oss-120b.Server.tpot_latency = 60000
"""
SERVER_QUERIES = 500
END_TIMEOUT_S = 90.0


def modes(*quick: str) -> list[Any]:
    """List the modes for parametrize; all but the quick ones are long."""
    return [pytest.param(m, marks=() if m in quick else pytest.mark.long) for m in MODES]


def make_prompts(num: int = 120, shortest: int = 20, longest: int = 300) -> list[list[int]]:
    """Make prompts for the counting engine; no two answers share a token up to 190 prompts.

    Row i is [answer length, 7, 1000 i]; lengths are spread over their range.
    """
    return [[shortest + 37 * i % (longest - shortest + 1), 7, 1000 * i] for i in range(num)]


@dataclass
class Run:
    """A coordinator process, its mode and its data set."""

    mode: str
    prompts: list[list[int]]
    answers: list[list[int]]
    """The expected answer of each prompt."""
    process: ForkedProcess
    log: Path
    run_dir: Path

    @property
    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    @property
    def json(self) -> Any:
        """Its run.json."""
        return fleet.run_json(self.run_dir)

    def says(self, words: str) -> bool:
        """Whether its log has these words; fails the test if it ended without them."""
        found = words in self.text
        assert found or self.process.poll() is None, self.text[-4000:]
        return found

    def end(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Wait for the end and return the exit code; a hanging run fails the test."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hangs for {timeout_s:g} s:\n{self.text[-4000:]}") from None


@contextlib.contextmanager
def started(
    directory: Path,
    mode: str,
    addresses: Sequence[str],
    prompts: list[list[int]],
    *flags: str,
    server_s: float = 3.2,
    budget: int = BUDGET,
    answers: list[list[int]] | None = None,
) -> Iterator[Run]:
    """Start a coordinator, killed at the end of the block.

    Args:
        directory: Gets its files.
        mode: offline and server: performance, with every answer logged; accuracy: Offline, AccuracyOnly;
            server-accuracy.
        addresses: Of the workers.
        prompts: The data set.
        flags: More flags.
        server_s: How long LoadGen issues in Server; about SERVER_QUERIES in all.
        budget: Longest answer, in tokens.
        answers: What each prompt must get; None: what the counting engine makes of it.
    """
    conf = CONF.format(min_duration_ms=int(server_s * 1000), target_qps=int(SERVER_QUERIES / server_s) + 1)
    conf += "" if mode.endswith("accuracy") else LOGGING_CONF
    words = [
        *("--scenario", "server" if mode.startswith("server") else "offline"),
        *("--input-file", str(fleet.write_prompts(directory / "data.parquet", prompts))),
        *("--user-conf", str(fleet.write_conf(directory / "user.conf", conf))),
        *("--workers", ",".join(addresses), "--output-dir", str(directory / "out")),
        *("--max-new-tokens", str(budget), "--no-report"),
    ]
    if mode.endswith("accuracy"):
        words.append("--accuracy")
    log = directory / "coordinator.log"
    process = ForkedProcess(main, [*words, *flags], log)
    leaf = "accuracy" if mode.endswith("accuracy") else "performance"
    if answers is None:
        answers = [fleet.counting_answer(prompt, budget) for prompt in prompts]
    run = Run(mode, prompts, answers, process, log, directory / "out" / words[1] / leaf)
    try:
        yield run
    finally:
        process.kill()
        process.wait(60)


def check_answers(run: Run) -> None:
    """Check that each issued sample was logged once with its expected answer.

    LoadGen numbers what it issues: a lost answer leaves a gap in seq_id, a doubled one repeats it.
    """
    entries = fleet.accuracy_entries(run.run_dir)
    for entry in entries:
        expected = run.answers[int(str(entry["qsl_idx"]))]
        assert expected == fleet.tokens_of(str(entry["data"])), entry
        assert len(expected) == entry["token_count"]
        if run.mode.startswith("server"):
            assert expected[:1] == fleet.tokens_of(str(entry["token_data"]))
    copies = num_copies_of(run)
    expected_ids = list(range(copies * len(run.prompts)))
    assert expected_ids == sorted(int(str(entry["seq_id"])) for entry in entries)
    counts = Counter(int(str(entry["qsl_idx"])) for entry in entries)
    assert dict.fromkeys(range(len(run.prompts)), copies) == counts


def num_copies_of(run: Run) -> int:
    """Count how often LoadGen issues each sample: once, except in Server, where its log has the number."""
    if run.mode != "server":
        return 1
    text = find_log(run.run_dir, DETAIL).read_text()
    found = re.search(r'"key": "generated_query_count", "value": ([0-9]+)', text)
    assert found, text[-2000:]
    assert 0 == int(found[1]) % len(run.prompts)
    return int(found[1]) // len(run.prompts)


def check_valid(run: Run, timeout_s: float = END_TIMEOUT_S) -> Any:
    """Check that a run ends VALID (accuracy: NOT_GRADED) with the exact tokens; returns run.json."""
    code = run.end(timeout_s)
    assert 0 == code, run.text[-6000:]
    found = run.json
    expected = "NOT_GRADED" if run.mode.endswith("accuracy") else "VALID"
    assert expected == found["verdict"]["outcome"]
    assert (run.run_dir / ACCURACY).exists()
    assert [] == [check for check in found["verdict"]["checks"] if not check["passed"]]
    check_answers(run)
    return found


def check_failed(run: Run, *says: str, code: int = 1, timeout_s: float = END_TIMEOUT_S) -> Any:
    """Check the exit code and reason of a failed run, and that it has no summary; returns run.json."""
    assert code == run.end(timeout_s), run.text[-6000:]
    assert "Traceback" not in run.text, run.text[-6000:]
    found = run.json
    assert {1: "FAILED", 130: "INTERRUPTED", 143: "INTERRUPTED"}[code] == found["verdict"]["outcome"]
    reason = found["verdict"]["reason"]
    assert [] == [word for word in says if word not in reason], reason
    check_no_summary(run)
    check_partial_outputs(run)
    return found


def check_no_summary(run: Run) -> None:
    """Check that no LoadGen summary was written, and that no log has a name that a checker accepts."""
    assert [] == [name for name in NAMES if (run.run_dir / name).exists()]
    summary = find_log(run.run_dir, SUMMARY)
    assert not summary.exists() or summary.stat().st_size == 0


def check_partial_outputs(run: Run) -> None:
    """Check that each row kept of a failed run is its answer or the beginning of it."""
    table = pd.read_parquet(run.run_dir / "partial_outputs.parquet")
    assert ["sample", "tokens", "state"] == list(table.columns)
    for sample, tokens, state in zip(table["sample"], table["tokens"], table["state"], strict=True):
        answer = run.answers[sample]
        got = tokens.tolist()
        assert answer[: len(got)] == got
        states = {0: "waiting", len(answer): "complete"}
        assert states.get(len(got), "partial") == state
    if not run.mode.startswith("server"):
        assert list(range(len(run.prompts))) == sorted(table["sample"].tolist())
