"""Deviations of a run from a submission run, by LoadGen's detail log, flags, files and workers."""

import pytest

from sut.benchmark import Seeds
from sut.results.deviations import EngineReport, Setup, deviations, deviations_before_run
from sut.results.logs import DetailLog
from sut.settings import GenerationConfig, Mode, Scenario
from tests.sut.handmade_logs import (
    ACCURACY,
    AUDITED,
    INTERACTIVE,
    OFFLINE,
    PERFORMANCE,
    SERVER,
    STOP_IDS,
    setup_of,
)

ROWS = {PERFORMANCE: 6396, ACCURACY: 4395}
SUBMISSION: dict[str, object] = {
    "effective_performance_sample_count": 6396,
    "effective_accuracy_sample_count": 4395,
    "requested_use_token_latencies": True,
    "effective_sample_concatenate_permutation": True,
    "effective_target_latency_percentile": 0.99,
    "effective_min_duration_ms": 600_000,
    "effective_performance_issue_unique": False,
    "requested_server_coalesce_queries": False,
    "effective_samples_per_query": 6396,
    "requested_server_ttft_latency": 3_000_000_000,
    "requested_server_tpot_latency": 80_000_000,
}
FAST: dict[str, object] = SUBMISSION | {
    "requested_server_ttft_latency": 2_000_000_000,
    "requested_server_tpot_latency": 15_000_000,
}


@pytest.mark.parametrize("mode", [PERFORMANCE, ACCURACY])
@pytest.mark.parametrize(
    "scenario, values", [(OFFLINE, SUBMISSION), (SERVER, SUBMISSION), (INTERACTIVE, FAST)]
)
def test_a_submissions_settings_have_no_deviations(
    scenario: Scenario, values: dict[str, object], mode: Mode
) -> None:
    """The official settings of each scenario, and longer runs over more samples, have no deviations."""
    setup = setup_of(scenario, mode, ROWS[mode])
    assert deviations(DetailLog(values, []), setup) == []
    more = values | {"effective_min_duration_ms": 900_000, "effective_samples_per_query": 12_792}
    assert deviations(DetailLog(more, []), setup) == []


@pytest.mark.parametrize(
    "scenario, mode, key, value",
    [
        (OFFLINE, PERFORMANCE, "effective_performance_sample_count", 50),
        (SERVER, ACCURACY, "effective_performance_sample_count", 6395),
        (OFFLINE, ACCURACY, "effective_accuracy_sample_count", 50),
        (SERVER, PERFORMANCE, "requested_use_token_latencies", False),
        (OFFLINE, PERFORMANCE, "effective_sample_concatenate_permutation", False),
        (SERVER, PERFORMANCE, "effective_target_latency_percentile", 0.5),
        (INTERACTIVE, PERFORMANCE, "effective_target_latency_percentile", 0.98),
        (OFFLINE, PERFORMANCE, "effective_min_duration_ms", 599_999),
        (INTERACTIVE, PERFORMANCE, "effective_min_duration_ms", 1000),
        (OFFLINE, PERFORMANCE, "effective_performance_issue_unique", True),
        (SERVER, PERFORMANCE, "effective_performance_issue_unique", True),
        (SERVER, PERFORMANCE, "requested_server_coalesce_queries", True),
        (OFFLINE, PERFORMANCE, "effective_samples_per_query", 6395),
        (SERVER, PERFORMANCE, "requested_server_ttft_latency", 3_000_000_001),
        (SERVER, PERFORMANCE, "requested_server_tpot_latency", 15_000_000),
        (INTERACTIVE, PERFORMANCE, "requested_server_ttft_latency", 3_000_000_000),
        (INTERACTIVE, PERFORMANCE, "requested_server_tpot_latency", 80_000_000),
    ],
)
def test_a_deviation_is_named_with_its_value(scenario: Scenario, mode: Mode, key: str, value: object) -> None:
    """A setting that a submission does not allow is one line with LoadGen's key and its value or None."""
    values = FAST if scenario is INTERACTIVE else SUBMISSION
    setup = setup_of(scenario, mode, ROWS[mode])
    (found,) = deviations(DetailLog(values | {key: value}, []), setup)
    assert found.startswith(f"{key} is {value}")
    left = {k: v for k, v in values.items() if k != key}
    (found,) = deviations(DetailLog(left, []), setup)
    assert found.startswith(f"{key} is None")


def test_rates_that_were_not_measured_are_named() -> None:
    """infer_token_latencies of a user.conf puts a rate into LoadGen's summary that follows from a factor."""
    (line,) = lines(setup_of(OFFLINE), result_inferred_tokens_per_second=1e9)
    assert line.startswith("infer_token_latencies is set: ")


