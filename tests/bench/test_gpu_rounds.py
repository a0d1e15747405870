"""bench.gpu when a side fails: what was measured is kept, the failure is listed, and no process is left."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.command import OutputNotWritten, write_record
from bench.gpu.__main__ import main
from bench.gpu.answers import Answered
from bench.gpu.load import Plan, offline
from bench.gpu.sides import SIDES, InProcess
from bench.gpu.watch import wait_free
from bench.processes import Processes, read_tree_cpu
from common.flags import FlagError
from common.signals import Interrupted
from tests.bench.outliving import children, runs
from tests.fleet import ROOT

SMALL = ["--requests", "4", "--mean-prompt-len", "6", "--max-prompt-len", "12", "--mean-answer-len", "5"]
SMALL += ["--max-answer-len", "12", "--warm-rounds", "0", "--rounds", "1"]


class Scripted(InProcess):
    """A side whose process does what a test says."""

    actions: ClassVar[dict[str, list[str]]] = {}
    """Actions of the rounds of a load, by its label."""

    def _argv(self) -> list[str]:
        budgets = ",".join(map(str, self.setting.work.budgets))
        return ["tests.bench.scripted_side", budgets, *self.actions.get(self.label, ["ok", "ok"])]


class Bare(Scripted):
    """In place of LLM.generate."""

    name = kind = "bare"


class Ours(Scripted):
    """In place of the product."""

    name = kind = "ours"


class Command:
    """`bench.gpu offline` over scripted sides."""

    def __init__(self, checkpoint: Path, output: Path) -> None:
        self._argv = ["--model", str(checkpoint), *SMALL, "--output", str(output)]
        self._output = output

    def run(self, *flags: str) -> int:
        """Run the command."""
        return main(["offline", "--sides", "bare,ours", *self._argv, *flags])

    @property
    def record(self) -> dict[str, Any]:
        """Return the content of the output file."""
        record: dict[str, Any] = json.loads(self._output.read_text())
        return record


@pytest.fixture
def command(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Replace both sides; check at the end that no process of theirs is left."""
    monkeypatch.setattr(Scripted, "actions", {})
    monkeypatch.setattr("bench.gpu.coordinate.SPARE_S", 0.0)
    # LoadGen's dry run has its own test.
    monkeypatch.setattr("bench.gpu.offline.draw_offline", lambda _, num_samples, __: offline(num_samples))
    for side in (Bare, Ours):
        monkeypatch.setitem(SIDES, side.name, side)
    before = set(children(os.getpid()))
    yield Command(checkpoint, tmp_path / "found.json")
    assert set(children(os.getpid())) <= before


