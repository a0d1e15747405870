"""Compliance tests over real LoadGen and the replaying engine, with the official numbers of samples."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sut import synthetic
from sut.results.compliance.__main__ import main
from tests import fleet

pytestmark = pytest.mark.long
RATE = "--target-qps=100"
# Limits of LoadGen that a machine meets at any speed.
CONF = """\
gpt-oss-120b.Server.ttft_latency = 600000
gpt-oss-120b.Server.tpot_latency = 600000
gpt-oss-120b-interactive.Server.ttft_latency = 600000
gpt-oss-120b-interactive.Server.tpot_latency = 600000
"""
FAST = ("--tokens-per-s", "inf", "--step-ms", "0", "--max-num-seqs", "2048")


@pytest.fixture(scope="module")
def rehearsal(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Path, list[fleet.WorkerProcess]]]:
    """Write a benchmark whose performance answers have a mean length, and serve its answers."""
    directory = tmp_path_factory.mktemp("compliance")
    data = directory / "data"
    assert synthetic.main(["benchmark", f"--output={data}", f"--mean-answer-len={request.param}"]) == 0
    flags = (*FAST, "--answers", str(data / "answers.parquet"))
    with fleet.workers(directory, 1, *flags, engine="replay") as served:
        yield request.param, data, served


@pytest.mark.parametrize(
    "rehearsal, scenario",
    [(1278, "offline"), (1278, "server"), (1278, "interactive"), (1000, "offline")],
    indirect=["rehearsal"],
)
def test_test09_passes_with_1278_tokens_and_fails_with_1000(
    rehearsal: tuple[int, Path, list[fleet.WorkerProcess]], tmp_path: Path, scenario: str
) -> None:
    """The run's verdict, the files that it leaves and the verdict of the command are the same."""
    mean, data, served = rehearsal
    conf = f"--user-conf={fleet.write_conf(tmp_path / 'user.conf', CONF)}"
    flags = ["--scenario", scenario, "--compliance", "TEST09", RATE, conf]
    done = fleet.coordinate(served, data / "perf_eval_ref.parquet", tmp_path, *flags, timeout_s=240)
    run_dir, passes = tmp_path / scenario / "TEST09", mean == 1278
    assert fleet.run_json(run_dir)["verdict"]["outcome"] == ("VALID" if passes else "INVALID"), done.stderr
    written = (run_dir / "compliance.json").read_text()
    assert main([str(run_dir)]) == (0 if passes else 3)
    assert written == (run_dir / "compliance.json").read_text()
    verdict = json.loads((run_dir / "compliance.json").read_text())
    assert (verdict["num_samples"], verdict["passed"]) == (6396, passes)
    assert abs(verdict["value"] - mean) < 1
    end = (run_dir / "verify_output_len.txt").read_text().splitlines()[-1]
    assert end == ("TEST PASS" if passes else "TEST FAIL")


@pytest.mark.parametrize(
    "rehearsal, scenario",
    [(1278, "offline"), (1278, "server"), (1278, "interactive")],
    indirect=["rehearsal"],
)
def test_test07_is_scored_over_its_990_samples(
    rehearsal: tuple[int, Path, list[fleet.WorkerProcess]], tmp_path: Path, scenario: str
) -> None:
    """LoadGen does not crash; 891 of 990 answers are right, which is 90 %."""
    _, data, served = rehearsal
    rows = data / "acc_eval_compliance_gpqa.parquet"
    conf = f"--user-conf={fleet.write_conf(tmp_path / 'user.conf', CONF)}"
    flags = ["--scenario", scenario, "--compliance", "TEST07", RATE, conf]
    scoring = f"--tokenizer={data / 'tokenizer'}"
    done = fleet.coordinate(served, rows, tmp_path, *flags, scoring, timeout_s=240)
    run_dir = tmp_path / scenario / "TEST07"
    assert fleet.run_json(run_dir)["verdict"]["outcome"] == "VALID", done.stderr
    verdict = json.loads((run_dir / "compliance.json").read_text())
    assert (verdict["passed"], verdict["value"]) == (True, 90.0)
    assert main([str(run_dir), f"--reference-data={rows}", scoring]) == 0