def lines(setup: Setup, **values: object) -> list[str]:
    """List the deviations of a run with the official settings of LoadGen, with changes."""
    official = FAST if setup.scenario is INTERACTIVE else SUBMISSION
    return deviations(DetailLog(official | values, []), setup)


@pytest.mark.parametrize(
    "mode, generation, expected",
    [
        (PERFORMANCE, {"max_new_tokens": 3}, "max_new_tokens is 3, not 10240"),
        (PERFORMANCE, {"max_new_tokens": 32_768}, "max_new_tokens is 32768, not 10240"),
        (ACCURACY, {"max_new_tokens": 10_240}, "max_new_tokens is 10240, not 32768"),
        (PERFORMANCE, {"temperature": 0.0}, "temperature is 0.0, not 1.0"),
        (PERFORMANCE, {"top_p": 0.9}, "top_p is 0.9, not 1.0"),
        (PERFORMANCE, {"top_k": 1}, "top_k is 1, not -1"),
    ],
)
def test_other_sampling_is_named(mode: Mode, generation: dict[str, float], expected: str) -> None:
    """Budget and sampling that differ from the reference are one line each; any seed is allowed."""
    official = {"max_new_tokens": 32_768 if mode is ACCURACY else 10_240, "seed": 7}
    setup = setup_of(OFFLINE, mode, ROWS[mode], generation=GenerationConfig(**(official | generation)))
    assert [expected] == lines(setup)


@pytest.mark.parametrize(
    "mode, rows, expected",
    [
        (ACCURACY, 6396, "the data set has 6396 rows, not 4395"),
        (PERFORMANCE, 4395, "the data set has 4395 rows, not 6396"),
        (PERFORMANCE, 6397, "the data set has 6397 rows, not 6396"),
    ],
)
def test_another_data_set_is_named(mode: Mode, rows: int, expected: str) -> None:
    """A data set of another size than the mode's is a line: LoadGen silently uses its first rows."""
    assert [expected] == lines(setup_of(SERVER, mode, rows))


@pytest.mark.parametrize("scenario", list(Scenario))
def test_what_the_workers_run_is_named_once(scenario: Scenario) -> None:
    """Another engine, prefix caching and speculation that the rules forbid are one line for all workers."""
    plain = {"enable_prefix_caching": "false"}
    drafting = plain | {"speculative_config": '{"num_speculative_tokens": 3}'}
    engines = (
        EngineReport("a:1", "vllm", plain, STOP_IDS),
        EngineReport("b:1", "counting", {"step_ms": "1.0"}, (200_002,)),
        EngineReport("b:2", "counting", {"step_ms": "1.0"}, (200_002,)),
        EngineReport("c:1", "vllm", {"enable_prefix_caching": "true"}, STOP_IDS),
        EngineReport("d:1", "vllm", drafting, STOP_IDS),
        EngineReport("e:1", "vllm", plain | {"spec_method": '"ngram"', "spec_tokens": "3"}, STOP_IDS),
        EngineReport("f:1", "vllm", {}, STOP_IDS),
    )
    told = f"is set in {scenario}, only Interactive allows it: 1 of 7 workers, first"
    expected = [
        "engine is counting, not vllm: 2 of 7 workers, first b:1",
        "enable_prefix_caching is true, not false: 1 of 7 workers, first c:1",
        "enable_prefix_caching is not reported, not false: 1 of 7 workers, first f:1",
    ]
    if scenario is INTERACTIVE:
        named, head = "1 of 7 workers, first", "nvidia/gpt-oss-120b-Eagle3-long-context"
        rule = "speculative decoding:"
        expected[2:2] = [
            f"{rule} method is not given, not eagle3: {named} d:1",
            f"{rule} model is not given, not {head}: 2 of 7 workers, first d:1",
            f"{rule} method is ngram, not eagle3: {named} e:1",
        ]
    else:
        expected[2:2] = [f"speculative_config {told} d:1", f"spec_method {told} e:1"]
    assert expected == lines(setup_of(scenario, engines=engines))


TEST07 = "*.*.mode = 2\n*.*.test07_accuracy_threshold = 60.698\n"
TEST09 = "*.*.mode = 2\n*.*.test09_min_output_tokens = 1150.38\n*.*.test09_max_output_tokens = 1406.02\n"
# The settings of LoadGen that both tests change.
CHANGED = AUDITED | {"effective_sample_concatenate_permutation": False}


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("audit, rows", [(TEST07, 990), (TEST09, 6396)])
def test_a_compliance_test_may_change_what_its_audit_config_changes(
    scenario: Scenario, audit: str, rows: int
) -> None:
    """The audit.config may change duration and order; TEST07's data set has 990 rows."""
    values = CHANGED | {"effective_performance_sample_count": rows, "effective_samples_per_query": rows}
    assert [] == lines(setup_of(scenario, num_samples=rows, audit_config=audit), **values)


