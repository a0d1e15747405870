"""Why a run will not be a submission run is logged before LoadGen starts, over real workers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from coordinator.__main__ import main
from coordinator.config import parse
from coordinator.inputs import Inputs
from coordinator.pre_run_checks import build_setup
from protos import worker_pb2 as pb
from sut.benchmark import V6_1
from sut.results.deviations import deviations_before_run
from tests import fleet
from tests.coordinator.doctor.test_doctor import doctor
from tests.forked import completed, completed_command

# Runs the coordinator as if the only known round had other seeds than the installed LoadGen.
OTHER_ROUND = """
import dataclasses, sys
from sut import benchmark
benchmark.ROUNDS = (dataclasses.replace(benchmark.V6_1, name="v9.9", seeds=benchmark.Seeds(1, 2, 3)),)
from coordinator.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
SEEDS = (
    "LoadGen's seeds 2085463073848966840, 2747215439041700203, 16159082839903944936 are those of no known "
    "round: v9.9 has its seeds in mlcommons-loadgen 6.0.16 and 6.0.17"
)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run one counting worker."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1) as (started,):
        yield started


def warnings(stderr: str) -> list[str]:
    """List the warnings of the kind, in order."""
    return [
        line.partition("no submission run: ")[2] for line in stderr.splitlines() if "no submission" in line
    ]


def run_flags(worker: fleet.WorkerProcess, directory: Path) -> list[str]:
    """Flags of a short Server run over 20 prompts, with a user.conf of one second."""
    data = fleet.write_prompts(directory / "data.parquet", [[3, 7, i] for i in range(20)])
    conf = fleet.write_conf(directory / "user.conf", "*.Server.min_duration = 1000\n")
    files = ["--input-file", str(data), "--user-conf", str(conf), "--output-dir", str(directory / "out")]
    flags = ["--scenario", "server", "--target-qps", "50", "--max-new-tokens", "8", "--no-report"]
    return ["--workers", worker.address, *files, *flags]


def known(worker: fleet.WorkerProcess) -> list[str]:
    """List the deviations of such a run."""
    return [
        "effective_performance_sample_count is 20, not 6396",
        "effective_min_duration_ms is 1000, below 600000",
        "the data set has 20 rows, not 6396",
        "max_new_tokens is 8, not 10240",
        f"engine is counting, not vllm: 1 of 1 workers, first {worker.address}",
    ]


