"""The readers with logs of the real LoadGen, over a SUT that answers immediately."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from sut.loadgen import LoadGenSettings
from sut.log_files import ACCURACY, DETAIL, find_log
from sut.results.checks import Counts, loadgen_tokens
from sut.results.deviations import deviations, deviations_before_run
from sut.results.loadgen_figures import LoadGenFigures
from sut.results.logs import read_accuracy, read_detail
from sut.results.verdict import Outcome, judge
from sut.settings import Mode, Scenario
from tests.sut.handmade_logs import COUNTS, STEADY, setup_of
from tests.sut.real_loadgen import CONF, CONF_OF_ONE, run_loadgen


def counts_of(num: int) -> Counts:
    """Counts of a run of that many samples."""
    requests = dict.fromkeys(("num_issued", "num_done"), num)
    tokens = dict.fromkeys(("received_tokens", "reported_tokens", "produced_tokens"), 3 * num)
    return Counts(**(COUNTS | requests | tokens | {"num_distinct": 4, "num_short": 0}))


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("scenario", list(Scenario))
def test_loadgens_own_logs_are_understood(tmp_path: Path, scenario: Scenario, mode: Mode) -> None:
    """LoadGen writes every key that deviations, figures and checks read."""
    num = run_loadgen(CONF, scenario, mode, tmp_path)
    detail = read_detail(find_log(tmp_path, DETAIL))
    assert detail.errors == []
    accuracy = read_accuracy(find_log(tmp_path, ACCURACY))
    logged = mode is Mode.ACCURACY
    # 4 answers of 3 tokens of 4 bytes.
    assert accuracy == ((Counter(range(4)), 12, 48, True) if logged else (Counter(), 0, 0, True))
    setup = setup_of(scenario, mode, 4)
    found = deviations(detail, setup)
    assert found[0] == "effective_performance_sample_count is 4, not 6396"
    assert not [text for text in found if "None" in text]
    assert f"the data set has 4 rows, not {4395 if logged else 6396}" in found
    keys = {text.split()[0] for text in found} - {"the"}
    expected = {"effective_performance_sample_count"}
    if logged:
        expected |= {"effective_accuracy_sample_count"}
    else:
        expected |= {"effective_min_duration_ms"}
        expected |= {"effective_samples_per_query"} if scenario is Scenario.OFFLINE else set()
    assert expected == keys
    if not logged:
        figures = LoadGenFigures.of(scenario, detail)
        offline = scenario is Scenario.OFFLINE
        assert len(figures.headline) == (3 if offline else 5)
        assert len(figures.bounds) == (1 if offline else 3)
        assert set(figures.latencies) == ({"latency_ns"} if offline else {"ttft_ns", "tpot_ns", "latency_ns"})
    verdict, _ = judge(tmp_path, setup, counts_of(num), STEADY)
    failed = [check.name for check in verdict.checks if not check.passed]
    # Too few queries for LoadGen's VALID is the only failure; an accuracy run has no LoadGen result.
    assert failed == ([] if logged else ["loadgen_result"])
    assert verdict.outcome is (Outcome.NOT_GRADED if logged else Outcome.INVALID)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("scenario", list(Scenario))
def test_settings_read_before_a_run_are_those_that_loadgen_logs(
    tmp_path: Path, scenario: Scenario, mode: Mode
) -> None:
    """Each setting read before the test has the key and value of the detail log, where LoadGen logs it."""
    run_loadgen(CONF, scenario, mode, tmp_path)
    values = read_detail(find_log(tmp_path, DETAIL)).values
    known = LoadGenSettings.read(CONF, None, scenario).logged
    # Offline has no latency limits, and one query.
    server_keys = ("ttft_latency", "tpot_latency", "coalesce_queries")
    server_only = {f"requested_server_{key}" for key in server_keys}
    assert known.keys() - values.keys() == (server_only if scenario is Scenario.OFFLINE else set())
    assert {key: known[key] for key in known if key in values} == {
        key: value for key, value in values.items() if key in known
    }


AUDIT = """*.*.mode = 2
*.*.accuracy_log_rng_seed = 720381539243781796
*.*.accuracy_log_sampling_target = {target}
*.*.min_query_count = 4
*.*.min_duration = 0
*.*.sample_concatenate_permutation = 0
*.*.test07_accuracy_threshold = 60.698
"""
# Changes to CONF, and the accuracy_log_sampling_target of the audit.config; None: no audit.config.
CONFS = [
    ("", None),
    ("*.*.min_query_count = 7\n*.*.target_qps = 50\n", None),
    ("*.*.sample_concatenate_permutation = 0\n*.*.performance_issue_unique = 1\n", None),
    ("*.Server.target_latency_percentile = 90\n*.*.ttft_latency = 9\n*.*.tpot_latency = 9\n", None),
    ("*.*.use_token_latencies = 1\n*.*.accuracy_log_sampling_target = 99\n", None),
    ("", 10_000),
    ("*.*.ttft_latency = 9\n", 10_000),
    ("", 2),
]


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize("changes, target", CONFS)
def test_the_lines_before_a_run_are_those_after_it(
    tmp_path: Path, scenario: Scenario, changes: str, target: int | None
) -> None:
    """What LoadGen's settings make of a run is the same before and after it, with an audit.config too."""
    audit_path, text = None, None
    if target is not None:
        text = AUDIT.format(target=target)
        audit_path = tmp_path / "audit.config"
        audit_path.write_text(text)
    run_loadgen(CONF + changes, scenario, Mode.PERFORMANCE, tmp_path, audit_path)
    setup = setup_of(scenario, num_samples=4, audit_config=text)
    after = deviations(read_detail(find_log(tmp_path, DETAIL)), setup)
    settings = LoadGenSettings.read(CONF + changes, text, scenario)
    assert after == deviations_before_run(settings.logged, setup)
    unlogged = "the audit.config does not make LoadGen log every answer"
    assert (target == 2) == (unlogged in after)


