"""Lines of a user.conf or audit.config without effect are named; the real LoadGen decides which they are."""

from pathlib import Path

import pytest

from sut.conf_effects import shared_rate, unused_lines, used_lines
from sut.loadgen_conf import AUDIT_FLAG, USER_FLAG
from sut.settings import Scenario
from tests.sut.effective_settings import (
    FAST,
    GPT,
    INTERACTIVE,
    OFFLINE,
    RATE,
    SERVER,
    as_loadgen_reads,
    compose,
    parsed,
)


def unused(directory: Path, content: str | bytes, scenario: Scenario, flag: str = USER_FLAG) -> list[str]:
    """List the lines that a run says to be without effect."""
    return [str(lines) for lines in unused_lines(parsed(directory, content, flag), scenario, None)]


# Line, scenario, and the reason why it has no effect; None: it has one, or is another scenario's.
EFFECTS = [
    (f"{GPT}-99.Offline.min_duration = 7", OFFLINE, f"model '{GPT}-99' has no effect"),
    (f"{GPT}-99.*.min_duration = 7", SERVER, f"model '{GPT}-99' has no effect"),
    ("llama2-70b.Server.min_duration = 7", OFFLINE, "the models of this benchmark are"),
    (f"{FAST}.Offline.min_duration = 7", OFFLINE, "Interactive has scenario Server in LoadGen"),
    ("*.*.mode = 1", SERVER, "--accuracy sets LoadGen's mode"),
    ("*.*.test07_accuracy_threshold = 1", SERVER, "only an audit.config has this key"),
    ("*.Offline.coalesce_queries = 1", OFFLINE, "LoadGen does not use coalesce_queries in offline"),
    ("*.*.ttft_latency = 1", OFFLINE, "LoadGen does not use ttft_latency in offline"),
    ("*.Server.samples_per_query = 3", SERVER, "LoadGen does not use samples_per_query in server"),
    ("*.SingleStream.target_latency = 3", SERVER, None),
    (f"{GPT}.Server.min_duration = 7", INTERACTIVE, None),
    (f"{FAST}.Server.min_duration = 7", SERVER, None),
    ("*.Server.min_duration = 7", OFFLINE, None),
    ("*.Offline.min_duration = 7", OFFLINE, None),
    (f"{GPT}.*.min_duration = 7", SERVER, None),
    (f"{FAST}.*.min_duration = 7", INTERACTIVE, None),
    ("*.Server.coalesce_queries = 1", INTERACTIVE, None),
]


@pytest.mark.parametrize("line, scenario, reason", EFFECTS)
def test_a_line_without_effect_is_named(
    tmp_path: Path, line: str, scenario: Scenario, reason: str | None
) -> None:
    """A line for no model or key of the run is named with its number; one for another scenario is not."""
    found = unused(tmp_path, f"# comment\n{line}\n", scenario)
    if reason is None:
        assert [] == found
        return
    (text,) = found
    assert text.startswith("line 2: ")
    assert reason in text
    assert "sets nothing in" in used_lines(parsed(tmp_path, line), scenario)


def test_equal_reasons_share_a_line(tmp_path: Path) -> None:
    """All lines for one foreign model are one message with the first line numbers."""
    lines = "".join(f"{GPT}-99.Server.{key} = 5\n" for key in ("min_duration", "target_qps", "max_duration"))
    found = unused(tmp_path, f"{lines}{lines}", SERVER)
    ours = f"the models of this benchmark are '{GPT}' and '{FAST}'"
    assert [f"lines 1, 2, 3 and 3 more: model '{GPT}-99' has no effect, because {ours}"] == found


def test_the_loser_of_two_lines_is_named(tmp_path: Path) -> None:
    """Of two lines for one key the one that LoadGen does not use is named, with the one that it uses."""
    content = f"*.Server.min_duration = 7\n*.Server.min_duration = 8\n{GPT}.*.min_duration = 9\n"
    winner = "because line 2, *.Server.min_duration = 8, takes precedence"
    assert [
        f"line 1: *.Server.min_duration has no effect, {winner}",
        f"line 3: {GPT}.*.min_duration has no effect, {winner}",
    ] == unused(tmp_path, content, SERVER)
    conf = compose(parsed(tmp_path, content), SERVER)
    assert as_loadgen_reads(conf, SERVER, "min_duration_ms") == {"min_duration_ms": 8}


