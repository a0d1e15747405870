"""LoadGen's traps that need a fleet: real coordinators over two counting workers."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sut.log_files import DETAIL, find_log
from sut.results.logs import read_detail
from tests import fleet

# Keys of the audit.config of both tests for gpt-oss-120b (compliance/ of mlcommons/inference).
COMMON = """\
*.*.mode = 2
*.*.accuracy_log_rng_seed = 720381539243781796
*.*.accuracy_log_sampling_target = 10000
*.*.min_duration = 0
*.*.performance_issue_unique = 1
*.*.sample_concatenate_permutation = 0
"""
TEST07 = f"{COMMON}*.*.test07_accuracy_threshold = 60.698\n"
TEST09 = (
    f"{COMMON}*.*.min_query_count = 6396\n"
    "*.*.test09_min_output_tokens = 1150.38\n*.*.test09_max_output_tokens = 1406.02\n"
)
LOGGING_CONF = "*.*.accuracy_log_sampling_target = 10000\n"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[fleet.WorkerProcess]]:
    """Run two counting workers for all tests of this file."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 2) as started:
        yield started


def checks_of(run_dir: Path) -> dict[str, tuple[bool, str]]:
    """Read the verdict's checks: passed, seen."""
    verdict: dict[str, list[dict[str, object]]] = fleet.run_json(run_dir)["verdict"]
    return {str(check["name"]): (bool(check["passed"]), str(check["seen"])) for check in verdict["checks"]}


def test_first_token_and_completion_come_from_one_thread(
    two: list[fleet.WorkerProcess], tmp_path: Path
) -> None:
    """Trap 1: in 2,000 short Server queries LoadGen sees no completion before its first token."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[2 + i % 3, 7, i] for i in range(100)])
    conf = fleet.write_conf(
        tmp_path / "user.conf", "*.Server.min_query_count = 2000\n*.Server.min_duration = 10\n"
    )
    flags = ["--scenario", "server", "--user-conf", str(conf), "--target-qps", "800", "--max-new-tokens", "8"]
    done = fleet.coordinate(two, data, tmp_path / "out", *flags)
    assert done.returncode in (0, 3), done.stderr
    run_dir = tmp_path / "out" / "server" / "performance"
    assert (True, "0 errors in the detail log") == checks_of(run_dir)["loadgen_errors"]
    values = read_detail(find_log(run_dir, DETAIL)).values
    assert 0 == values["num_errors"]
    assert int(str(values["result_query_count"])) >= 2000
    assert int(str(values["result_time_to_output_token_min"])) >= 0


@pytest.mark.parametrize(
    ("scenario", "flags", "num_short"),
    [
        ("server", ["--accuracy"], 2),
        # 1 s at 200/s over 20 samples: 10 queries of each.
        ("server", [], 20),
        ("offline", ["--accuracy"], 2),
        ("offline", [], 2),
    ],
    ids=["server-accuracy", "server-performance", "offline-accuracy", "offline-performance"],
)
def test_answers_of_0_and_1_tokens_are_reported_as_they_are(
    two: list[fleet.WorkerProcess], tmp_path: Path, scenario: str, flags: list[str], num_short: int
) -> None:
    """Traps 3 and 6: answers of 0 and 1 tokens do not crash LoadGen, are counted, and make a run INVALID."""
    prompts = [[3, 7, 1000 * i] for i in range(18)] + [[0, 7, 500], [1, 7, 500]]
    data = fleet.write_prompts(tmp_path / "data.parquet", prompts)
    conf = fleet.write_conf(tmp_path / "user.conf", fleet.FAST_CONF + LOGGING_CONF)
    command = ["--scenario", scenario, "--user-conf", str(conf), "--max-new-tokens", "8", *flags]
    done = fleet.coordinate(two, data, tmp_path / "out", *command)
    assert 3 == done.returncode, done.stderr
    (run_dir,) = (tmp_path / "out" / scenario).iterdir()
    checks = checks_of(run_dir)
    assert not checks["loadgen_errors"][0]
    passed, seen = checks["short_answers"]
    total, _, named = seen.partition(" (")
    assert (True, f"{num_short} answers of 0 or 1 tokens") == (passed, total)
    # Sample 18 has 0 tokens and sample 19 has 1; each answer is named with the worker that ended it.
    answers = [text.rpartition(": ") for text in named.removesuffix(")").split(", ")]
    lens = {f"sample {18 + num} of {w.address}": str(num) for num in (0, 1) for w in two}
    assert num_short == len(answers)
    assert {(place, num) for place, _, num in answers} <= lens.items()
    assert {"0": num_short // 2, "1": num_short // 2} == Counter(num for _, _, num in answers)
    entries = {entry["qsl_idx"]: entry for entry in fleet.accuracy_entries(run_dir)}
    assert ("", 0) == (entries[18]["data"], entries[18]["token_count"])
    assert ([fleet.STOP], 1) == (fleet.tokens_of(str(entries[19]["data"])), entries[19]["token_count"])


def test_valid_by_loadgen_with_errors_is_invalid(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """Trap 13: LoadGen's VALID ignores errors; the verdict does not."""
    # Early stopping passes from 459 queries on. Answers of 25 tokens keep TPOT under 80 ms on a busy machine.
    data = fleet.write_prompts(tmp_path / "data.parquet", [[1 if i == 50 else 25, 7, i] for i in range(100)])
    conf = fleet.write_conf(
        tmp_path / "user.conf", "*.Server.min_query_count = 500\n*.Server.min_duration = 10\n"
    )
    flags = [
        "--scenario",
        "server",
        "--user-conf",
        str(conf),
        "--target-qps",
        "250",
        "--max-new-tokens",
        "32",
    ]
    done = fleet.coordinate(two, data, tmp_path / "out", *flags)
    checks = checks_of(tmp_path / "out" / "server" / "performance")
    assert (3, True, False) == (done.returncode, checks["loadgen_result"][0], checks["loadgen_errors"][0])


