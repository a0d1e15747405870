"""`tokenfleet find-qps` with the simulated engine: found and confirmed, killed in each phase, refused."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sut.log_files import NAMES
from tests import fleet
from tests.forked import completed_command

pytestmark = pytest.mark.long

# About 55 queries/s: a step lasts 8 ms and 0.5 ms more for each running query, an answer 20 steps.
ENGINE = ("--step-base-ms", "8", "--step-per-seq-us", "500", "--prefill-tokens-per-s", "100000")
CONF = "*.Server.min_duration = 20000\ngpt-oss-120b.Server.tpot_latency = 25\n"
RUN_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a simulated worker."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1, *ENGINE, engine="simulated") as (worker,):
        yield worker.address


def argv(directory: Path, address: str, *flags: str) -> list[str]:
    """Compose the command line of a search."""
    data, conf = directory / "data.parquet", directory / "user.conf"
    if not data.exists():
        fleet.write_prompts(data, [[20, 7, 300 * i] for i in range(500)])
        conf.write_text(CONF)
    words = [
        "--scenario",
        "server",
        "--workers",
        address,
        "--input-file",
        str(data),
        "--user-conf",
        str(conf),
    ]
    command = [sys.executable, "-m", "tokenfleet", "find-qps", *words, "--output-dir", str(directory / "out")]
    return [*command, *flags]


def end(directory: Path, address: str, *flags: str, timeout_s: float = 8 * RUN_TIMEOUT_S) -> tuple[int, str]:
    """Search to the end; returns exit code and both outputs."""
    done = completed_command(argv(directory, address, *flags), timeout_s)
    return done.returncode, done.stdout + done.stderr


def results(output: str) -> list[str]:
    """Return the lines of a search's output without the announcements of its runs."""
    return [line for line in output.splitlines() if " begins: " not in line]


def records(directory: Path) -> dict[str, Any]:
    """Read the run.json of each run of a search, by the run's number."""
    found: dict[str, Any] = {}
    for path in (directory / "out" / "find-qps" / "server" / "runs").glob("*/server/performance/run.json"):
        # A search that continues deletes the run that was killed.
        with contextlib.suppress(FileNotFoundError):
            found[path.parts[-4]] = json.loads(path.read_text())
    return found


def is_finished(run: Mapping[str, Any]) -> bool:
    """Return whether a run has ended by itself."""
    return run["verdict"]["outcome"] not in ("UNFINISHED", "INTERRUPTED")


def finished_ids(directory: Path) -> dict[str, str]:
    """Return the ids of the runs that have ended by themselves."""
    return {number: run["run_id"] for number, run in records(directory).items() if is_finished(run)}


def begun_runs(directory: Path) -> list[dict[str, Any]]:
    """Return the runs of find_qps.json."""
    path = directory / "out" / "find-qps" / "server" / "find_qps.json"
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else []
    return runs


def kill_in(directory: Path, address: str, kind: str, *flags: str) -> None:
    """Start a search and kill it in the first run of a kind that has not ended."""
    with (directory / "killed.log").open("ab") as log:
        search = subprocess.Popen(argv(directory, address, *flags), cwd=fleet.ROOT, stdout=log, stderr=log)
    deadline_s = time.monotonic() + 8 * RUN_TIMEOUT_S
    try:
        while True:
            assert time.monotonic() < deadline_s, (directory / "killed.log").read_text()
            assert search.poll() is None, (directory / "killed.log").read_text()
            last = begun_runs(directory)[-1:]
            running = {number for number, run in records(directory).items() if not is_finished(run)}
            if any(run["kind"] == kind and str(run["number"]) in running for run in last):
                break
            time.sleep(0.1)
        time.sleep(2)
    finally:
        search.kill()
        search.wait(60)