def test_deviations_are_logged_before_the_run(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """What flags, files, workers and LoadGen's release decide is logged first, and is in run.json again."""
    command = [sys.executable, "-c", OTHER_ROUND, *run_flags(worker, tmp_path)]
    done = completed_command(command)
    assert done.returncode in (0, 3), done.stderr
    expected = known(worker)
    expected.insert(2, SEEDS)
    assert expected == warnings(done.stderr)
    record = fleet.run_json(tmp_path / "out" / "server" / "performance")
    assert (None, expected) == (record["round"], record["verdict"]["deviations"])


def test_the_doctor_lists_round_figures_and_deviations(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """The doctor names the round, the budget with both sources, and each deviation that a run would log."""
    done = doctor([worker.address], *run_flags(worker, tmp_path)[2:])
    assert 0 == done.returncode, done.stdout
    rows = done.stdout.partition("\nsubmission\n")[2].splitlines()
    cells = [row.split(maxsplit=2) for row in rows if row.startswith(("  ok ", "  warn "))]
    assert [
        ["ok", "round", "v6.1, by the seeds of LoadGen 6.0.17; submission checker --version v6.1"],
        [
            "ok",
            "max_new_tokens",
            "8 tokens in this run; default 10,240 by the reference's README and TEST09; "
            "10,000 by the rules (inference_rules.adoc)",
        ],
        ["warn", "queries", TOO_SHORT.format(num=100, qps=50)],
        *(["warn", "deviation", text] for text in known(worker)),
    ] == cells


def test_the_doctor_names_both_tpot_limits_of_interactive() -> None:
    """15 ms by mlperf.conf, which decides, and 20 ms by the rules are in one row."""
    done = doctor(["127.0.0.1:9"], "--scenario", "interactive", "--timeout-s", "1")
    assert (
        "in ns: default 15,000,000 by mlperf.conf and the submission checker; "
        "20,000,000 by the rules (inference_rules.adoc)"
    ) in done.stdout


TOO_SHORT = (
    "a run of {num} queries at {qps} queries/s is too short: LoadGen calls none VALID below 459 queries "
    "(early stopping); raise min_duration or min_query_count"
)
# The reference's own files have this duration and, for performance, the answers' length of accuracy.
REFERENCE_CONF = "gpt-oss-120b.Server.target_qps = 8\ngpt-oss-120b.Server.min_duration = 60000\n"
REFERENCE = ["effective_min_duration_ms is 60000, below 600000", "max_new_tokens is 32768, not 10240"]


def reference_flags(directory: Path, conf: str = REFERENCE_CONF) -> list[str]:
    """Flags of a Server run with the reference's files, against a port on which nothing listens."""
    user = fleet.write_conf(directory / "user.conf", conf)
    generation = fleet.write_conf(directory / "generation_config.json", '{"max_new_tokens": 32768}')
    files = ["--user-conf", str(user), "--generation-config", str(generation)]
    return [*files, "--scenario", "server", "--output-dir", str(directory / "out")]


def refused_run(directory: Path, *flags: str) -> list[str]:
    """Log lines of a run that ends because its worker does not answer, without the time."""
    data = fleet.write_prompts(directory / "data.parquet", [[3, 7]] * 2)
    own = ["--workers", "127.0.0.1:9", "--input-file", str(data), "--ready-timeout-s", "0.5"]
    done = completed(main, [*own, *flags])
    assert 2 == done.returncode, done.stderr
    lines = [line.partition(": ")[2] for line in done.stderr.splitlines() if "pre_run_checks" in line]
    assert done.stderr.index(lines[-1]) < done.stderr.index("127.0.0.1:9")
    return lines


def test_the_first_lines_of_a_run_come_before_its_workers(tmp_path: Path) -> None:
    """What the files decide is said before the wait for the workers, with the settings that are taken."""
    found = refused_run(tmp_path, *reference_flags(tmp_path))
    assert "--user-conf sets target_qps = 8, min_duration = 60000" == found[0]
    assert "planned rate: 8 queries/s (--user-conf, line 1)" == found[1]
    deviations = [line.removeprefix("no submission run: ") for line in found[2:]]
    assert ["effective_performance_sample_count is 2, not 6396", REFERENCE[0]] == deviations[:2]
    assert ["the data set has 2 rows, not 6396", REFERENCE[1]] == deviations[2:]


def test_a_run_without_a_rate_says_what_loadgen_takes(tmp_path: Path) -> None:
    """Offline without target_qps gets LoadGen's 1 query/s, which a fleet exceeds: said before the run."""
    found = refused_run(tmp_path, "--scenario", "offline")
    assert found[0].startswith("planned rate: LoadGen's default of 1 query/s; Offline is INVALID if it ends")


def test_a_run_of_too_few_queries_says_so_before_its_workers(tmp_path: Path) -> None:
    """57 s at 8 queries/s are 456 queries, of which early stopping calls none VALID: run and doctor warn."""
    flags = reference_flags(tmp_path, "*.Server.target_qps = 8\n*.Server.min_duration = 57000\n")
    text = TOO_SHORT.format(num=456, qps=8)
    assert text == refused_run(tmp_path, *flags)[2]
    data = ["--input-file", str(tmp_path / "data.parquet")]
    rows = doctor(["127.0.0.1:9"], *flags, *data, "--timeout-s", "1").stdout.splitlines()
    assert [text] == [row.split(maxsplit=2)[2] for row in rows if row.startswith("  warn  queries ")]
    # An accuracy run is not judged by its latencies.
    assert text not in refused_run(tmp_path, *flags, "--accuracy", "--ungraded")


def test_the_doctor_judges_the_files_without_a_data_set(tmp_path: Path) -> None:
    """Without --input-file and with no worker that answers: the reference's files are no submission's."""
    done = doctor(["127.0.0.1:9"], *reference_flags(tmp_path), "--timeout-s", "1")
    assert (1, "") == (done.returncode, done.stderr)
    rows = done.stdout.splitlines()
    assert REFERENCE == [row.split(maxsplit=2)[2] for row in rows if row.startswith("  warn  deviation")]
    assert rows[-1].endswith(" ok; no submission run: 2 deviations above")
    assert "not checked: data set: --input-file is not given" in rows


CONF_WARNINGS = {
    "\ufeff*.Server.target_qps = 8\n": [],
    "*.Server.target_qps = 8\ngpt-oss-120b-99.Server.min_duration = 9\n": [
        "line 2: model 'gpt-oss-120b-99' has no effect, because the models of this benchmark are "
        "'gpt-oss-120b' and 'gpt-oss-120b-interactive'"
    ],
    "*.Server.target_qps = 5\n*.Server.target_qps = 8": [
        "line 1: *.Server.target_qps has no effect, because line 2, *.Server.target_qps = 8, takes precedence"
    ],
}


@pytest.mark.parametrize("conf", CONF_WARNINGS)
def test_lines_without_effect_are_said_before_the_run(tmp_path: Path, conf: str) -> None:
    """Run and doctor name the same lines of a user.conf, and both use the rate that LoadGen uses."""
    flags = reference_flags(tmp_path, conf)
    found = refused_run(tmp_path, *flags)
    named = [line.removeprefix("--user-conf, ") for line in found if "no effect" in line]
    assert CONF_WARNINGS[conf] == named
    assert any(line.startswith("planned rate: 8 queries/s (--user-conf, line ") for line in found)
    rows = doctor(["127.0.0.1:9"], *flags, "--timeout-s", "1").stdout.splitlines()
    named = [row.split(maxsplit=2)[2] for row in rows if row.startswith("  warn  user.conf")]
    assert CONF_WARNINGS[conf] == named
    (rate,) = (row for row in rows if "planned rate" in row)
    assert " core for 8 queries/s, " in rate
    assert "; rate from --user-conf, line " in rate


def test_interactive_is_told_that_its_rate_is_servers(tmp_path: Path) -> None:
    """A plain *.Server.target_qps also sets Interactive's rate: run and doctor say so with the other key."""
    flags = [*reference_flags(tmp_path, "*.Server.target_qps = 8\n"), "--scenario", "interactive"]
    text = (
        "line 1: *.Server.target_qps = 8 also sets the rate of Interactive; "
        "gpt-oss-120b-interactive.Server.target_qps sets it for Interactive only"
    )
    assert f"--user-conf, {text}" in refused_run(tmp_path, *flags)
    checked = doctor([], *flags, "--inputs-only", "--input-file", str(tmp_path / "data.parquet"))
    assert 0 == checked.returncode
    assert text in checked.stdout
    assert "not checked: workers and machines: --inputs-only is given" in checked.stdout.splitlines()


def test_data_that_nobody_can_grade_runs_only_when_asked(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """--ungraded runs accuracy without `ground_truth`: NOT_GRADED, exit code 0, and no submission run."""
    data = tmp_path / "data.parquet"
    pd.DataFrame({"tok_input": [[3, 7, i] for i in range(5)], "dataset": "aime25"}).to_parquet(data)
    flags = ["--accuracy", "--ungraded", "--max-new-tokens", "8"]
    done = fleet.coordinate([worker], data, tmp_path / "out", *flags)
    verdict = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["verdict"]
    assert (0, "NOT_GRADED") == (done.returncode, verdict["outcome"]), done.stderr
    reason = "eval_mlperf_accuracy.py cannot grade the answers: the data set has no column ground_truth"
    assert reason in warnings(done.stderr)
    assert reason in verdict["deviations"]


def test_stop_ids_that_a_worker_reports_are_compared(tmp_path: Path) -> None:
    """A vLLM worker whose checkpoint has no generation_config.json has one stop id: no submission run."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7]])
    config = parse(["--input-file", str(data), "--workers", "a:1,b:1"])
    args = {"enable_prefix_caching": "false"}
    stop_ids = {"a:1": [199_999, 200_002, 200_012], "b:1": [200_002]}
    workers = [
        (address, pb.WorkerInfo(engine="vllm", engine_args=args, stop_token_ids=ids))
        for address, ids in stop_ids.items()
    ]
    setup = build_setup(config, Inputs.read(config), workers, V6_1.seeds)
    expected = "stop ids are 200002, not 199999, 200002, 200012: 1 of 2 workers, first b:1"
    assert expected in deviations_before_run({}, setup)
