"""The run's user.conf, with the settings that the real LoadGen reads from it."""

from pathlib import Path

import pytest

from sut.conf_effects import unused_lines
from sut.settings import Mode, Scenario
from tests.sut.effective_settings import (
    FAST,
    GPT,
    HEAD,
    INTERACTIVE,
    OFFLINE,
    SERVER,
    as_loadgen_reads,
    compose,
    parsed,
)


@pytest.mark.parametrize(
    "scenario, mode, num_samples, expected",
    [
        (OFFLINE, Mode.PERFORMANCE, 6396, f"{GPT}.Offline.min_query_count = 6396\n"),
        (OFFLINE, Mode.PERFORMANCE, 7000, f"{GPT}.Offline.min_query_count = 6396\n"),
        (SERVER, Mode.PERFORMANCE, 6396, ""),
        (INTERACTIVE, Mode.PERFORMANCE, 7000, ""),
        (SERVER, Mode.PERFORMANCE, 6395, f"{GPT}.Server.performance_sample_count_override = 6395\n"),
        (SERVER, Mode.ACCURACY, 4395, ""),
        (
            INTERACTIVE,
            Mode.ACCURACY,
            50,
            f"{FAST}.Server.accuracy_sample_count_override = 50\n",
        ),
        (
            OFFLINE,
            Mode.PERFORMANCE,
            990,
            f"{GPT}.Offline.min_query_count = 990\n{GPT}.Offline.performance_sample_count_override = 990\n",
        ),
        (
            OFFLINE,
            Mode.ACCURACY,
            4394,
            f"{GPT}.Offline.min_query_count = 4394\n{GPT}.Offline.accuracy_sample_count_override = 4394\n",
        ),
    ],
)
def test_a_run_gets_the_lines_that_it_needs(
    scenario: Scenario, mode: Mode, num_samples: int, expected: str
) -> None:
    """Offline gets its query count; sample counts above the rows are lowered; nothing else is set."""
    assert HEAD + expected == compose(scenario=scenario, mode=mode, num_samples=num_samples)


@pytest.mark.parametrize(
    "line, scenario, wins",
    [
        ("*.Offline.performance_sample_count_override = 7", OFFLINE, True),
        ("*.*.performance_sample_count_override = 7", OFFLINE, True),
        (f"{GPT}.*.performance_sample_count_override = 7", SERVER, True),
        (f"{GPT}.Server.performance_sample_count_override = 7", SERVER, True),
        (f"{FAST}.Server.performance_sample_count_override = 7", INTERACTIVE, True),
        ("  *.*.performance_sample_count_override  =  7  ", INTERACTIVE, True),
        ("*.Server.performance_sample_count_override = 7", OFFLINE, False),
        (f"{GPT}.*.performance_sample_count_override = 7", INTERACTIVE, False),
        (f"{FAST}.*.performance_sample_count_override = 7", SERVER, False),
        ("# *.*.performance_sample_count_override = 7", SERVER, False),
        ("*.*.min_duration = 7", SERVER, False),
    ],
)
def test_a_line_of_the_user_wins_where_it_applies(
    tmp_path: Path, line: str, scenario: Scenario, wins: bool
) -> None:
    """LoadGen reads the user's count if model and scenario match, also by wildcard, else the data set's."""
    conf = compose(parsed(tmp_path, line), scenario, num_samples=50)
    assert " ".join(line.split()) in conf.splitlines()
    name = "performance_sample_count_override"
    assert as_loadgen_reads(conf, scenario, name) == {name: 7 if wins else 50}


@pytest.mark.parametrize(
    "line", ["", "*.*.target_qps = 5", "*.Server.target_qps = 5", f"{GPT}.Server.target_qps = 5"]
)
@pytest.mark.parametrize("target_qps", [9.5, 1.5e-07, 9.123456789])
def test_the_flag_target_qps_beats_every_line(tmp_path: Path, line: str, target_qps: float) -> None:
    """LoadGen reads --target-qps exactly, whatever target_qps the user.conf sets, and the line is named."""
    user = parsed(tmp_path, line)
    conf = compose(user, SERVER, target_qps=target_qps)
    found = unused_lines(user, SERVER, target_qps)
    reason = f"{line} has no effect, because --target-qps {target_qps:g} takes precedence"
    assert ([((1,), reason)] if line else []) == found
    assert as_loadgen_reads(conf, SERVER, "server_target_qps") == {"server_target_qps": target_qps}


@pytest.mark.parametrize(
    "scenario, expected",
    [
        (
            OFFLINE,
            {"offline_expected_qps": 12.5, "min_query_count": 6396, "min_duration_ms": 600_000},
        ),
        (
            SERVER,
            {"server_target_qps": 12.5, "ttft_latency": 3_000_000_000, "tpot_latency": 80_000_000},
        ),
        (
            INTERACTIVE,
            {"server_target_qps": 12.5, "ttft_latency": 2_000_000_000, "tpot_latency": 15_000_000},
        ),
    ],
)
def test_each_scenario_has_its_official_settings(scenario: Scenario, expected: dict[str, float]) -> None:
    """Over 6,396 samples LoadGen's settings are mlperf.conf's, except target and Offline's query count."""
    always = {
        "performance_sample_count_override": 6396,
        "accuracy_sample_count_override": 4395,
        "use_token_latencies": True,
        "sample_concatenate_permutation": True,
        "min_duration_ms": 600_000,
    }
    conf = compose(scenario=scenario, target_qps=12.5)
    assert as_loadgen_reads(conf, scenario, *(always | expected)) == always | expected