def test_invalid_by_loadgen_is_invalid(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """Trap 13: a run that is too short for LoadGen ends with exit code 3 and LoadGen's reason."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
    done = fleet.coordinate(two, data, tmp_path / "out", "--max-new-tokens", "8")
    record = fleet.run_json(tmp_path / "out" / "offline" / "performance")
    assert (3, "INVALID") == (done.returncode, record["verdict"]["outcome"])
    assert "loadgen_result: INVALID (Increase expected QPS" in record["verdict"]["reason"]


def test_unique_issue_over_a_small_data_set(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """Trap 7: TEST07 over its 990 rows, in both scenarios, logs every row exactly once; nobody grades it.

    Offline has the built-in settings. A copied audit.config names the run's directory by its keys.
    """
    prompts = [[2 + i % 8, 7, 100 * i] for i in range(990)]
    data = fleet.write_prompts(tmp_path / "data.parquet", prompts)
    audit = fleet.write_conf(tmp_path / "audit.config", TEST07)
    given = {"offline": ["--compliance", "TEST07"], "server": ["--audit-config", str(audit)]}
    for scenario, settings in given.items():
        flags = ["--scenario", scenario, *settings, "--target-qps", "500"]
        done = fleet.coordinate(two, data, tmp_path / "out", *flags, "--max-new-tokens", "8")
        assert done.returncode in (0, 3), done.stderr
        entries = fleet.accuracy_entries(tmp_path / "out" / scenario / "TEST07")
        assert list(range(990)) == sorted(int(str(entry["qsl_idx"])) for entry in entries)
        for entry in entries:
            prompt = prompts[int(str(entry["qsl_idx"]))]
            assert fleet.counting_answer(prompt, 8) == fleet.tokens_of(str(entry["data"]))
        if scenario == "offline":
            outcome = fleet.run_json(tmp_path / "out" / scenario / "TEST07")["verdict"]["outcome"]
            assert (0, "NOT_GRADED") == (done.returncode, outcome)
        checks = checks_of(tmp_path / "out" / scenario / "TEST07")
        assert (True, "990 of 990 samples in the accuracy log") == checks["logged_samples"]


@pytest.mark.parametrize(
    ("scenario", "flags", "expected"),
    [
        ("offline", [], []),
        ("server", [], []),
        ("offline", ["--max-new-tokens", "3"], ["max_new_tokens is 3, not 10240"]),
    ],
    ids=["offline", "server", "short answers"],
)
def test_an_official_compliance_run_deviates_in_its_engine_alone(
    two: list[fleet.WorkerProcess], tmp_path: Path, scenario: str, flags: list[str], expected: list[str]
) -> None:
    """TEST09 over 6,396 rows logs every row; engine and short budget are the only deviations.

    Its answers are too short: the run is INVALID with their mean.
    """
    data = fleet.write_prompts(tmp_path / "data.parquet", [[2 + i % 8, 7, 10 * i] for i in range(6396)])
    audit = fleet.write_conf(tmp_path / "audit.config", TEST09)
    command = ["--scenario", scenario, "--audit-config", str(audit), "--target-qps", "1000", *flags]
    done = fleet.coordinate(two, data, tmp_path / "out", *command)
    run_dir = tmp_path / "out" / scenario / "TEST09"
    checks = checks_of(run_dir)
    # A busy machine may be too slow for Server's limits.
    assert checks.pop("loadgen_result")[0] or scenario == "server", done.stdout
    # Prompt i asks for 2 + i % 8 tokens: the mean over 6,396 = 8 * 799 + 4 prompts is 35170 / 6396.
    mean = "2.87" if expected else "5.50"
    too_short = (False, f"mean answer {mean} tokens of 1150.38 to 1406.02")
    assert (3, too_short) == (done.returncode, checks.pop("output_length"))
    assert all(passed for passed, _ in checks.values()), checks
    assert (True, "6396 of 6396 samples in the accuracy log") == checks["logged_samples"]
    found = [*expected, f"engine is counting, not vllm: 2 of 2 workers, first {two[0].address}"]
    record = fleet.run_json(run_dir)
    assert (found, "v6.1") == (record["verdict"]["deviations"], record["round"])
    told = [line for line in done.stdout.splitlines() if "no submission run" in line]
    assert [f"   no submission run: {text}" for text in found] == told


def test_audit_config_survives_the_directory_that_it_lies_in(
    two: list[fleet.WorkerProcess], tmp_path: Path
) -> None:
    """Trap 11: LoadGen silently skips a missing audit.config; --overwrite does not remove it."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(990)])
    run_dir = tmp_path / "out" / "offline" / "TEST07"
    audit = fleet.write_conf(tmp_path / "audit.config", TEST07)
    # The second run reads the copy that the first one left in its own directory.
    for path in (audit, run_dir / "audit.config"):
        flags = ["--audit-config", str(path), "--overwrite", "--max-new-tokens", "8"]
        done = fleet.coordinate(two, data, tmp_path / "out", *flags)
        assert 0 == done.returncode, done.stderr
        assert 990 == len(fleet.accuracy_entries(run_dir))


@pytest.mark.long
@pytest.mark.parametrize(("answer_len", "code", "outcome"), [(1278, 0, "VALID"), (1000, 3, "INVALID")])
def test_test09_is_decided_at_the_end_of_the_run(
    tmp_path: Path, answer_len: int, code: int, outcome: str
) -> None:
    """TEST09 with 6,396 answers of 1,278 tokens is VALID; of 1,000 tokens it is INVALID, exit code 3."""
    prompts = [[answer_len, 7, 10 * i] for i in range(6396)]
    data = fleet.write_prompts(tmp_path / "data.parquet", prompts)
    audit = fleet.write_conf(tmp_path / "audit.config", TEST09)
    with fleet.workers(tmp_path, 2, "--max-num-seqs", "4096") as started:
        flags = ["--audit-config", str(audit)]
        done = fleet.coordinate(started, data, tmp_path / "out", *flags, timeout_s=300)
    verdict = fleet.run_json(tmp_path / "out" / "offline" / "TEST09")["verdict"]
    assert (code, outcome) == (done.returncode, verdict["outcome"]), done.stderr
    reason = f"output_length: mean answer {answer_len}.00 tokens of 1150.38 to 1406.02"
    assert verdict["reason"] == (reason if code else "")
