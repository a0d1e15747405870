"""Plans for tests, and processes that carry them out."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from tests import fleet

STRICT = """\
[campaign]
output-dir = "out"

[data]
performance = "perf.parquet"
accuracy = "acc.parquet"
compliance = "gpqa.parquet"
tokenizer = "tokenizer"
lcb-tests = "lcb.jsonl"

[offline]
target-qps = 12

[server]
target-qps = 10.5

[worker]
model = "m"

[[groups]]
name = "both"
scenarios = ["offline", "server"]

[submission]
submitter = "Org"
system = "one"
tree = "tree"
"""
"""A plan that could be submitted, as far as the file alone shows it."""

REHEARSAL = """\
[campaign]
output-dir = "out"

[data]
performance = "prompts.parquet"
accuracy = "prompts.parquet"
compliance = "prompts.parquet"
tokenizer = "tokenizer"

[offline]
target-qps = 100

[worker]
engine = "counting"
step-ms = 2

[coordinator]
report = false

[rehearsal]
min-duration-s = 0.02
max-new-tokens = 64
runs = ["performance", "accuracy"]
"""
"""Two short runs with the counting engine."""


def write_plan(directory: Path, text: str, *edits: tuple[str, str]) -> Path:
    """Write a plan after some replacements, each of a text that it holds once."""
    for old, new in edits:
        assert 1 == text.count(old), old
        text = text.replace(old, new)
    path = directory / "plan.toml"
    path.write_text(text)
    return path


def write_rehearsal(directory: Path, *edits: tuple[str, str]) -> Path:
    """Write a plan of short runs and their data."""
    fleet.write_prompts(directory / "prompts.parquet", fleet.counting_prompts(40))
    return write_plan(directory, REHEARSAL, *edits)


class StartedCampaign:
    """A `tokenfleet campaign` process, with a marker in the environment of all that it starts."""

    def __init__(
        self,
        plan: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        """Start it in the plan's directory; its output is appended to output.txt there.

        Args:
            plan: The plan.
            flags: Further flags.
            environment: Variables beside this process's own.
            stdout: Descriptor that takes it instead.
            stderr: The same.
        """
        self.output = plan.with_name("output.txt")
        self.output.touch()
        self._begin = self.output.stat().st_size
        self.marker = uuid.uuid4().hex
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tokenfleet", "campaign", plan.name, *flags],
                cwd=plan.parent,
                env=os.environ
                | {"PYTHONPATH": str(fleet.ROOT), "TOKENFLEET_TEST": self.marker}
                | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=file if stdout is None else stdout,
                stderr=file if stderr is None else stderr,
            )

    def text(self) -> str:
        """Return the output so far."""
        return self.output.read_bytes()[self._begin :].decode()

    def wait_for(self, line: str, timeout_s: float = 60.0) -> None:
        """Wait for a text in the output."""
        self.wait_until(lambda: line in self.text(), timeout_s)

    def wait_for_file(self, path: Path, timeout_s: float = 60.0) -> None:
        """Wait until a file exists."""
        self.wait_until(path.exists, timeout_s)

    def wait_until(self, is_there: Callable[[], object], timeout_s: float = 60.0) -> None:
        """Wait until a condition holds; the campaign's end fails the test."""
        deadline_s = time.monotonic() + timeout_s
        while not is_there():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline_s, self.text()
            time.sleep(0.05)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait(60)

    def end(self, timeout_s: float = 120.0) -> int:
        """Wait for the exit code."""
        return self.process.wait(timeout_s)


def run_ids(output_dir: Path) -> dict[str, str]:
    """Return the run id of each run by scenario and kind."""
    records = sorted(output_dir.glob("*/*/run.json"))
    return {
        f"{path.parent.parent.name} {path.parent.name}": json.loads(path.read_text())["run_id"]
        for path in records
        if path.parent.parent.name != "superseded"
    }


def stop_local_worker(output_dir: Path) -> None:
    """Kill the worker that a killed campaign left behind, if there is one."""
    state = output_dir / "campaign.json"
    for process in json.loads(state.read_text())["local_workers"] if state.exists() else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process["pid"], signal.SIGKILL)


def change_num_cores(record: Path) -> int:
    """Let a run have had a machine of 999 cores; returns what it had."""
    content = json.loads(record.read_text())
    hosts = [host for worker in content["summary"]["workers"] for host in worker["hosts"]]
    num_cores: int = hosts[-1]["num_cores"]
    for host in hosts:
        host["num_cores"] = 999
    record.write_text(json.dumps(content))
    return num_cores