# Key, value that mlperf.conf does not have, LoadGen's attribute in Offline and in Server.
SETTINGS = [
    ("accuracy_log_rng_seed", 7, "accuracy_log_rng_seed", "accuracy_log_rng_seed"),
    ("accuracy_log_sampling_target", 7, "accuracy_log_sampling_target", "accuracy_log_sampling_target"),
    ("accuracy_sample_count_override", 7, "accuracy_sample_count_override", "accuracy_sample_count_override"),
    ("coalesce_queries", 1, None, "server_coalesce_queries"),
    ("infer_token_latencies", 1, "infer_token_latencies", "infer_token_latencies"),
    ("max_async_queries", 7, None, "server_max_async_queries"),
    ("max_duration", 7, "max_duration_ms", "max_duration_ms"),
    ("max_query_count", 7, "max_query_count", "max_query_count"),
    ("min_duration", 7, "min_duration_ms", "min_duration_ms"),
    ("min_query_count", 7, "min_query_count", "min_query_count"),
    ("performance_issue_same", 1, "performance_issue_same", "performance_issue_same"),
    ("performance_issue_same_index", 7, "performance_issue_same_index", "performance_issue_same_index"),
    ("performance_issue_unique", 1, "performance_issue_unique", "performance_issue_unique"),
    (
        "performance_sample_count_override",
        7,
        "performance_sample_count_override",
        "performance_sample_count_override",
    ),
    ("print_timestamps", 1, "print_timestamps", "print_timestamps"),
    ("sample_concatenate_permutation", 0, "sample_concatenate_permutation", "sample_concatenate_permutation"),
    ("samples_per_query", 7, None, None),
    ("target_latency", 7, None, "server_target_latency_ns"),
    ("target_latency_percentile", 7, None, "server_target_latency_percentile"),
    ("target_qps", 7, "offline_expected_qps", "server_target_qps"),
    ("tpot_latency", 7, None, "tpot_latency"),
    ("ttft_latency", 7, None, "ttft_latency"),
    # 0 would keep LoadGen from reading the latency limits.
    ("use_token_latencies", 1, None, None),
]


def test_loadgen_uses_the_keys_that_are_said_to_have_an_effect(tmp_path: Path) -> None:
    """For every key, in Offline and Server: the line changes LoadGen's setting exactly if it is not named."""
    names = sorted(
        {name for row in SETTINGS for name in row[2:] if name} | {"multi_stream_samples_per_query"}
    )
    for column, scenario in ((2, OFFLINE), (3, SERVER)):
        plain = as_loadgen_reads(compose(scenario=scenario), scenario, *names)
        used = [row for row in SETTINGS if row[column]]
        lines = "".join(f"*.{scenario.loadgen_name}.{row[0]} = {row[1]}\n" for row in SETTINGS)
        user = parsed(tmp_path, lines)
        changed = as_loadgen_reads(compose(user, scenario), scenario, *names)
        assert {row[column] for row in used} == {name for name in names if changed[name] != plain[name]}
        named = {number for lines in unused_lines(user, scenario, None) for number in lines.numbers}
        assert {n for n, row in enumerate(SETTINGS[:-1], 1) if not row[column]} == named


@pytest.mark.parametrize("prefix, shared", [("*.Server", True), ("*.*", True), (f"{FAST}.Server", False)])
def test_interactive_says_where_its_rate_is_also_servers(tmp_path: Path, prefix: str, shared: bool) -> None:
    """LoadGen gives Interactive the rate of *.Server.target_qps; the run says so and names the key."""
    user = parsed(tmp_path, f"{prefix}.target_qps = 9\n")
    settings = as_loadgen_reads(compose(user, INTERACTIVE), INTERACTIVE, "server_target_qps")
    assert {"server_target_qps": 9} == settings
    text = (
        f"line 1: {prefix}.target_qps = 9 also sets the rate of Interactive; "
        f"{RATE} sets it for Interactive only"
    )
    assert (text if shared else None) == shared_rate(user, INTERACTIVE, None)
    assert shared_rate(user, INTERACTIVE, 5.0) is None
    assert shared_rate(user, SERVER, None) is None


def test_an_audit_config_for_one_model_has_no_effect(tmp_path: Path) -> None:
    """LoadGen reads an audit.config for the model "*" only: other lines are named."""
    (text,) = unused(tmp_path, f"{GPT}.*.min_duration = 0\n", SERVER, AUDIT_FLAG)
    assert f"line 1: model '{GPT}' has no effect, because LoadGen reads an audit.config for model '*'" in text
