"""The table of benchmark and round, compared with LoadGen itself and with the rest of the product."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

from sut.benchmark import BENCHMARK, V6_1, Seeds, find_round, unknown_round
from sut.loadgen import LoadGenSettings
from sut.settings import Scenario
from worker.engines.scripted import answers

ROOT = Path(__file__).resolve().parents[2]
OFFLINE, SERVER, INTERACTIVE = Scenario.OFFLINE, Scenario.SERVER, Scenario.INTERACTIVE
# Read from mlcommons-loadgen 6.0.15.
V6_0_SEEDS = Seeds(2465351861681999779, 14276810075590677512, 3936089224930324775)


@pytest.mark.parametrize(
    "scenario, ttft_ns, tpot_ns",
    [(SERVER, 3_000_000_000, 80_000_000), (INTERACTIVE, 2_000_000_000, 15_000_000)],
)
def test_the_table_holds_what_loadgen_embeds(scenario: Scenario, ttft_ns: int, tpot_ns: int) -> None:
    """Counts, duration, percentile and limits of the table are those of LoadGen's embedded mlperf.conf."""
    logged = LoadGenSettings.read("", None, scenario).logged
    default = {
        "effective_accuracy_log_sampling_target": 0,
        "effective_target_qps": 1.0,
        "effective_min_sample_count": 100,
        "effective_performance_issue_unique": False,
        "requested_server_coalesce_queries": False,
    }
    assert logged == default | {
        "effective_performance_sample_count": 6396,
        "effective_accuracy_sample_count": 4395,
        "requested_use_token_latencies": True,
        "effective_sample_concatenate_permutation": True,
        "effective_target_latency_percentile": 0.99,
        "effective_min_duration_ms": 600_000,
        "requested_server_ttft_latency": ttft_ns,
        "requested_server_tpot_latency": tpot_ns,
    }
    assert (6396, 4395) == (BENCHMARK.performance_sample_count, BENCHMARK.accuracy_sample_count)
    assert (600_000, 0.99) == (BENCHMARK.min_duration_ms, BENCHMARK.latency_percentile)
    assert (ttft_ns, tpot_ns) == (scenario.limits.ttft_ns.value, scenario.limits.tpot_ns.value)


def test_sources_that_differ_are_both_named() -> None:
    """The performance budget and Interactive's TPOT name their default and what the rules text says."""
    assert str(BENCHMARK.performance_max_new_tokens) == (
        "default 10,240 by the reference's README and TEST09; 10,000 by the rules (inference_rules.adoc)"
    )
    # 15 ms and 20 ms.
    assert str(BENCHMARK.interactive.tpot_ns) == (
        "default 15,000,000 by mlperf.conf and the submission checker; "
        "20,000,000 by the rules (inference_rules.adoc)"
    )
    assert str(BENCHMARK.accuracy_max_new_tokens) == "default 32,768 by the reference's README"


@pytest.mark.parametrize("scenario", list(Scenario))
def test_this_loadgen_is_of_the_round(scenario: Scenario) -> None:
    """The installed LoadGen, one of the releases that v6.1 names, has the seeds of v6.1."""
    assert find_round(LoadGenSettings.read("", None, scenario).seeds) is V6_1
    assert version("mlcommons_loadgen") in V6_1.loadgen_versions


def test_seeds_of_another_round_are_found_in_none() -> None:
    """The seeds of v6.0, or one other seed, match no round; the line names them and where v6.1's are."""
    assert find_round(V6_0_SEEDS) is None
    assert find_round(V6_1.seeds._replace(schedule=0)) is None
    assert unknown_round(V6_0_SEEDS) == (
        "LoadGen's seeds 2465351861681999779, 14276810075590677512, 3936089224930324775 are those of "
        "no known round: v6.1 has its seeds in mlcommons-loadgen 6.0.16 and 6.0.17"
    )


def test_a_compliance_test_is_recognised_by_its_own_key() -> None:
    """TEST07 and TEST09 are told apart by what their audit.config alone holds; others are neither."""
    found = [
        BENCHMARK.compliance_test(["mode", key])
        for key in ("test07_accuracy_threshold", "test09_max_output_tokens", "min_duration")
    ]
    assert [("TEST07", 990), ("TEST09", 6396), None] == [
        test and (test.name, test.num_samples) for test in found
    ]


def test_the_counting_engine_has_the_benchmarks_ids() -> None:
    """The worker, which may not import the table, has its vocabulary, <|return|> and smallest stop id."""
    stop_ids = {stop.text: stop.token_id for stop in BENCHMARK.stop_ids}
    assert stop_ids == {"<|return|>": 200_002, "<|endoftext|>": 199_999, "<|call|>": 200_012}
    assert answers.STOP_TOKEN_ID == stop_ids["<|return|>"]
    assert min(stop_ids.values()) == answers.COUNT_MODULUS
    assert BENCHMARK.vocab_size == answers.VOCAB_SIZE


# Figures that occur for no other reason.
FIGURES = {
    *(6396, 4395, 990, 10_240, 32_768, 600_000, 15_330, 1_278.2, 201_088, 199_998),
    *(200_002, 199_999, 200_012, 3_000_000_000, 2_000_000_000, 80_000_000, 15_000_000, 20_000_000),
    *("gpt-oss-120b", "gpt-oss-120b-interactive", "openai/gpt-oss-120b", *V6_1.seeds),
}


def test_no_other_module_holds_a_figure_of_the_benchmark() -> None:
    """Outside the table no literal of the product is one of its figures; worker/ may not import it."""
    rooms = ("common", "sut", "coordinator", "tokenfleet")
    paths = [path for room in rooms for path in (ROOT / room).rglob("*.py")] + [ROOT / "run_mlperf.py"]
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}"
        for path in paths
        if path != ROOT / "sut" / "benchmark.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in FIGURES
    }
    assert found == set()
