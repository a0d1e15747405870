"""Runs of real LoadGen, coordinator and workers over real sockets; every token is known by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import fleet

LOGGING_CONF = "*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 1000000\n"
# With limits far away no busy machine changes a verdict.
CONF = fleet.FAST_CONF + "".join(
    f"{model}.Server.ttft_latency = 600000\n{model}.Server.tpot_latency = 60000\n"
    for model in ("gpt-oss-120b", "gpt-oss-120b-interactive")
)
BUDGET = 32


class Started(NamedTuple):
    """Workers that several tests share, and the data set."""

    workers: list[fleet.WorkerProcess]
    prompts: list[list[int]]
    data: Path


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.long), 5])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Start two or five counting workers for all scenarios and modes."""
    directory = tmp_path_factory.mktemp("workers")
    prompts = fleet.counting_prompts(70)
    data = fleet.write_prompts(directory / "data.parquet", prompts)
    with fleet.workers(directory, request.param, "--step-ms", "2", "--max-num-seqs", "8") as workers:
        yield Started(workers, prompts, data)


def flags_of(scenario: str, directory: Path, more_conf: str = "") -> list[str]:
    """Compose the flags of a short run; `more_conf` is appended to its user.conf."""
    conf = fleet.write_conf(directory / "user.conf", CONF + more_conf)
    flags = ["--scenario", scenario, "--user-conf", str(conf), "--max-new-tokens", str(BUDGET)]
    # Interactive has no target_qps in the conf.
    return [*flags, "--target-qps", "200"] if scenario == "interactive" else flags


def check_tokens(run_dir: Path, prompts: list[list[int]], budget: int, server: bool) -> list[int]:
    """Check every logged answer, and return the sample indices that were logged."""
    entries = fleet.accuracy_entries(run_dir)
    for entry in entries:
        sample = int(str(entry["qsl_idx"]))
        expected = fleet.counting_answer(prompts[sample], budget)
        assert expected == fleet.tokens_of(str(entry["data"]))
        assert len(expected) == entry["token_count"]
        if server:
            assert expected[:1] == fleet.tokens_of(str(entry["token_data"]))
    return [int(str(entry["qsl_idx"])) for entry in entries]


@pytest.mark.parametrize("scenario", ["offline", "server", "interactive"])
def test_every_answer_of_an_accuracy_run_is_exact(started: Started, tmp_path: Path, scenario: str) -> None:
    """An accuracy run is complete, and every sample is logged once with the tokens computed by hand."""
    flags = flags_of(scenario, tmp_path)
    done = fleet.coordinate(started.workers, started.data, tmp_path / "out", *flags, "--accuracy")
    assert 0 == done.returncode, done.stderr
    run_dir = tmp_path / "out" / scenario / "accuracy"
    logged = check_tokens(run_dir, started.prompts, BUDGET, server=scenario != "offline")
    assert list(range(70)) == sorted(logged)


TOO_FEW = (
    "INVALID (Run unsuccessful, Processed 210 queries, Would need to run at least 249 more queries, with the "
    "run being successful if every additional query were under latency, not early_stopping_met)"
)


