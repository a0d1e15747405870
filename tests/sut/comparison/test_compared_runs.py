"""Which runs a side holds, and in which order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.flags import FlagError
from sut.results.comparison import compared_runs
from sut.results.comparison.compared_runs import ComparedRun, read_sides
from sut.results.timing.requests_file import write_parquet
from tests.sut.comparison.run_files import server_record, write_run


def run_ids(*paths: Path) -> list[list[str]]:
    """Read sides and return the ids of their runs."""
    return [[run.text("run_id") for run in side.runs] for side in read_sides(paths)]


def test_runs_are_in_the_order_of_their_starts(tmp_path: Path) -> None:
    """Runs that began in the same second, or at an unknown time, are in the order of their ids."""
    for name, minute in (("c", 1), ("b", 2), ("a", 2), ("e", 3), ("f", 3)):
        write_run(tmp_path / "one" / name, server_record(name, minute, 50.0))
    for name in ("z", "y"):
        write_run(tmp_path / "one" / name, server_record(name, 0, 50.0, started_utc="no time"))
    write_run(tmp_path / "two", server_record("d", 3, 50.0))
    assert [["y", "z", "c", "a", "b", "e", "f"], ["d"]] == run_ids(tmp_path / "one", tmp_path / "two")
    assert ["A", "B"] == [side.name for side in read_sides([tmp_path / "one", tmp_path / "two"])]


def test_a_run_is_found_four_levels_below_a_side(tmp_path: Path) -> None:
    """Also behind a link; a run.json deeper, or below that of a run itself, is not one of the side."""
    write_run(tmp_path / "one/1/2/3/4", server_record("a", 0, 50.0))
    write_run(tmp_path / "one/1/2/3/4/5", server_record("deep", 0, 50.0))
    write_run(tmp_path / "elsewhere", server_record("b", 1, 50.0))
    (tmp_path / "one/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "one/circle").symlink_to(tmp_path / "one/1")
    write_run(tmp_path / "two", server_record("c", 2, 50.0))
    write_run(tmp_path / "two/nested", server_record("nested", 2, 50.0))
    with pytest.raises(FlagError, match="is the same run as"):
        run_ids(tmp_path / "one", tmp_path / "two")
    (tmp_path / "one/circle").unlink()
    assert [["a", "b"], ["c"]] == run_ids(tmp_path / "one", tmp_path / "two")


def test_more_runs_than_a_side_may_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is 1,000; here it is 2."""
    assert 1000 == compared_runs.MAX_RUNS
    monkeypatch.setattr(compared_runs, "MAX_RUNS", 2)
    for number in range(3):
        write_run(tmp_path / "two" / str(number), server_record(f"b{number}", number, 50.0))
    write_run(tmp_path / "one", server_record("a", 0, 50.0))
    with pytest.raises(FlagError) as refused:
        run_ids(tmp_path / "one", tmp_path / "two")
    assert str(refused.value).endswith("two: holds 3 runs, more than 2")
    (tmp_path / "two/2/run.json").unlink()
    assert [["a"], ["b0", "b1"]] == run_ids(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("key", ["scenario", "run_id", "mode"])
def test_a_record_without_its_names_is_none_of_ours(tmp_path: Path, key: str) -> None:
    """Scenario, id and mode are in every run.json."""
    record = server_record("a", 0, 50.0)
    del record[key]
    path = write_run(tmp_path / "one", record)
    with pytest.raises(FlagError, match=r"run\.json: is no run\.json of tokenfleet"):
        run_ids(path, path)


@pytest.mark.parametrize(("scenario", "rate"), [("offline", 100.0), ("server", None)])
def test_only_offline_has_a_rate_before_the_tail(tmp_path: Path, scenario: str, rate: float | None) -> None:
    """In other scenarios the rate is that of LoadGen's schedule.

    The last request begins at 1 s; until then the first one has 100 of its 200 tokens, from 0 to 2 s.
    """
    columns = {
        "answer_tokens": np.array([200, 5], np.int32),
        "first_arrival_ns": np.array([0, 10**9]),
        "done_arrival_ns": np.array([2 * 10**9, 3 * 10**9]),
    }
    paths = []
    for name in ("one", "two"):
        paths.append(write_run(tmp_path / name, server_record(name, 0, 50.0, scenario=scenario)))
        write_parquet(paths[-1] / "requests.parquet", pa.table(columns), {"run_id": name})
    for side in read_sides(paths):
        assert rate == side.runs[0].tokens_per_s_before_tail


def test_a_start_is_read_in_any_time_zone() -> None:
    """Seconds since 1970."""
    for text, start_s in (
        ("1970-01-01T00:00:07+00:00", 7.0),
        ("1970-01-01T01:00:07+01:00", 7.0),
        ("now", None),
        (7, None),
    ):
        assert start_s == ComparedRun(Path("run"), {"started_utc": text}).start_s