def test_a_compliance_test_is_held_to_the_rest() -> None:
    """Budget, rows, engine, percentile and limits must be a performance run's; every answer is logged."""
    setup = setup_of(
        SERVER,
        num_samples=50,
        audit_config=TEST09,
        generation=GenerationConfig(max_new_tokens=3),
        engines=(EngineReport("a:1", "simulated", {}, (200_002,)),),
    )
    values = CHANGED | {
        "effective_performance_sample_count": 50,
        "effective_target_latency_percentile": 0.5,
        "requested_server_ttft_latency": 1,
        "effective_min_sample_count": 20_000,
    }
    assert [
        "effective_performance_sample_count is 50, not 6396",
        "effective_target_latency_percentile is 0.5, not 0.99",
        "requested_server_ttft_latency is 1 ns, not 3000000000",
        "the audit.config does not make LoadGen log every answer",
        "the data set has 50 rows, not 6396",
        "max_new_tokens is 3, not 10240",
        "engine is simulated, not vllm: 1 of 1 workers, first a:1",
    ] == lines(setup, **values)


def test_logged_answers_alone_make_no_compliance_test() -> None:
    """A user.conf that makes LoadGen log answers, without an audit.config, removes no line."""
    expected = [
        "effective_sample_concatenate_permutation is False, not True",
        "effective_min_duration_ms is 0, below 600000",
    ]
    assert expected == lines(setup_of(OFFLINE), **CHANGED)


@pytest.mark.parametrize("audit", [None, TEST09])
def test_seeds_of_no_round_are_named_before_and_after_a_run(audit: str | None) -> None:
    """A LoadGen of another round deviates in its seeds, in any run, and names the releases to take."""
    expected = [
        "LoadGen's seeds 1, 2, 3 are those of no known round: "
        "v6.1 has its seeds in mlcommons-loadgen 6.0.16 and 6.0.17"
    ]
    setup = setup_of(OFFLINE, audit_config=audit, seeds=Seeds(1, 2, 3))
    assert expected == deviations_before_run({}, setup)
    assert expected == lines(setup, **(CHANGED if audit else {}))


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("mode", [PERFORMANCE, ACCURACY])
def test_what_is_known_before_a_run_is_listed_before_it(scenario: Scenario, mode: Mode) -> None:
    """Known settings, rows, sampling and engines are listed before a run as after it, unknown ones not."""
    setup = setup_of(scenario, mode, 50, generation=GenerationConfig(max_new_tokens=3))
    values: dict[str, object] = {"effective_performance_sample_count": 50, "effective_min_duration_ms": 1}
    rows, budget = (4395, 32768) if mode is ACCURACY else (6396, 10240)
    expected = ["effective_performance_sample_count is 50, not 6396"]
    if mode is PERFORMANCE:
        expected.append("effective_min_duration_ms is 1, below 600000")
    expected += [f"the data set has 50 rows, not {rows}", f"max_new_tokens is 3, not {budget}"]
    assert expected == deviations_before_run(values, setup)
    official = FAST if scenario is INTERACTIVE else SUBMISSION
    assert expected == deviations(DetailLog(official | values, []), setup)


def test_settings_before_a_compliance_test_are_listed() -> None:
    """LoadGen's settings with the audit.config are known before the run; the duration does not count."""
    setup = setup_of(SERVER, num_samples=50, audit_config=TEST09)
    values: dict[str, object] = {"effective_performance_sample_count": 50, "effective_min_duration_ms": 1}
    assert [
        "effective_performance_sample_count is 50, not 6396",
        "the data set has 50 rows, not 6396",
    ] == deviations_before_run(values, setup)


@pytest.mark.parametrize(
    ("stop_ids", "listed"),
    [
        # config.json's id alone, where generation_config.json is missing or its eos_token_id is null or [].
        ((200_002,), "200002"),
        ((), "none"),
        ((199_999, 200_002), "199999, 200002"),
        ((199_999, 200_002, 200_012, 7), "7, 199999, 200002, 200012"),
        ((3999, 4002, 4012), "3999, 4002, 4012"),
    ],
)
def test_other_stop_ids_than_the_benchmarks_are_named(stop_ids: tuple[int, ...], listed: str) -> None:
    """Fewer, more or other stop ids are a line that names them; their order is of no account."""
    engines = (
        EngineReport("a:1", "vllm", {"enable_prefix_caching": "false"}, STOP_IDS),
        EngineReport("b:1", "vllm", {"enable_prefix_caching": "false"}, stop_ids),
    )
    expected = f"stop ids are {listed}, not 199999, 200002, 200012: 1 of 2 workers, first b:1"
    assert [expected] == lines(setup_of(OFFLINE, engines=engines))
    assert [expected] == deviations_before_run({}, setup_of(OFFLINE, engines=engines))


