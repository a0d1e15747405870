"""The walk: real LoadGen, real coordinator, real workers over real sockets, every token known by hand."""

from pathlib import Path

import pytest

from tests import fleet

AUDIT_CONF = "*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 1000000\n"


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


@pytest.mark.parametrize("num_workers", [pytest.param(2, marks=pytest.mark.long), 5])
def test_every_answer_is_token_exact(tmp_path: Path, num_workers: int) -> None:
    """In each scenario and mode every logged token equals the one computed by hand."""
    prompts = fleet.counting_prompts(70)
    data = fleet.write_prompts(tmp_path / "data.parquet", prompts)
    conf = fleet.write_conf(tmp_path / "user.conf")
    audit = fleet.write_conf(tmp_path / "audit.config", AUDIT_CONF)
    with fleet.workers(tmp_path, num_workers, "--step-ms", "2", "--max-num-seqs", "8") as started:
        for scenario in ("offline", "server", "interactive"):
            flags = ["--scenario", scenario, "--user-conf", str(conf), "--max-new-tokens", "32"]
            if scenario == "interactive":
                # The short step keeps the counting engine inside 15 ms; the conf names the other model by *.
                flags += ["--target-qps", "200"]
            accuracy = fleet.coordinate(started, data, tmp_path / "out", *flags, "--accuracy")
            assert 0 == accuracy.returncode, accuracy.stderr
            logged = check_tokens(
                tmp_path / "out" / scenario / "accuracy", prompts, 32, server=scenario != "offline"
            )
            assert list(range(70)) == sorted(logged)

            performance = fleet.coordinate(
                started, data, tmp_path / "out", *flags, "--audit-config", str(audit)
            )
            assert performance.returncode in (0, 3), performance.stderr
            run_dir = tmp_path / "out" / scenario / "audit"
            logged = check_tokens(run_dir, prompts, 32, server=scenario != "offline")
            assert set(range(70)) == set(logged)
            checks = {c["name"]: c["passed"] for c in fleet.run_json(run_dir)["verdict"]["checks"]}
            assert checks.pop("loadgen_result") in (True, False)
            assert all(checks.values()), checks


def test_simulated_workers_answer_token_exact_at_their_own_pace(tmp_path: Path) -> None:
    """Chunked prefill and unequal prompts change no token; both runs are VALID and say who answered."""
    prompts = fleet.counting_prompts(70)
    prompts = [[prompt[0], *[9] * (i % 50), *prompt[1:]] for i, prompt in enumerate(prompts)]
    data = fleet.write_prompts(tmp_path / "data.parquet", prompts)
    conf = fleet.write_conf(tmp_path / "user.conf")
    costs = ("--prefill-tokens-per-s", "1e5", "--step-base-ms", "1", "--step-per-seq-us", "20")
    limits = ("--max-num-seqs", "8", "--max-num-batched-tokens", "32")
    with fleet.workers(tmp_path, 2, *costs, *limits, engine="simulated") as started:
        for scenario in ("offline", "server"):
            flags = ["--scenario", scenario, "--user-conf", str(conf), "--max-new-tokens", "32"]
            done = fleet.coordinate(started, data, tmp_path / "out", *flags, "--accuracy")
            assert 0 == done.returncode, done.stderr
            run_dir = tmp_path / "out" / scenario / "accuracy"
            logged = check_tokens(run_dir, prompts, 32, server=scenario == "server")
            assert list(range(70)) == sorted(logged)
            answering = fleet.run_json(run_dir)["summary"]["workers"]
            assert ["simulated"] * 2 == [worker["info"]["engine"] for worker in answering]


def test_answers_of_both_reasons_are_counted(tmp_path: Path) -> None:
    """Tokens in run.json are the hand count: min(answer length, budget) over all rows; so are the requests.

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
