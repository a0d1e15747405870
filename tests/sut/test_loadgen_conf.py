"""Files that LoadGen reads: a line is read as LoadGen reads it, or refused."""

from pathlib import Path

import pytest

from common.flags import FlagError
from sut.conf_effects import unused_lines, used_lines
from sut.loadgen_conf import AUDIT_FLAG, NO_USER_CONF, USER_FLAG, parse_conf, read_conf
from tests.sut.effective_settings import FAST, GPT, OFFLINE, RATE, SERVER, as_loadgen_reads, compose, parsed

WHOLE_KEYS = [
    *("accuracy_log_rng_seed", "accuracy_log_sampling_target", "accuracy_sample_count_override"),
    *("infer_token_latencies", "max_duration", "max_query_count", "min_duration", "min_query_count"),
    *("mode", "performance_issue_same", "performance_issue_same_index", "performance_issue_unique"),
    *("performance_sample_count_override", "print_timestamps", "sample_concatenate_permutation", "test05"),
    *("use_token_latencies", "coalesce_queries", "max_async_queries", "target_latency", "tpot_latency"),
    *("ttft_latency", "samples_per_query"),
]
DECIMAL_KEYS = [
    *("accuracy_log_probability", "target_latency_percentile", "target_qps", "token_latency_scaling_factor"),
    *("test07_accuracy_threshold", "test09_min_output_tokens", "test09_max_output_tokens"),
]


def test_every_key_that_loadgen_reads_is_taken_and_no_other() -> None:
    """By hand from loadgen/test_settings_internal.cc and the audit.configs; some may have a fraction."""
    for key in (*WHOLE_KEYS, *DECIMAL_KEYS):
        assert {key: "7"} == parse_conf(USER_FLAG, f"*.*.{key} = 7\n").values
        if key in DECIMAL_KEYS:
            assert {key: "0.5"} == parse_conf(USER_FLAG, f"*.*.{key} = 0.5\n").values
        else:
            with pytest.raises(FlagError, match="is not a number of 0 or more, written"):
                parse_conf(USER_FLAG, f"*.*.{key} = 0.5\n")
        with pytest.raises(FlagError, match=f"LoadGen has no key '{key}_x'"):
            parse_conf(USER_FLAG, f"*.*.{key}_x = 7\n")


@pytest.mark.parametrize("scenario", ["*", "Server", "Offline", "SingleStream", "MultiStream"])
def test_every_scenario_of_loadgen_is_taken(scenario: str) -> None:
    """In LoadGen's spelling."""
    (line,) = parse_conf(USER_FLAG, f"*.{scenario}.target_qps = 7\n").lines
    assert (scenario, f"*.{scenario}.target_qps = 7") == (line.scenario, str(line))