def test_a_kv_connector_is_named() -> None:
    """It may reuse the KV cache of other queries although vLLM's own prefix caching is off."""
    args = {"enable_prefix_caching": "false", "kv_transfer_config": '{"kv_connector": "LMCacheConnectorV1"}'}
    engines = (EngineReport("a:1", "vllm", args, STOP_IDS),)
    text = "kv_transfer_config is set: a KV connector may reuse the KV cache across queries"
    assert [f"{text}: 1 of 1 workers, first a:1"] == lines(setup_of(OFFLINE, engines=engines))


def test_random_weights_are_named() -> None:
    """Random weights are a line by --random-weights, and one by the engine's load format."""
    dummy = {"enable_prefix_caching": "false", "load_format": '"dummy"'}
    engines = (EngineReport("a:1", "vllm", dummy, STOP_IDS),)
    assert [
        "--random-weights: the answers are those of no trained model",
        "load_format is dummy: the weights are random: 1 of 1 workers, first a:1",
    ] == lines(setup_of(OFFLINE, engines=engines, random_weights=True))


def test_what_a_grader_does_not_find_is_named() -> None:
    """Missing columns deviate in an accuracy run and TEST07, in no other run."""
    bare = {"column_names": ("tok_input", "dataset")}
    reason = "cannot grade the answers: the data set has no column ground_truth"
    assert [f"eval_mlperf_accuracy.py {reason}"] == lines(setup_of(SERVER, ACCURACY, 4395, **bare))
    assert [] == lines(setup_of(SERVER, **bare))
    setup = setup_of(SERVER, num_samples=990, audit_config=TEST07, **bare)
    assert f"run_verification.py of TEST07 {reason}" in deviations_before_run({}, setup)
    assert [] == deviations_before_run({}, setup_of(SERVER, audit_config=TEST09, **bare))


def test_another_mix_of_accuracy_rows_is_named() -> None:
    """The script that grades knows three names, in any case, and weighs them by their official rows."""
    upper = {"AIME25": 240, "gpqa_diamond": 990, "LiveCodeBench_v6": 3165}
    assert [] == lines(setup_of(OFFLINE, ACCURACY, 4395, rows_by_dataset=upper))
    mixed = {"aime25": 240, "gpqa": 990, "livecodebench_v6": 3165}
    assert ["the data set has 0 rows of gpqa_diamond, not 990"] == lines(
        setup_of(OFFLINE, ACCURACY, 4395, rows_by_dataset=mixed)
    )


def test_the_mix_of_another_number_of_rows_is_not_compared() -> None:
    """An accuracy data set of 50 rows is one line: its rows by name cannot be the official ones."""
    setup = setup_of(OFFLINE, ACCURACY, 50, rows_by_dataset={"aime25": 50})
    assert ["the data set has 50 rows, not 4395"] == lines(setup)


def test_thresholds_of_an_audit_config_are_named() -> None:
    """A threshold that differs from the official one, or is missing, is a line."""
    setup = setup_of(OFFLINE, audit_config="*.*.test09_min_output_tokens = 2\n")
    assert [
        "test09_min_output_tokens is 2, not 1150.38",
        "test09_max_output_tokens is None, not 1406.02",
    ] == deviations_before_run({}, setup)


def test_an_engine_that_a_worker_had_for_a_part_of_the_run_counts() -> None:
    """A worker that came back is one worker; what it had on any stream is a deviation, once."""
    cached = EngineReport("a:1", "vllm", {"enable_prefix_caching": "true"}, STOP_IDS)
    usual = EngineReport("a:1", "vllm", {"enable_prefix_caching": "false"}, STOP_IDS)
    other = EngineReport("b:1", "vllm", {"enable_prefix_caching": "false"}, STOP_IDS)
    expected = ["enable_prefix_caching is true, not false: 1 of 2 workers, first a:1"]
    assert expected == lines(setup_of(OFFLINE, engines=(cached, usual, other)))
    assert expected == lines(setup_of(OFFLINE, engines=(usual, cached, cached, other)))