def test_a_search_that_is_killed_in_each_phase_repeats_no_finished_run(tmp_path: Path, address: str) -> None:
    """Killed in a short and in a full run it continues; when it has ended it only tells the result again."""
    flags = ("--min-qps", "25", "--max-qps", "100")
    kill_in(tmp_path, address, "short", *flags)
    after_short = finished_ids(tmp_path)
    kill_in(tmp_path, address, "full", *flags)
    after_full = finished_ids(tmp_path)
    assert after_short.items() <= after_full.items()
    assert after_full
    code, output = end(tmp_path, address, *flags)
    assert 0 == code, output
    ids = finished_ids(tmp_path)
    assert after_full.items() <= ids.items()
    assert len(ids) == len(begun_runs(tmp_path)) <= 8

    (line,) = [line for line in output.splitlines() if " queries/s is VALID: " in line]
    run_dir = Path(line.rpartition(": ")[2])
    assert "VALID" == fleet.run_json(run_dir)["verdict"]["outcome"]
    assert f"gpt-oss-120b.Server.target_qps = {float(line.split()[0])!r}" in output
    # No other run left a log under a name that a checker reads.
    valid = {str(number) for number, run in records(tmp_path).items() if run["verdict"]["outcome"] == "VALID"}
    logs = (tmp_path / "out").rglob("mlperf_log_*")
    assert {path.parts[-4] for path in logs if path.name in NAMES} == valid

    # Nothing runs any more: no run is announced.
    assert (0, "\n".join([*results(output), ""])) == end(tmp_path, address, *flags)
    assert ids == finished_ids(tmp_path)
    code, output = end(tmp_path, address, *flags, "--max-runs", "9")
    assert (2, True) == (code, "holds a search with another --max-runs" in output)


def test_a_lower_bound_that_is_not_valid_is_one_clear_line(tmp_path: Path, address: str) -> None:
    """Twice what the engine carries: exit code 2 after one run, which does not look like a result.

    The run's log is named when the run begins: the search may take half an hour.
    """
    code, output = end(tmp_path, address, "--min-qps", "150")
    assert (2, True) == (code, "find-qps: --min-qps: 150 queries/s is not VALID: search below it" in output)
    log = tmp_path / "out" / "find-qps" / "server" / "logs" / "run-1.log"
    assert f"run 1 (short, 150 queries/s) begins: {log}" in output.splitlines()
    (record,) = records(tmp_path).values()
    assert "FAILED" == record["verdict"]["outcome"]
    assert [] == list((tmp_path / "out").rglob("mlperf_log_*"))


def test_the_sample_count_of_offline_is_found(tmp_path: Path, address: str) -> None:
    """500 samples, which all run at once, end too soon; 1,000 or more last for the 8 s that LoadGen asks."""
    flags = ("--scenario", "offline")
    argv(tmp_path, address)
    (tmp_path / "user.conf").write_text("*.Offline.min_duration = 8000\n")
    code, output = end(tmp_path, address, *flags)
    assert 0 == code, output
    first, *_, last = [line for line in results(output) if line.startswith("run ")]
    assert "INVALID; 500 samples" in first
    assert " VALID; " in last
    assert "gpt-oss-120b.Offline.target_qps = " in output


def test_a_sweep_writes_its_curve(tmp_path: Path, address: str) -> None:
    """Three rates: tokens/s grows with the rate, and so does the least TPOT that the engine can have.

    Steps of s seconds run 20 * s * rate requests at once: s = 8 ms + 0.5 ms * 20 * s * rate, which is
    8 ms / (1 - rate / 100). A busy machine only adds to it.
    """
    code, output = end(
        tmp_path, address, "--sweep", "--min-qps", "15", "--max-qps", "60", "--sweep-points", "3"
    )
    assert 0 == code, output
    directory = tmp_path / "out" / "find-qps" / "server-sweep"
    head, *rows = [line.split(",") for line in (directory / "sweep.csv").read_text().splitlines()]
    assert ["15.0", "30.0", "60.0"] == [row[0] for row in rows]
    tokens_per_s, tpot_p99_ms = (
        [float(row[head.index(name)]) for row in rows] for name in ("tokens_per_s", "tpot_p99_ms")
    )
    assert sorted(tokens_per_s) == tokens_per_s
    least_ms = (9.4, 11.4, 20)
    assert all(least < measured for least, measured in zip(least_ms, tpot_p99_ms, strict=True)), tpot_p99_ms
    assert "<svg" in (directory / "sweep.svg").read_text()


def test_output_that_nobody_reads_stops_no_search(tmp_path: Path, address: str) -> None:
    """Stdout and stderr are a full pipe whose reader is stopped: the sample count is found, exit code 0."""
    fleet.write_prompts(tmp_path / "data.parquet", [[2, 7, 300 * i] for i in range(100)])
    (tmp_path / "user.conf").write_text("*.Offline.min_duration = 500\n")
    command = argv(tmp_path, address, "--scenario", "offline")
    with fleet.full_pipe() as output:
        search = subprocess.Popen(command, cwd=fleet.ROOT, stdout=output, stderr=output)
        try:
            assert 0 == search.wait(4 * RUN_TIMEOUT_S)
        finally:
            search.kill()
            search.wait(60)
    state = tmp_path / "out" / "find-qps" / "offline" / "find_qps.json"
    assert "found" == json.loads(state.read_text())["end"]["outcome"]
