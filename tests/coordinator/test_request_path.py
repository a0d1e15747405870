"""The path of one Server query with two frames through the coordinator: how many files and calls it takes."""

import json
import sys
from pathlib import Path

from tests import fleet
from tests.forked import completed_command

MAX_FILES = 10
MAX_CALLS = 60
MIN_QUERIES = 5
# Runs a coordinator with every thread but main's profiled; writes, for each query, the functions that were
# called since the completion before its own: file and name. Resumed coroutines count as calls.
COUNT_CALLS = """
import json, os, sys, threading
from coordinator.__main__ import main
rooms = tuple(os.path.join(os.getcwd(), room, "") for room in ("coordinator", "sut", "protos", "common"))
calls, queries = [], []
def profile(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(rooms):
        calls.append((os.path.relpath(code.co_filename), code.co_name))
    elif event == "return" and code.co_name == "query_samples_complete":
        queries.append(list(calls))
        calls.clear()
threading.setprofile(profile)
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(queries))
sys.exit(code)
"""
# Mostly one query at a time: an answer takes 3 steps of 10 ms, and more on a busy machine.
CONF = "*.Server.min_duration = 1500\n*.Server.min_query_count = 40\n*.Server.target_qps = 10\n"


def test_a_server_query_takes_few_files_and_calls(tmp_path: Path) -> None:
    """At most 10 files and 60 calls over coordinator, sut, protos and common.

    Of the queries that were alone and had two frames; others share their frames, or took one. Work that is
    due at a time adds calls to some of them, on a busy machine to most: the least is the query's own.
    """
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, 1000 * i] for i in range(30)])
    conf = fleet.write_conf(tmp_path / "user.conf", CONF)
    with fleet.workers(tmp_path, 2, "--step-ms", "10", "--prefill-ms", "0") as started:
        command = fleet.coordinator_command(started, data, tmp_path / "out", "--scenario", "server")
        # Instead of python -m coordinator.
        program = [sys.executable, "-c", COUNT_CALLS, str(tmp_path / "queries.json"), *command[3:]]
        done = completed_command([*program, "--user-conf", str(conf), "--max-new-tokens", "8"])
    assert done.returncode in (0, 3), done.stderr
    queries = [path for path in map(own_path, json.loads((tmp_path / "queries.json").read_text())) if path]
    assert len(queries) >= MIN_QUERIES
    assert min(len(set(path)) for path in queries) <= MAX_FILES
    assert min(map(len, queries)) <= MAX_CALLS


def own_path(calls: list[tuple[str, str]]) -> list[str]:
    """Return the files of the calls since a query's issue; none if it was not alone in two frames."""
    names = [name for _, name in calls]
    if (names.count("issue_queries"), names.count("deliver")) != (1, 2):
        return []
    return [file for file, _ in calls[names.index("issue_queries") :]]
