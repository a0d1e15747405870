"""A campaign of all runs that takes about a minute, its processes, and its tree without times."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import grpc
import pandas as pd

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.sut.submission.small_runs import head_of, make_repository
from tests.tokenfleet.campaign import small_benchmark
from tests.tokenfleet.campaign.plans import StartedCampaign

PLAN = """\
[campaign]
output-dir = "out"

[data]
performance = "data/perf_eval_ref.parquet"
accuracy = "data/acc_eval_ref.parquet"
compliance = "data/acc_eval_compliance_gpqa.parquet"
tokenizer = "data/tokenizer"
lcb-tests = "data/lcb_tests.jsonl"

[offline]
target-qps = 80

[server]
target-qps = 50
user-conf = "server.conf"

[worker]
engine = "replay"
answers = "data/answers.parquet"
tokens-per-s = 1500.0
step-ms = 5
replicas = 2

[rehearsal]
min-duration-s = 2

[submission]
submitter = "Org"
system = "small"
tree = "tree"
calibration = "calibration.txt"
source = "repository"

[system]
status = "available"
cooling = "air"
host_memory_configuration = "N/A"
host_networking_topology = "N/A"
"""
# LoadGen's early stopping needs 459 queries at the official 99 %; TEST07 has ten.
SERVER_CONF = "gpt-oss-120b.Server.target_latency_percentile = 50\n"
DATA_FLAGS = ("--mean-prompt-len", "60", "--mean-accuracy-answer-len", "200")
DATA_OF_KIND = {
    "accuracy": "acc_eval_ref.parquet",
    "TEST07": "acc_eval_compliance_gpqa.parquet",
    "TEST09": "perf_eval_ref.parquet",
}
ACCEPTED = ("VALID", "NOT_GRADED")
RUNS = [f"{scenario} {kind}" for scenario in ("offline", "server") for kind in ("performance", *DATA_OF_KIND)]
NUM_REPLICAS = 2
# Equal dates give equal commits, which README.md names.
COMMIT_DATE = "2026-01-01T00:00:00Z"
# Files of a tree whose content holds times.
TIMED = {"mlperf_log_detail.txt", "mlperf_log_summary.txt"}


class SmallCampaign:
    """A directory with a plan, its data, and what starts of the campaign leave there."""

    def __init__(self, directory: Path) -> None:
        """Write plan and data."""
        self.directory = directory
        self.out = directory / "out"
        self._started: list[StartedCampaign] = []
        site = directory / "site"
        site.mkdir()
        shutil.copy(small_benchmark.__file__, site / "sitecustomize.py")
        with mock.patch.dict(os.environ, GIT_AUTHOR_DATE=COMMIT_DATE, GIT_COMMITTER_DATE=COMMIT_DATE):
            commit = head_of(make_repository(directory / "repository"))
        path = os.pathsep.join([str(site), str(fleet.ROOT)])
        self._environment = {"PYTHONPATH": path, small_benchmark.COMMIT: commit}
        (directory / "plan.toml").write_text(PLAN)
        (directory / "server.conf").write_text(SERVER_CONF)
        (directory / "calibration.txt").write_text("Nothing was calibrated.\n")
        command = [sys.executable, "-P", "-m", "tokenfleet", "synthetic", "benchmark", "--output", "data"]
        environment = os.environ | self._environment
        length = f"--mean-answer-len={small_benchmark.MEAN_ANSWER_LEN}"
        subprocess.run(
            [*command, *DATA_FLAGS, length], cwd=directory, env=environment, check=True, timeout=60
        )

    def start(self, pause: str = "") -> StartedCampaign:
        """Start the campaign.

        Args:
            pause: Place where it waits; see small_benchmark.
        """
        for name in (small_benchmark.PAUSED, small_benchmark.RESUME):
            (self.directory / name).unlink(missing_ok=True)
        environment = self._environment | ({small_benchmark.PAUSE: pause} if pause else {})
        started = StartedCampaign(self.directory / "plan.toml", environment=environment)
        self._started.append(started)
        return started

    def kill_all(self) -> None:
        """Kill whatever processes the starts have left."""
        for started in self._started:
            while (pid := _find(started.marker, ())) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                started.process.poll()

    def resume(self) -> None:
        """Let a waiting campaign continue."""
        (self.directory / small_benchmark.RESUME).touch()

    @property
    def paused(self) -> Path:
        """File that a waiting campaign has created."""
        return self.directory / small_benchmark.PAUSED

    def run_dir(self, run: str) -> Path:
        """Return the directory of a run, by its name in the table."""
        return self.out / Path(*run.split())

    def outcome(self, run: str) -> str:
        """Return the outcome of a run; empty without a record."""
        with contextlib.suppress(FileNotFoundError):
            return str(fleet.run_json(self.run_dir(run))["verdict"]["outcome"])
        return ""

    def finished(self) -> dict[str, str]:
        """Return the run ids of the runs that are accepted."""
        done = [run for run in RUNS if self.outcome(run) in ACCEPTED]
        return {run: str(fleet.run_json(self.run_dir(run))["run_id"]) for run in done}

    def num_repeated(self) -> int:
        """Count the runs that were set aside."""
        return len(list((self.out / "superseded").glob("*")))

    def graded(self, run: str) -> list[dict[str, object]]:
        """Read the log of graded programs of an accuracy run."""
        path = self.run_dir(run) / "grading.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def worker(self) -> dict[str, int]:
        """Return process id and port of the local worker as campaign.json has them; empty without one."""
        with contextlib.suppress(FileNotFoundError):
            for process in json.loads((self.out / "campaign.json").read_text())["local_workers"]:
                return {"pid": process["pid"], "port": process["port"]}
        return {}

    def is_busy(self, run: str) -> bool:
        """Return whether a run's requests are on the workers."""
        if self.outcome(run) != "UNFINISHED":
            return False
        return any(_load(port) for port in self._replica_ports())

    def _replica_ports(self) -> list[int]:
        port = self.worker()["port"]
        return [port + number for number in range(1, NUM_REPLICAS + 1)]

    def replica_pid(self) -> int:
        """Return the process id of a replica that has requests."""
        for port in self._replica_ports():
            if _load(port):
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return int(rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60).pid)
        raise AssertionError("no replica has requests")

    def answers(self, tree: Path) -> dict[str, dict[int, list[int]]]:
        """Read the answers of the whole accuracy logs beside a tree, by folder and sample."""
        found = {}
        for log in sorted(tree.with_name(f"{tree.name}-originals").rglob("mlperf_log_accuracy.json")):
            entries = json.loads(log.read_text())
            *_, scenario, kind = (part for part in log.parts[:-1] if part != "accuracy")
            name = f"{scenario} {kind}" if kind in DATA_OF_KIND else f"{kind} accuracy"
            found[name] = {entry["qsl_idx"]: fleet.tokens_of(entry["data"]) for entry in entries}
            assert len(entries) == len(found[name]), log
        return found

    def expected_answers(self) -> dict[str, dict[int, list[int]]]:
        """Return what `answers` must be, from the file that the engine replays."""
        table = pd.read_parquet(self.directory / "data" / "answers.parquet")
        pairs = zip(table["input_tokens"], table["output_tokens"], strict=True)
        recorded = {tuple(prompt): list(map(int, answer)) for prompt, answer in pairs}
        return {
            f"{scenario} {kind}": {
                row: recorded[tuple(prompt)]
                for row, prompt in enumerate(pd.read_parquet(self.directory / "data" / name)["input_tokens"])
            }
            for scenario in ("Offline", "Server")
            for kind, name in DATA_OF_KIND.items()
        }

    def documents(self) -> dict[str, str]:
        """Return the files of the tree by path, without times, ports and the order of completion."""
        tree = self.directory / "tree"
        files = sorted(path for path in tree.rglob("*") if path.is_file())
        return {str(path.relative_to(tree)): self._without_times(path) for path in files}

    def _without_times(self, path: Path) -> str:
        if path.name in TIMED:
            return ""
        text = path.read_text()
        if path.name == "mlperf_log_accuracy.json":
            # Truncated, in the order of completion; `answers` reads the whole log.
            return ""
        if path.name == "accuracy.txt":
            return re.sub(r"hash=[0-9a-f]{64}", "hash=", text)
        if path.name == "README.md":
            return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", text.replace(str(self.directory), ""))
        return text


class Process(NamedTuple):
    """A process that a campaign started, stopped by SIGSTOP."""

    pid: int

    def stop(self) -> None:
        """Send SIGSTOP and wait until it has an effect; the end of the process fails the test."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline_s = time.monotonic() + 60
        while (state := _state(self.pid)) != "T":
            assert state not in ("", "Z", "X"), f"process {self.pid} ended before it was stopped"
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def resume(self) -> None:
        """Let it continue."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)


def stopped_process(campaign: StartedCampaign, words: Sequence[str]) -> Process:
    """Wait for a process whose command line has these words, and stop it."""
    campaign.wait_until(lambda: _find(campaign.marker, words), 300.0)
    pid = _find(campaign.marker, words)
    assert pid is not None
    process = Process(pid)
    process.stop()
    return process


def _find(marker: str, words: Sequence[str]) -> int | None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError):
            line = (entry / "cmdline").read_text().split("\0")
            if set(words) <= set(line) and f"TOKENFLEET_TEST={marker}" in (entry / "environ").read_text():
                return int(entry.name)
    return None


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _load(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, contextlib.suppress(grpc.RpcError):
        return int(rpc.WorkerStub(channel).GetLoad(pb.GetLoadRequest(), timeout=60).running)
    return 0
