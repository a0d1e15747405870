"""What `tokenfleet find-qps` refuses, in one line with flag, value and bound, and what its runs have."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from common.flags import FlagError
from sut.results.timing.requests_file import ForeignFileError, write_parquet
from tests import fleet
from tokenfleet.find_qps.config import parse
from tokenfleet.find_qps.find_qps import main
from tokenfleet.find_qps.rate_search import RunLengthKind
from tokenfleet.find_qps.search_plan import PlannedSearchRun, SearchPlan
from tokenfleet.find_qps.search_results import read_finished
from tokenfleet.find_qps.search_state import STATE_NAME, SearchDir, SearchState

RUN = ["--workers", "127.0.0.1:1", "--input-file", "data.parquet", "--scenario", "server"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--min-qps: missing: server needs a rate to begin with"),
        (["--min-qps", "0"], "--min-qps: 0.0 is not above 0 and finite"),
        (["--min-qps", "9", "--max-qps", "8"], "--max-qps: 8 is not above --min-qps 9"),
        (["--min-qps", "9", "--sweep"], "--sweep: needs --min-qps and --max-qps"),
        (["--min-qps", "9", "--target-qps", "8"], "--target-qps: 8: the search sets it"),
        (["--min-qps", "9", "--max-over-latency", "8"], "--max-over-latency: 8: the search sets it"),
        (["--min-qps", "9", "--accuracy"], "--accuracy: the rate is searched with performance runs"),
        (["--min-qps", "9", "--compliance", "TEST09"], "--compliance: the rate is searched"),
        (["--min-qps", "9", "--overwrite"], "--overwrite: a search continues"),
        (["--scenario", "offline", "--max-qps", "8"], "--max-qps: Offline issues all samples at once"),
        (["--scenario", "offline", "--min-qps", "1", "--max-qps", "8", "--sweep"], "--sweep: Offline has no"),
    ],
)
def test_flags_that_make_no_search_are_refused(flags: list[str], line: str) -> None:
    """Each line begins with the flag and its value."""
    with pytest.raises(FlagError) as refusal:
        parse([*RUN, *flags])
    assert str(refusal.value).startswith(line)


def search_argv(directory: Path, *flags: str, conf: str = fleet.FAST_CONF) -> list[str]:
    """Compose a search over files that exist."""
    data = fleet.write_prompts(directory / "data.parquet", fleet.counting_prompts(500))
    user_conf = fleet.write_conf(directory / "user.conf", conf)
    words = ["--input-file", str(data), "--user-conf", str(user_conf), "--output-dir", str(directory / "out")]
    return [*RUN, *words, "--min-qps", "100", *flags]


def test_runs_too_short_for_early_stopping_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """LoadGen calls no run of fewer than 459 queries VALID; nothing is written."""
    argv = search_argv(tmp_path, "--max-samples", "300", conf="*.Server.min_duration = 1000\n")
    assert 2 == main(argv)
    line = capfd.readouterr().err
    assert line.startswith("find-qps: --min-qps: a run of 300 queries at 100 queries/s is too short")
    assert "below 459 queries (early stopping)" in line
    assert not (tmp_path / "out").exists()


def test_a_second_search_in_the_same_directory_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, and no file of the first one is changed."""
    argv = search_argv(tmp_path, conf="*.Server.min_duration = 30000\n")
    directory = SearchPlan.read(*parse(argv)).directory
    with SearchDir(directory):
        before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
        assert 2 == main(argv)
        assert before == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    line = f"find-qps: --output-dir: {directory} belongs to a search that has not ended\n"
    assert ("", line) == capfd.readouterr()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> SearchPlan:
    """Read a search over 500 rows, with runs of 30 s."""
    argv = search_argv(tmp_path_factory.mktemp("search"), conf="*.Server.min_duration = 30000\n")
    return SearchPlan.read(*parse(argv))