@pytest.mark.parametrize(
    "line, reason",
    [
        ("*.Offline.target_qps=150", "with spaces around '='"),
        ("*.Offline.target_qps =150", "with spaces around '='"),
        ("*.Offline.target_qps= 150", "with spaces around '='"),
        ("*.Offline.target_qps = ", "is not 'model.Scenario.key = number'"),
        ("*.Offline.target_qps = 5 6", "is not 'model.Scenario.key = number'"),
        ("*.Offline.target_qps = # 5", "is not 'model.Scenario.key = number'"),
        ("*.Offline.target_qps", "is not 'model.Scenario.key = number'"),
        ("Offline.target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("*.*.Offline.target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("*..target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("*.offline.target_qps = 5", "scenario 'offline' is not one of"),
        ("*.Interactive.target_qps = 5", f"Interactive as Server with another model name: write {RATE}"),
        (f"{FAST}.Interactive.target_qps = 5", f"write {RATE}"),
        (f"{GPT}.interactive.ttft_latency = 5", f"write {FAST}.Server.ttft_latency"),
        ("*.Offline.target_qqs = 5", "LoadGen has no key 'target_qqs'"),
        ("*.Offline.performance_sample_count = 5", "LoadGen has no key 'performance_sample_count'"),
        ("*.*.qsl_rng_seed = 1", "LoadGen has no key 'qsl_rng_seed'"),
        ("*.Offline.target_qps = five", "'five' is not a number"),
        ("*.Offline.target_qps = 5s", "'5s' is not a number"),
        ("*.Offline.min_duration = 18446744073709551616", "the value is above 18446744073709551615"),
        ("*.Offline.target_qps = 1" + "0" * 5000, "the value is above 18446744073709551615"),
    ],
)
def test_a_line_that_loadgen_would_skip_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """The error names flag, file, line and reason, and its line number, in which comments count."""
    path = tmp_path / "user.conf"
    path.write_text(f"# good = bad\n\n*.Server.target_qps = 3\n  {line}\n*.*.bad = 0\n")
    with pytest.raises(ValueError) as caught:
        read_conf("--user-conf", path)
    assert str(caught.value).startswith(f"--user-conf {path}: line 4: {line.strip()!r}")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


NUMBERS = [
    *[("target_qps", value, "offline_expected_qps") for value in ("150", "0.5", "1e1", "1_0")],
    *[
        ("min_duration", value, "min_duration_ms")
        for value in ("600000", "6e5", "0600000", "600000.5", "-1", "nan")
    ],
    *[
        ("min_query_count", value, "min_query_count")
        for value in ("6396", "6396.0", "1e4", "-5", "1_000", "inf")
    ],
]


@pytest.mark.parametrize("key, value, setting", NUMBERS)
def test_a_number_is_read_as_written_or_refused(tmp_path: Path, key: str, value: str, setting: str) -> None:
    """Numbers that LoadGen would misread are refused: 6e5 as 6, 0600000 as octal, -1 as 2**64 - 1."""
    try:
        conf = compose(parsed(tmp_path, f"*.Offline.{key} = {value}\n"))
    except ValueError as error:
        assert "line 1" in str(error)
        assert value in str(error)
        assert value not in ("150", "0.5", "600000", "6396")
        return
    assert as_loadgen_reads(conf, OFFLINE, setting) == {setting: float(value)}


COUNT = "*.Offline.min_query_count = 7"


@pytest.mark.parametrize(
    "content",
    [
        COUNT,  # no newline at the end
        f"# a word\n#\n  # indented\n#word\n## two words\n#*.*.min_query_count = 8\n{COUNT}\n",
        f"\ufeff{COUNT}\n",  # byte order mark
        f"\ufeff# comment\n{COUNT}\n",
        f"\r\n{COUNT}\r\n*.Offline.target_qps = 3\r\n",
        f"{COUNT} # seven\n",
        f"{COUNT} #8\n",
        f"{COUNT}# = 8\n",
        "*.Offline.min_query_count\t=\t7 \t\n",
        f"*.Offline.min_query_count = 6\n{COUNT}\n",
        f"{COUNT}\n*.*.min_query_count = 9\n{GPT}.*.min_query_count = 8\n",
        f"{GPT}.Offline.min_query_count = 7\n*.Offline.min_query_count = 9\n",
    ],
)
def test_loadgen_reads_a_line_however_the_file_is_written(tmp_path: Path, content: str) -> None:
    """Comments, byte order marks, line ends and precedence: LoadGen reads 7, as the line says."""
    user = parsed(tmp_path, content)
    assert as_loadgen_reads(compose(user), OFFLINE, "min_query_count") == {"min_query_count": 7}
    assert "min_query_count = 7" in used_lines(user, OFFLINE)
    assert "\ufeff" not in user.text


# compliance/TEST09/gpt-oss-120b/audit.config, shortened; LoadGen returns -22 for its last two lines.
AUDIT = """# mode dictionary (0 = submission, 1 = accuracy, 2 = performance, 3 = find peak perf)
*.*.mode = 2

*.*.accuracy_log_rng_seed = 720381539243781796
*.*.accuracy_log_sampling_target = 10000
*.*.min_query_count = 4395
*.*.min_duration = 0
*.*.sample_concatenate_permutation = 0
# - threshold: +/-10%
*.*.test09_min_output_tokens = 1150.38 # 1278.2 * 0.90
*.*.test09_max_output_tokens = 1406.02 # 1278.2 * 1.10
"""


def test_the_official_audit_config_is_written_clean(tmp_path: Path) -> None:
    """LoadGen accepts the copy of a file with trailing comments, and the settings are the file's."""
    conf = parsed(tmp_path, AUDIT, AUDIT_FLAG)
    settings = as_loadgen_reads(conf.text, SERVER, "min_duration_ms", "min_query_count")
    assert {"min_duration_ms": 0, "min_query_count": 4395} == settings
    assert {
        "mode": "2",
        "accuracy_log_rng_seed": "720381539243781796",
        "accuracy_log_sampling_target": "10000",
        "min_query_count": "4395",
        "min_duration": "0",
        "sample_concatenate_permutation": "0",
        "test09_min_output_tokens": "1150.38",
        "test09_max_output_tokens": "1406.02",
    } == conf.values
    assert "sets mode = 2, accuracy_log_rng_seed = 720381539243781796, " in used_lines(conf, SERVER)
    assert [] == unused_lines(conf, SERVER, None)


def test_an_audit_config_of_another_mode_is_refused(tmp_path: Path) -> None:
    """Mode 1 would turn a compliance test into an accuracy run, whose samples differ."""
    with pytest.raises(ValueError, match=r"line 1: '.*mode = 1': a compliance test is a performance run"):
        parsed(tmp_path, "*.*.mode = 1\n", AUDIT_FLAG)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a directory, an endless file and one that is not UTF-8 are refused, with their path."""
    latin, wide = tmp_path / "latin.conf", tmp_path / "wide.conf"
    latin.write_bytes(b"# caf\xe9\n")
    wide.write_bytes("*.*.min_duration = 5\n".encode("utf-16"))
    endless = Path("/dev/zero")
    for path in (tmp_path / "missing.conf", tmp_path, latin, wide, endless):
        with pytest.raises(ValueError, match=rf"^--user-conf {path}: ") as caught:
            read_conf(USER_FLAG, path)
        assert "\n" not in str(caught.value)
    empty = tmp_path / "empty.conf"
    empty.write_text("")
    assert read_conf(USER_FLAG, empty) == NO_USER_CONF