@pytest.mark.parametrize("scenario", list(Scenario))
def test_a_user_conf_cannot_hide_what_it_changes(tmp_path: Path, scenario: Scenario) -> None:
    """Changed order and percentile are one line each, also if LoadGen logs every answer."""
    conf = (
        "*.*.sample_concatenate_permutation = 0\n"
        "*.*.target_latency_percentile = 50\n"
        "*.*.accuracy_log_sampling_target = 10000\n"
    )
    num = run_loadgen(CONF + conf, scenario, Mode.PERFORMANCE, tmp_path)
    detail = read_detail(find_log(tmp_path, DETAIL))
    found = deviations(detail, setup_of(scenario, num_samples=4))
    assert "effective_sample_concatenate_permutation is False, not True" in found
    assert "effective_min_duration_ms is 100, below 600000" in found
    percentile = "effective_target_latency_percentile is 0.5, not 0.99"
    assert (scenario is not Scenario.OFFLINE) == (percentile in found)
    # 1000 queries/s for 0.1 s are 100 at least: all are logged.
    assert detail.logs_every_answer
    assert num == read_accuracy(find_log(tmp_path, ACCURACY)).entries.total()


@pytest.mark.parametrize("scenario", list(Scenario))
def test_loadgens_rates_give_the_sum_of_its_tokens(tmp_path: Path, scenario: Scenario) -> None:
    """In a performance run a sum of one token more or less than LoadGen's fails loadgen_tokens."""
    num = run_loadgen(CONF, scenario, Mode.PERFORMANCE, tmp_path)
    detail = read_detail(find_log(tmp_path, DETAIL))
    counts = counts_of(num)
    assert loadgen_tokens(detail, scenario, counts).passed
    for wrong in (3 * num - 1, 3 * num + 1):
        check = loadgen_tokens(detail, scenario, dataclasses.replace(counts, reported_tokens=wrong))
        assert not check.passed
        assert check.seen.startswith(f"LoadGen's rates imply {3 * num}.0, reported {wrong}, bound")


def test_a_run_of_one_query_has_rates_only_offline(tmp_path: Path) -> None:
    """Over one query Offline's rates give the sum of tokens; Server's are 0 and -nan and give no sum."""
    seen = {}
    for scenario in (Scenario.OFFLINE, Scenario.SERVER):
        (tmp_path / scenario).mkdir()
        assert run_loadgen(CONF_OF_ONE, scenario, Mode.PERFORMANCE, tmp_path / scenario) == 1
        detail = read_detail(find_log(tmp_path / scenario, DETAIL))
        check = loadgen_tokens(detail, scenario, counts_of(1))
        assert check.passed
        seen[scenario] = check.seen
    assert seen[Scenario.OFFLINE].startswith("LoadGen's rates imply 3.0, reported 3")
    assert seen[Scenario.SERVER] == "LoadGen printed no rates to compare with"
    assert detail.values["result_scheduled_samples_per_sec"] is None
