"""The times of LoadGen's logs belong to a run in every time zone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sut.log_files import DETAIL, accept
from sut.results.logs import read_detail
from sut.results.submission.recorded_runs import Division, RecordedRun, RunKind
from sut.results.submission.run_faults import run_faults
from sut.settings import Mode, Scenario
from tests.sut.real_loadgen import CONF, run_loadgen


def time_faults(directory: Path, began: datetime) -> list[str]:
    """Check a run that began at a time and lasted ten seconds; returns what is wrong with its times."""
    record = {"started_utc": began.isoformat(), "ready_s": 0.0, "wall_s": 10.0}
    run = RecordedRun(directory, Scenario.OFFLINE, RunKind.PERFORMANCE, record)
    return [str(fault) for fault in run_faults(run, Division.OPEN) if "the detail log began" in str(fault)]


# POSIX has the sign of the other direction: these are 5 h 45 min before UTC and 9 h 30 min behind it.
@pytest.mark.parametrize(("zone", "offset_min"), [("ABC-5:45", 345), ("DEF+9:30", -570), ("UTC", 0)])
def test_a_log_of_any_time_zone_is_that_of_its_run(tmp_path: Path, zone: str, offset_min: int) -> None:
    """LoadGen writes test_datetime in local time as if it were UTC; a log of another hour is named."""
    run_loadgen(CONF, Scenario.OFFLINE, Mode.PERFORMANCE, tmp_path, TZ=zone)
    accept(tmp_path)
    values = read_detail(tmp_path / DETAIL).values
    began = datetime.strptime(str(values["power_begin"]), "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=UTC)
    stamp = datetime.fromisoformat(str(values["test_datetime"]))
    assert timedelta(0) <= began - (stamp - timedelta(minutes=offset_min)) < timedelta(seconds=30)

    assert [] == time_faults(tmp_path, began)
    for late in (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)):
        (line,) = time_faults(tmp_path, began - late)
        assert line.endswith(f"the run at {(began - late).isoformat(timespec='seconds')}")