def test_a_side_that_dies_is_listed_and_the_other_is_measured_on(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours dies in its only load: its two rounds are missing, both of bare are kept; the exit code is 1."""
    Scripted.actions["2-ours"] = ["die"]
    assert 1 == command.run()
    record = command.record
    assert ["bare", "bare"] == [one["side"] for one in record["rounds"]]
    assert record["is_complete"]
    (failure,) = record["failures"]
    assert failure.startswith("2-ours: ")
    assert failure.endswith("the engine is dead")
    assert ["offline, round 1 of ours"] == record["not_run"]
    assert "ours / bare" not in capsys.readouterr().out


def test_a_round_of_unequal_work_is_in_no_ratio(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """One token is missing in ours' first round: one pair is left, and one pair has no noise."""
    Scripted.actions["2-ours"] = ["short", "ok"]
    assert 1 == command.run()
    out = capsys.readouterr().out
    assert "unequal work: left out" in out
    assert ["bare", "ours", "ours", "bare"] == [one["side"] for one in command.record["rounds"]]
    assert "tokens/s ours / bare: 1.0000 in one pair, its noise is not known; loads: ours 1, bare 2" in out
    assert [True, False] == [one["is_unequal"] for one in command.record["rounds"] if one["side"] == "ours"]


def test_a_round_that_times_out_ends_its_side(command: Command) -> None:
    """A round of bare hangs: its process is ended before ours is loaded, and bare is not loaded again."""
    Scripted.actions["1-bare"] = ["hang"]
    assert 1 == command.run("--round-timeout-s", "2", "--turns", "1")
    record = command.record
    assert ["ours"] == [one["side"] for one in record["rounds"]]
    assert "no answer within 2 s" in record["failures"][0]


def test_a_round_without_engine_core_ends_its_side(command: Command) -> None:
    """LLM.generate would wait for an engine core that was killed until the round's timeout of 600 s."""
    Scripted.actions["1-bare"] = ["core"]
    assert 1 == command.run("--turns", "1")
    assert ["ours"] == [one["side"] for one in command.record["rounds"]]
    (failure,) = command.record["failures"]
    assert failure.startswith("1-bare: engine core [")


def test_what_a_killed_process_leaves_is_waited_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine core outlives its process by 0.5 s: until then it holds memory that the next side needs."""
    Scripted.actions["1-bare"] = ["core"]
    cores: list[int] = []

    def kill(side: Bare, _: Plan, __: int) -> Answered:
        cores.extend(children(side.process.pid))
        side.process.kill()
        side.process.wait(60)
        raise RuntimeError("killed")

    monkeypatch.setattr(Bare, "run", kill)
    monkeypatch.setattr(Ours, "_look", lambda _: sys.exit(0 if not any(map(runs, cores)) else "a core runs"))
    with pytest.raises(SystemExit, match="0"):
        command.run("--turns", "1")
    assert 1 == len(cores)


def test_a_deadline_within_a_load_ends_the_load(command: Command) -> None:
    """Bare never gets ready: after the deadline all four rounds are listed as not run, and none as failed."""
    Scripted.actions["1-bare"] = ["load"]
    assert 1 == command.run("--deadline-s", "0.5")
    record = command.record
    assert ([], []) == (record["rounds"], record["failures"])
    sides_not_run = [line.rpartition(" ")[2] for line in record["not_run"]]
    assert ["bare", "ours", "ours", "bare"] == sides_not_run


def test_an_interrupted_command_prints_what_it_has(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in ours' first round: the file has bare's, marked as incomplete, and the table is printed."""

    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(Ours, "run", interrupted)
    with pytest.raises(Interrupted):
        command.run()
    assert ["bare"] == [one["side"] for one in command.record["rounds"]]
    assert not command.record["is_complete"]
    assert "  med bare" in capsys.readouterr().out


def test_a_second_signal_does_not_cut_off_the_figures() -> None:
    """The command is interrupted, and again while it prints: `timeout` sends its signal twice."""
    code = """
import os, signal, time
from bench.command import run_command

def main(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("figures")

run_command(main)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (130, "figures\n\ninterrupted\n") == (done.returncode, done.stdout)


def test_a_full_disk_at_the_start_is_one_line(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """No file may be larger than 1,000 bytes: the data set cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert 1 == command.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in capsys.readouterr().out.splitlines()[-1]


def test_processes_that_end_slowly_are_all_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes longer than the bound to end each of them."""
    monkeypatch.setattr("bench.processes.STOP_TIMEOUT_S", 0.0)
    sleep = ["timeit", "-n1", "import time; time.sleep(600)"]
    with Processes() as processes:
        started = [processes.start(sleep, tmp_path / f"{num}") for num in range(5)]
    for process in started:
        assert process.wait(60) < 0


def test_one_side_can_run_alone_and_once(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one turn and one round a side is measured once; a relative directory is created.

    That kernels were compiled in the round is said.
    """
    monkeypatch.chdir(tmp_path)
    assert 0 == command.run("--sides", "ours", "--turns", "1", "--keep-logs", "new/logs")
    assert (tmp_path / "new" / "logs" / "1-ours.log").exists()
    # Rows of due time, first and last token in ns, and tokens.
    kept = json.loads((tmp_path / "new" / "logs" / "1-ours-0.answer.json").read_text())
    (only,) = command.record["rounds"]
    assert only["tokens"] == sum(row[3] for row in kept["rows"])
    assert ("ours", 3) == (only["side"], only["compiled_kernels"])
    assert "ours compiled 3 kernels within offline, round 0" in capsys.readouterr().out.splitlines()


def test_a_measured_round_is_kept_if_its_times_cannot_be_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory has the name of the file."""

    def run(side: Bare, plan: Plan, number: int) -> Answered:
        (side.setting.directory / f"{side.label}-{number}.answer.json").mkdir()
        return InProcess.run(side, plan, number)

    monkeypatch.setattr(Bare, "run", run)
    assert 0 == command.run("--sides", "bare", "--turns", "1")
    assert ["bare"] == [one["side"] for one in command.record["rounds"]]
    assert "the answer of 1-bare is not written: " in capsys.readouterr().out


def test_a_full_disk_keeps_the_earlier_file(tmp_path: Path) -> None:
    """A file of at most 100 bytes: the second record does not fit, and the first is still there."""
    path = tmp_path / "found.json"
    write_record(path, {"rounds": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OutputNotWritten, match="is not written: File too large"):
            write_record(path, {"rounds": "x" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {"rounds": 1} == json.loads(path.read_text())
    assert [path] == [*tmp_path.iterdir()]


def test_a_process_that_is_late_is_ended(tmp_path: Path) -> None:
    """No process of a run that took too long disturbs the next measurement."""
    with Processes() as processes:
        before = set(children(os.getpid()))
        with pytest.raises(RuntimeError, match="not done after"):
            processes.run(["timeit", "-n1", "import time; time.sleep(600)"], tmp_path / "log", 0.2)
        assert set(children(os.getpid())) <= before


def test_cpu_time_of_ended_processes_is_counted() -> None:
    """A child computes for 0.2 s and ends between two readings."""
    before = read_tree_cpu(os.getpid())
    spin = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", spin], check=True, timeout=240)
    after = read_tree_cpu(os.getpid())
    assert 0.19 <= after.below_s - before.below_s < 5.0


def test_a_gpu_that_is_in_use_is_refused(tmp_path: Path) -> None:
    """GPU 0 is idle, GPU 1 holds 5,000 MiB, GPU 2 does not exist."""
    log = tmp_path / "watch.log"
    log.write_text("gpu 9.0 0 0 70 600 345\ngpu 9.0 1 0 70 5000 345\n")
    watch = subprocess.Popen(["true"])
    watch.wait(60)
    assert {0: 600.0} == wait_free(watch, log, [0], "--gpus")
    with pytest.raises(RuntimeError, match="GPU 1 is in use: 5000 MiB"):
        wait_free(watch, log, [0, 1], "--gpus")
    with pytest.raises(FlagError, match="--gpus: 2 is not one of the GPUs 0, 1"):
        wait_free(watch, log, [2], "--gpus")