def test_a_search_continues_with_the_same_flags_and_files_only(plan: SearchPlan) -> None:
    """Runs that have begun are taken over; other flags, another user.conf or a second search are refused."""
    run = PlannedSearchRun(1, RunLengthKind.SHORT, 100.0)
    with SearchDir(plan.directory):
        SearchState(plan).begin(run)
        with pytest.raises(FlagError, match="belongs to a search that has not ended"):
            SearchDir(plan.directory)
    assert [run] == SearchState(plan).runs
    higher = replace(plan, config=replace(plan.config, max_qps=200.0))
    with pytest.raises(FlagError, match="holds a search with another --max-qps; give the same"):
        SearchState(higher)
    with pytest.raises(FlagError, match="another --user-conf, its lines"):
        SearchState(replace(plan, user_text="*.Server.min_query_count = 500\n"))
    with pytest.raises(FlagError, match="another --workers"):
        SearchState(replace(plan, run=replace(plan.run, workers=("127.0.0.1:2",))))
    (plan.directory / STATE_NAME).write_text("{")
    with pytest.raises(FlagError, match=r"find_qps[.]json: cannot be continued"):
        SearchState(plan)


def test_each_run_has_its_length_and_its_bound(plan: SearchPlan) -> None:
    """A short run draws its samples and issues for a third of the time; a full run keeps the user's lines."""
    with SearchDir(plan.directory):
        plan.write_confs()
    key = "gpt-oss-120b.Server"
    assert "*.Server.min_duration = 30000\n" == (plan.directory / "full.conf").read_text()
    short = (plan.directory / "short.conf").read_text().splitlines()
    assert [f"{key}.min_duration = 10000", f"{key}.min_query_count = 500"] == short[1:3]
    assert f"{key}.sample_concatenate_permutation = 0" == short[3]
    # 3,000 queries in blocks of 500, of which 5 % are 150; 1,000 of a short run, 50.
    full, brief = (PlannedSearchRun(1, kind, 100.0) for kind in (RunLengthKind.FULL, RunLengthKind.SHORT))
    assert (150, 50) == (plan.max_over_latency(full), plan.max_over_latency(brief))
    argv = plan.argv(full)
    assert {"--target-qps=100.0", "--max-over-latency=150"} <= set(argv)
    assert f"--user-conf={plan.directory / 'full.conf'}" in argv


@pytest.mark.parametrize(
    ("changes", "conf", "line"),
    [
        ({}, "read by LoadGen", None),
        ({"config": {"target_qps": 99.0}}, "read by LoadGen", "its target_qps is 99.0, not 100.0"),
        ({"dataset": {"sha256": "00"}}, "read by LoadGen", "its data set is 00, not "),
        ({}, "edited", "its SHA-256 of "),
    ],
)
def test_a_directory_of_another_run_than_the_planned_one_is_refused(
    plan: SearchPlan, changes: dict[str, object], conf: str, line: str | None
) -> None:
    """A run at another rate or over other data says nothing of this one; edited lines are not proposed."""
    run = PlannedSearchRun(3, RunLengthKind.FULL, 100.0)
    run_dir = plan.run_dir(run)
    run_dir.mkdir(parents=True, exist_ok=True)
    record = {
        "run_id": "mine",
        "verdict": {"outcome": "VALID", "checks": []},
        "config": {"target_qps": 100.0},
        "dataset": {"sha256": plan.dataset_sha256},
        "files_sha256": {"user.conf": hashlib.sha256(b"read by LoadGen").hexdigest()},
    }
    (run_dir / "run.json").write_text(json.dumps(record | changes))
    (run_dir / "user.conf").write_text(conf)
    write_parquet(run_dir / "requests.parquet", pa.table({"query": [0]}), {"run_id": "mine"})
    if line is None:
        assert read_finished(plan, run) is not None
        # As without any other of its files, the run has to be made again.
        (run_dir / "user.conf").unlink()
        assert read_finished(plan, run) is None
        return
    with pytest.raises(ForeignFileError) as refusal:
        read_finished(plan, run)
    assert f"{run_dir} is not run 3 (full, 100 queries/s) of the search: {line}" in str(refusal.value)
