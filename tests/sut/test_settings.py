"""The run's user.conf, read by the real LoadGen in a child process each time, because LoadGen keeps state."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sut.settings import Mode, Scenario, compose_user_conf, read_conf

ROOT = Path(__file__).resolve().parents[2]
OFFLINE, SERVER, INTERACTIVE = Scenario.OFFLINE, Scenario.SERVER, Scenario.INTERACTIVE
HEAD = "# Written for this run.\n"
GPT, FAST = "gpt-oss-120b", "gpt-oss-120b-interactive"
# Reads argv[1] as a run would and prints the settings named in argv[3:].
READ = """
import json, sys
from sut.loadgen import LoadGenTest
from sut.settings import Mode, Scenario
settings = LoadGenTest(sys.argv[1], Scenario(sys.argv[2]), Mode.PERFORMANCE)._settings
print(json.dumps({name: getattr(settings, name) for name in sys.argv[3:]}))
"""


def compose(user_text: str = "", scenario: Scenario = OFFLINE, **changed: object) -> str:
    """Compose the conf of a performance run over the official number of samples, with changes."""
    values: dict[str, object] = {"mode": Mode.PERFORMANCE, "num_samples": 6396, "target_qps": None}
    return compose_user_conf(user_text, scenario=scenario, **(values | changed))  # type: ignore[arg-type]


def as_loadgen_reads(conf: str, scenario: Scenario, *names: str) -> dict[str, float]:
    """Let LoadGen read a conf in a child process; returns the named settings."""
    done = subprocess.run(
        [sys.executable, "-c", READ, conf, scenario, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, float] = json.loads(done.stdout)
    return values


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
def test_a_line_of_the_user_wins_where_it_applies(line: str, scenario: Scenario, wins: bool) -> None:
    """LoadGen reads the user's count if model and scenario match, also by wildcard, else the data set's."""
    conf = compose(line, scenario, num_samples=50)
    assert line.rstrip() in conf
    name = "performance_sample_count_override"
    assert as_loadgen_reads(conf, scenario, name) == {name: 7 if wins else 50}


@pytest.mark.parametrize(
    "line", ["", "*.*.target_qps = 5", "*.Server.target_qps = 5", f"{GPT}.Server.target_qps = 5"]
)
@pytest.mark.parametrize("target_qps", [9.5, 1.5e-07, 9.123456789])
def test_the_flag_target_qps_beats_every_line(line: str, target_qps: float) -> None:
    """LoadGen reads --target-qps exactly, whatever target_qps the user.conf sets."""
    conf = compose(line, SERVER, target_qps=target_qps)
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


@pytest.mark.parametrize(
    "line, reason",
    [
        ("*.Offline.target_qps=150", "with spaces around '='"),
        ("*.Offline.target_qps =150", "with spaces around '='"),
        ("*.Offline.target_qps= 150", "with spaces around '='"),
        ("*.Offline.target_qps = ", "is not 'model.Scenario.key = number'"),
        ("*.Offline.target_qps = 5 6", "is not 'model.Scenario.key = number'"),
        ("*.Offline.target_qps = 5 # why", "is not 'model.Scenario.key = number'"),
        ("*.Offline.target_qps", "is not 'model.Scenario.key = number'"),
        ("Offline.target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("*.*.Offline.target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("*..target_qps = 5", "is not 'model.Scenario.key = number'"),
        ("*.offline.target_qps = 5", "scenario 'offline' is not one of"),
        ("*.Interactive.target_qps = 5", "scenario 'Interactive' is not one of"),
        ("*.Offline.target_qqs = 5", "LoadGen has no key 'target_qqs'"),
        ("*.Offline.performance_sample_count = 5", "LoadGen has no key 'performance_sample_count'"),
        ("*.*.qsl_rng_seed = 1", "LoadGen has no key 'qsl_rng_seed'"),
        ("*.Offline.target_qps = five", "'five' is not a number"),
        ("*.Offline.target_qps = 5s", "'5s' is not a number"),
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
    path = tmp_path / "user.conf"
    path.write_text(f"*.Offline.{key} = {value}\n")
    try:
        conf = compose(read_conf("--user-conf", path))
    except ValueError as error:
        assert "line 1" in str(error)
        assert value in str(error)
        assert value not in ("150", "0.5", "600000", "6396")
        return
    assert as_loadgen_reads(conf, OFFLINE, setting) == {setting: float(value)}


@pytest.mark.parametrize(
    "comment", ["# a word", "#", "  # indented", "#word", "#two words", "## two words", "#a = b"]
)
def test_a_comment_is_one_to_loadgen_or_refused(tmp_path: Path, comment: str) -> None:
    """A `#` without a space after it, which LoadGen takes for a key, is refused."""
    path = tmp_path / "user.conf"
    path.write_text(f"{comment}\n*.Offline.min_query_count = 7\n")
    try:
        conf = compose(read_conf("--user-conf", path))
    except ValueError as error:
        assert "line 1" in str(error)
        assert comment.strip() not in ("# a word", "#", "# indented")
        return
    assert as_loadgen_reads(conf, OFFLINE, "min_query_count") == {"min_query_count": 7}


def test_the_official_audit_configs_are_read(tmp_path: Path) -> None:
    """All keys of the compliance tests' audit.config pass, including those of the verification scripts."""
    # compliance/TEST07/gpt-oss-120b/audit.config and TEST09's; thresholds are read by run_verification.py.
    path = tmp_path / "audit.config"
    keys = {
        "mode": "2",
        "accuracy_log_rng_seed": "720381539243781796",
        "accuracy_log_sampling_target": "10000",
        "min_query_count": "6396",
        "min_duration": "0",
        "sample_concatenate_permutation": "0",
        "performance_issue_unique": "1",
        "test07_accuracy_threshold": "60.698",
        "test09_min_output_tokens": "1150.38",
        "test09_max_output_tokens": "1406.02",
    }
    text = "".join(f"*.*.{key} = {value}\n" for key, value in keys.items())
    path.write_text(text)
    assert read_conf("--audit-config", path) == text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a directory and a file that is not UTF-8 raise ValueError with flag and path."""
    latin = tmp_path / "latin.conf"
    latin.write_bytes(b"# caf\xe9\n")
    for path in (tmp_path / "missing.conf", tmp_path, latin):
        with pytest.raises(ValueError, match=rf"^--user-conf {path}: "):
            read_conf("--user-conf", path)
    empty = tmp_path / "empty.conf"
    empty.write_text("")
    assert read_conf("--user-conf", empty) == ""