@pytest.mark.parametrize(
    ("scenario", "code", "result", "num_queries"),
    [
        ("offline", 0, "VALID", 70),
        # 1 s at 200/s, rounded up to whole data sets; for a 99th percentile LoadGen wants 459 queries.
        ("server", 3, TOO_FEW, 210),
        ("interactive", 3, TOO_FEW, 210),
    ],
)
def test_every_answer_of_a_performance_run_is_exact(
    started: Started, tmp_path: Path, scenario: str, code: int, result: str, num_queries: int
) -> None:
    """A performance run logs the hand-computed tokens of every query; only LoadGen can call it INVALID."""
    flags = flags_of(scenario, tmp_path, LOGGING_CONF)
    done = fleet.coordinate(started.workers, started.data, tmp_path / "out", *flags)
    assert code == done.returncode, done.stderr
    run_dir = tmp_path / "out" / scenario / "performance"
    logged = check_tokens(run_dir, started.prompts, BUDGET, server=scenario != "offline")
    assert sorted([*range(70)] * (num_queries // 70)) == sorted(logged)
    checks = {check["name"]: check for check in fleet.run_json(run_dir)["verdict"]["checks"]}
    assert result == checks.pop("loadgen_result")["seen"]
    assert [] == [check for check in checks.values() if not check["passed"]]


def exact_runs(
    started: list[fleet.WorkerProcess], prompts: list[list[int]], directory: Path
) -> Iterator[list[dict[str, Any]]]:
    """Make an accuracy run of Offline and one of Server, and check each token; yields each run's workers."""
    data = fleet.write_prompts(directory / "data.parquet", prompts)
    conf = fleet.write_conf(directory / "user.conf")
    for scenario in ("offline", "server"):
        flags = ["--scenario", scenario, "--user-conf", str(conf), "--max-new-tokens", "32"]
        done = fleet.coordinate(started, data, directory / "out", *flags, "--accuracy")
        assert 0 == done.returncode, done.stderr
        run_dir = directory / "out" / scenario / "accuracy"
        logged = check_tokens(run_dir, prompts, 32, server=scenario == "server")
        assert list(range(len(prompts))) == sorted(logged)
        yield [worker["info"] for worker in fleet.run_json(run_dir)["summary"]["workers"]]


def test_prompts_in_groups_change_no_token(tmp_path: Path) -> None:
    """Groups of two prompts over 64 slots, Offline and Server: each token is exact; run.json has the flag."""
    prompts = fleet.counting_prompts(200)
    groups = ("--prefill-group-tokens", "7", "--prefill-hold-ms", "20")
    with fleet.workers(tmp_path, 2, "--step-ms", "1", "--max-num-seqs", "64", *groups) as started:
        for answering in exact_runs(started, prompts, tmp_path):
            assert ["7"] * 2 == [info["engine_args"]["prefill_group_tokens"] for info in answering]


def test_chunked_prefill_changes_no_token(tmp_path: Path) -> None:
    """With chunked prefill and unequal prompts every token is exact; run.json names the engine."""
    prompts = fleet.counting_prompts(70)
    prompts = [[prompt[0], *[9] * (i % 50), *prompt[1:]] for i, prompt in enumerate(prompts)]
    costs = ("--prefill-tokens-per-s", "1e5", "--step-base-ms", "1", "--step-per-seq-us", "20")
    limits = ("--max-num-seqs", "8", "--max-num-batched-tokens", "32")
    with fleet.workers(tmp_path, 2, *costs, *limits, engine="simulated") as started:
        for answering in exact_runs(started, prompts, tmp_path):
            assert ["simulated"] * 2 == [info["engine"] for info in answering]


def test_answers_of_both_reasons_are_counted(tmp_path: Path) -> None:
    """run.json counts all requests, and min(answer length, budget) tokens of each.

    All of an Offline query's requests were issued at once: the longest latency is the last end.
    """
    prompts = fleet.counting_prompts(50)
    data = fleet.write_prompts(tmp_path / "data.pkl.parquet", prompts)
    conf = fleet.write_conf(tmp_path / "user.conf")
    with fleet.workers(tmp_path, 2) as started:
        done = fleet.coordinate(
            started, data, tmp_path / "out", "--accuracy", "--user-conf", str(conf), "--max-new-tokens", "16"
        )
    assert 0 == done.returncode, done.stderr
    summary = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["summary"]
    expected = sum(min(prompt[0], 16) for prompt in prompts)
    assert expected == sum(worker["tokens"] for worker in summary["workers"])
    assert len(prompts) == sum(worker["service_ns"]["count"] for worker in summary["workers"])
    assert summary["latency_ns"]["maximum"] == max(worker["ended_ns"] for worker in summary["workers"])
