"""A qualification over the replaying engine, with rows of all three data sets, programs included."""

import json
import re
from pathlib import Path

import pytest

from sut.synthetic_benchmark import BenchmarkSpec, write_benchmark
from tests import fleet
from tests.forked import end_of
from tokenfleet.qualify.first_contact import main

pytestmark = pytest.mark.long
SHORT = {"mean_prompt_len": 50.0, "mean_answer_len": 50.0, "mean_accuracy_answer_len": 60.0}


@pytest.mark.parametrize("share_right, code, assessment", [(0.9, 0, "unknown"), (0.5, 1, "FAIL")])
def test_the_interval_has_the_score_of_all_answers(
    tmp_path: Path, share_right: float, code: int, assessment: str
) -> None:
    """100 graded rows: the interval has the score of all 4,395; answers that are half wrong fail."""
    data = tmp_path / "data"
    write_benchmark(data, BenchmarkSpec(share_right=share_right, **SHORT))
    argv = ["--accuracy-file", str(data / "acc_eval_ref.parquet"), "--tokenizer", str(data / "tokenizer")]
    argv += ["--lcb-tests", str(data / "lcb_tests.jsonl"), "--output-dir", str(tmp_path / "out")]
    flags = ("--answers", str(data / "answers.parquet"))
    with fleet.workers(tmp_path, 1, *flags, engine="replay") as (worker,):
        done = end_of(main, ["--workers", worker.address, *argv], tmp_path, 120)
    assert code == done.code, done.stderr + done.stdout
    (row,) = (
        row
        for row in json.loads((tmp_path / "out" / "qualify.json").read_text())["checks"]
        if row["check"] == "projected score"
    )
    assert assessment == row["assessment"], row["seen"]
    assert re.search(r"aime25 \d of 5; gpqa_diamond \d+ of 15; livecodebench_v6 \d+ of 80$", row["seen"])
    found = re.search(r"interval ([\d.]+)% to ([\d.]+)%", row["seen"])
    assert found is not None
    low, high = map(float, found.groups())
    assert low <= json.loads((data / "expected.json").read_text())["accuracy_percent"] <= high
