"""A Server run on a terminal whose coordinator stands still for a while: its live and its final figures."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pyte
import pytest

from common.source_commit import read_commit
from tests import fleet

STOPPED_S = 0.8
# 150 queries in about 1.5 s; an answer takes 300 steps of 10 ms.
CONF = "*.Server.min_duration = 1500\n*.Server.target_qps = 100\n"
NUM_QUERIES = 150
# The coordinator stops itself before it passes on a query that is due after 0.8 s. All earlier ones have
# their first tokens by then: the pause is in the TTFT of those alone that were due during it.
STOPPING = """
import os, signal, sys, time
from coordinator.__main__ import main
from coordinator.scheduling.scheduler import Scheduler
from sut.sut import Reports
issue, num_issued = Scheduler.issue, 0
first_tokens, num_begun = Reports.first_tokens, 0
def count_first_tokens(self, ids, *tokens):
    global num_begun
    times = first_tokens(self, ids, *tokens)
    num_begun += len(ids)
    return times
def issue_or_stop(self, *query):
    global num_issued
    num_issued += 1
    if num_issued == 80:
        deadline_s = time.monotonic() + 60
        while num_begun < 79:
            assert time.monotonic() < deadline_s, num_begun
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGSTOP)
    issue(self, *query)
Scheduler.issue, Reports.first_tokens = issue_or_stop, count_first_tokens
sys.exit(main(sys.argv[1:]))
"""
# A time since the first query, and not since the start of the machine.
LONG_NS = 60 * 10**9


class Shown(NamedTuple):
    """What a run left."""

    terminal: str
    """All that was written to stderr, a pseudo-terminal."""
    stdout: str
    record: Any
    """run.json."""
    run_dir: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Run Server on two workers; the coordinator is stopped for STOPPED_S after half of its queries."""
    directory = tmp_path_factory.mktemp("run")
    data = fleet.write_prompts(directory / "data.parquet", [[300, 7, 1000 * i] for i in range(50)])
    conf = fleet.write_conf(directory / "user.conf", CONF)
    run_dir = directory / "out" / "server" / "performance"
    reader, writer = pty.openpty()
    chunks: list[bytes] = []
    reading = threading.Thread(target=_read_all, args=(reader, chunks), daemon=True)
    with fleet.workers(directory, 2, "--step-ms", "10", "--max-num-seqs", "256") as started:
        flags = ("--scenario", "server", "--user-conf", str(conf), "--max-new-tokens", "350")
        argv = fleet.coordinator_flags(started, data, directory / "out", *flags)
        process = subprocess.Popen(
            [sys.executable, "-c", STOPPING, *argv],
            cwd=fleet.ROOT,
            stdout=subprocess.PIPE,
            stderr=writer,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        os.close(writer)
        reading.start()
        try:
            deadline_s = time.monotonic() + 120
            while not is_stopped(process.pid):
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            time.sleep(STOPPED_S)
            process.send_signal(signal.SIGCONT)
            stdout, _ = process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate(timeout=60)
    reading.join(60)
    os.close(reader)
    yield Shown(b"".join(chunks).decode(), stdout, fleet.run_json(run_dir), run_dir)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process: state T in /proc/PID/stat, proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _read_all(reader: int, chunks: list[bytes]) -> None:
    """Read until the last writer has closed, which a terminal reports as an error."""
    try:
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    except OSError:
        return


def test_late_issue_is_seen_in_loadgens_ttft_and_beside_ours(shown: Shown) -> None:
    """Half of all queries were due while the coordinator stood still: LoadGen's p90 is later, ours is not.

    The lateness of the issue thread holds the pause, so that nobody takes our TTFT for LoadGen's.
    """
    ours = shown.record["summary"]["ttft_ns"]
    loadgens = shown.record["loadgen_latencies"]["ttft_ns"]
    assert NUM_QUERIES == ours["count"]
    assert loadgens["percentiles"]["p90"] - ours["percentiles"]["p90"] > 0.3 * STOPPED_S * 1e9
    assert shown.record["summary"]["issue_lateness_ns"]["maximum"] > 0.8 * STOPPED_S * 1e9
    rows = [line.split() for line in shown.stdout.splitlines()]
    labels = [row[:3] for row in rows if row[:1] in (["ttft"], ["issue"])]
    assert [["ttft", "from", "issue"], ["ttft", "by", "LoadGen"]] == labels[:2]
    assert ["issue", "lateness"] == labels[2][:2]
    # p99, in ms.
    assert (
        f"{loadgens['percentiles']['p99'] / 1e6:,.3f}"
        == rows[rows.index(next(row for row in rows if row[:3] == ["ttft", "by", "LoadGen"]))][7]
    )


def test_loadgens_own_percentiles_are_those_of_its_log(shown: Shown) -> None:
    """run.json has the TTFT, TPOT and latency that LoadGen wrote, and the limits it applied."""
    (log,) = shown.run_dir.glob("*mlperf_log_summary.txt")
    text = log.read_text()
    for name, pattern in {
        "ttft_ns": r"99.00 percentile first token latency \(ns\) *: (\d+)",
        "tpot_ns": r"99.00 percentile time to output token \(ns\) *: (\d+)",
        "latency_ns": r"99.00 percentile latency \(ns\) *: (\d+)",
    }.items():
        (found,) = re.findall(pattern, text)
        assert int(found) == shown.record["loadgen_latencies"][name]["percentiles"]["p99"]
    bounds = shown.record["loadgen_bounds"]
    assert {"name": "target_qps", "value": 100} == bounds["result_completed_samples_per_sec"]
    limit = bounds["result_first_token_99.00_percentile_latency_ns"]
    assert {"name": "limit", "value": 3_000_000_000} == limit


def test_the_pause_is_part_of_ttft_as_lateness(shown: Shown) -> None:
    """Every query is in requests.parquet; from LoadGen's schedule its TTFT is LoadGen's own, to 1 ms.

    A busy machine may pause a thread between our reading of the clock and LoadGen's: single percentiles may
    be off by more, but not by the coordinator's pause. Most of the pause is LoadGen's lateness in the p90,
    because its queries were due early in the pause.
    """
    requests = pq.read_table(shown.run_dir / "requests.parquet")
    ttft_ns = sorted(
        first - due
        for first, due in zip(
            requests["first_reported_ns"].to_pylist(), requests["scheduled_ns"].to_pylist(), strict=True
        )
    )
    assert len(ttft_ns) == NUM_QUERIES
    loadgens = shown.record["loadgen_latencies"]["ttft_ns"]["percentiles"]
    off_ns = sorted(
        abs(ttft_ns[int(NUM_QUERIES * (float(name[1:]) / 100))] - value) for name, value in loadgens.items()
    )
    assert off_ns[len(off_ns) // 2] < 1e6
    assert off_ns[-1] < 0.3 * STOPPED_S * 1e9
    decomposition = shown.record["decomposition"]
    late_ns = [
        issued - due
        for issued, due in zip(
            requests["issued_ns"].to_pylist(), requests["scheduled_ns"].to_pylist(), strict=True
        )
    ]
    assert max(late_ns) == decomposition["lateness_ns"]["maximum"] > 0.8 * STOPPED_S * 1e9
    assert sorted(late_ns)[NUM_QUERIES // 2] == decomposition["lateness_ns"]["percentiles"]["p50"]
    assert decomposition["schedule"]["source"] == "seed"
    assert decomposition["num_contradicting"] == 0
    p90 = decomposition["quantities"]["ttft_ns"]["percentiles"]["p90"]
    assert p90["parts_ns"]["lateness"] > 0.5 * STOPPED_S * 1e9
    assert re.search(r"^   ttft p99 .*\):\n      lateness ", shown.stdout, re.MULTILINE)


def screens_of(shown: Shown) -> list[list[str]]:
    """Return the screen after each drawing, one list of lines each; the terminal has 80 columns."""
    screen = pyte.Screen(80, 24)
    stream = pyte.Stream(screen)
    screens = []
    for part in shown.terminal.split("\x1b[J"):
        stream.feed(part + "\x1b[J")
        screens.append([line.rstrip() for line in screen.display])
    return screens


def test_the_view_counts_first_tokens_before_any_answer_is_complete(shown: Shown) -> None:
    """The first view with tokens has a TTFT though nothing is done; no ETA is claimed; lateness follows."""
    texts = ["\n".join(screen) for screen in screens_of(shown)]
    views = [text for text in texts if "from issue" in text]
    early = [
        text for text in views if re.search(r" 0/150 done  ETA \?", text) and re.search(r"TTFT +\d", text)
    ]
    assert early, views
    assert all(re.search(r"TPOT +\?", text) for text in early)
    late_ms = [
        float(text.replace(",", "")) for text in re.findall(r"issue up to (\S+) ms late", "".join(views))
    ]
    assert max(late_ms) > 800 * STOPPED_S
    assert any(re.search(r"TTFT .* of \d+ allowed: ", text) for text in views)


def test_the_view_shows_every_worker_with_its_load(shown: Shown) -> None:
    """Both workers are live and told how many requests their engines run."""
    last = "\n".join(
        next(screen for screen in reversed(screens_of(shown)) if "from issue" in "".join(screen))
    )
    assert 2 == len(re.findall(r"^127\.0\.0\.1:\d+ +live +[\d,]+ +\d+ +\d+ ", last, re.MULTILINE)), last


def test_log_lines_and_table_are_not_glued_to_the_view(shown: Shown) -> None:
    """Each log line begins a line of the terminal, and the view is erased at the end."""
    for screen in screens_of(shown):
        for line in screen:
            assert "INFO coordinator" not in line or re.match(r"\d{4}-", line), screen
    assert not any("from issue" in line or line.startswith("[") for line in screens_of(shown)[-1])


def test_the_timeline_has_both_workers_and_the_coordinator(shown: Shown) -> None:
    """One row per second, worker and coordinator, from none of the tokens to all of them.

    The first sample is taken before the first query: rates over time would miss the tokens before it.
    """
    table = pq.read_table(shown.run_dir / "timeline.parquet")
    rows = table.to_pylist()
    assert {-1, 0, 1} == {row["worker"] for row in rows}
    assert 3 * len({row["time_ns"] for row in rows}) == len(rows)
    assert all((0, 0) == (row["tokens"], row["outstanding"]) for row in rows[:3])
    assert -LONG_NS < rows[2]["time_ns"] < 0
    assert {"live", "test"} == {row["state"] for row in rows}
    facts = json.loads(table.schema.metadata[b"tokenfleet"])
    workers = shown.record["summary"]["workers"]
    assert [1, "server", "performance"] == [facts["format"], facts["scenario"], facts["mode"]]
    assert [worker["address"] for worker in workers] == facts["addresses"]
    for worker in (0, 1):
        own = [row for row in rows if row["worker"] == worker]
        assert any(row["running"] for row in own)
        assert all(row["gpu_power_w"] is None and row["cpu_s"] is None for row in own)
        assert sorted(row["tokens"] for row in own) == [row["tokens"] for row in own]
        assert own[-1]["tokens"] == workers[worker]["tokens"]
    assert rows[-1]["tokens"] == sum(worker["tokens"] for worker in workers)


def test_the_pause_is_listed_with_its_time(shown: Shown) -> None:
    """The issue thread was late for the time for which the coordinator stood still, after the first query."""
    pauses = [pause for pause in shown.record["pauses"] if pause["kind"] == "issue"]
    longest = max(pauses, key=lambda pause: pause["duration_ns"])
    assert 0.8 * STOPPED_S * 1e9 < longest["duration_ns"] < LONG_NS
    assert -LONG_NS < longest["began_ns"] < LONG_NS


def test_the_verdict_warns_of_the_pause(shown: Shown) -> None:
    """A pause shorter than the second between two ticks of the event loop is seen by the issue thread."""
    (check,) = [check for check in shown.record["verdict"]["checks"] if check["name"] == "pauses"]
    assert check["warning"]
    (found,) = re.findall(r"; issue: worst ([\d.]+) ms, (\d+) of \d+ above 100 ms", check["seen"])
    assert float(found[0]) > 800 * STOPPED_S
    assert int(found[1]) >= 1
    assert re.search(r"; the event loop waited [\d.]+ s for a core, ", check["seen"])


def test_the_last_line_says_where_the_results_are(shown: Shown) -> None:
    """The last line of stdout names the directory of run.json."""
    assert f"   results: {shown.run_dir}" == shown.stdout.splitlines()[-1]


def test_run_json_says_where_it_ran(shown: Shown) -> None:
    """Coordinator and both workers ran on this machine from this tree: commit, cores, memory, packages."""
    commit = read_commit()
    hosts = [shown.record["host"], *(worker["hosts"][0] for worker in shown.record["summary"]["workers"])]
    assert 3 == len(hosts)
    for host in hosts:
        assert (commit, os.cpu_count()) == (host["commit"], host["num_cores"])
        assert host["memory_bytes"] > 0
        assert version("grpcio") == host["package_versions"]["grpcio"]
    assert commit == shown.record["versions"].get("commit", "")
