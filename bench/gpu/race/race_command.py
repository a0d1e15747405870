"""bench.gpu race: run the configurations of a race file one after another, and keep the journal."""

import argparse
import contextlib
import dataclasses
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import describe_commit, describe_machine, say
from bench.gpu.answers import Pipe
from bench.gpu.figures import read_start
from bench.gpu.found import Clock
from bench.gpu.gpu_rounds import shortened
from bench.gpu.model import check_place, write_full_size
from bench.gpu.race.journal import Finals, Journal, Run, is_interrupted
from bench.gpu.race.profile_files import write_profile
from bench.gpu.race.race_file import Configuration, choose, read_race_file
from bench.gpu.race.race_flags import RacePlan, parse
from bench.gpu.race.race_table import HEAD, standing_lines, window_line
from bench.gpu.race.steady_engine import RECORDED, SteadySpec
from bench.gpu.race.step_recording import WRITE_TIMEOUT_S, RecordingSpec
from bench.gpu.watch import describe_gpus, last_used_mib, use_between, wait_free
from bench.processes import Processes
from common.signals import Interrupted
from worker.engines.model.random_weights import EVEN_EXPERTS
from worker.machine.nvml import process_tree

STOP_TIMEOUT_S = 60.0
FREE_TIMEOUT_S = 60.0
SPARE_MIB = 1024.0
"""Memory above that before the race with which a GPU counts as free."""
POLL_S = 0.2


def journal_plan(plan: RacePlan) -> dict[str, Any]:
    """Return what two runs must share to be compared: the flags, and how random weights are made."""
    return {**dataclasses.asdict(plan), "random_weights": EVEN_EXPERTS}


class Limits(NamedTuple):
    """Bounded waits."""

    load_s: float
    """From the start of the process until its engine is loaded."""
    start_s: float
    """Until the first requests run, or until a window has ended, beyond the window's length."""


class Race:
    """Runs configurations."""

    def __init__(
        self,
        processes: Processes,
        asked: argparse.Namespace,
        plan: RacePlan,
        clock: Clock,
        machine: dict[str, str],
    ) -> None:
        """Take the flags; nothing is started yet."""
        self._processes = processes
        self.machine = machine
        """What the figures are of; a part of each result."""
        self.plan = plan
        self._clock = clock
        self.logs: Path = asked.journal.resolve() / "logs"
        """Directory of all logs and traces."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.model: Path = asked.model or self.logs / "gpt-oss-120b"
        """Checkpoint of all configurations."""
        if not self.model.exists():
            write_full_size(self.model)
        bounds = asked.profile_steps, asked.profile_max_steps
        self._recording = RecordingSpec(str(self.logs), *bounds) if asked.profile else None
        self._given_model: Path | None = asked.model
        self._gpu: int | None = asked.gpu
        self._limits = Limits(asked.load_timeout_s, asked.start_timeout_s)
        self._watch_log = self.logs / "watch.log"
        self._used_before_mib = 0.0

    def begin(self) -> None:
        """Start to read the GPU's usage.

        Raises:
            FlagError: There is no such GPU, or none is given and vLLM or the model needs one.
            RuntimeError: The GPU is in use, or cannot be read.
        """
        check_place("--gpu", self._given_model, is_on_gpu=self._gpu is not None)
        # An earlier command may have left its readings.
        self._watch_log.write_bytes(b"")
        if self._gpu is None:
            return
        watch = self._processes.start(["bench.gpu.watch"], self._watch_log)
        self._used_before_mib = wait_free(watch, self._watch_log, [self._gpu], "--gpu")[self._gpu]

    def run(
        self, configuration: Configuration, number: int, on_window: Callable[[Run], None]
    ) -> dict[str, Any]:
        """Run one configuration; a failure is part of the result.

        Args:
            configuration: What to run.
            number: Of this configuration's runs, from 1.
            on_window: Called with the result so far after each window.
        """
        label = f"{configuration.name}-{'profile' if self._recording else number}"
        self._clock.say(f"{label}: load")
        result: dict[str, Any] = {
            "name": configuration.name,
            "number": number,
            "begun_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "definition": configuration.definition(),
            "machine": self.machine,
            "failure": None,
            "parts": [],
            "windows": [],
            "recordings": [],
        }
        begun_s = time.monotonic()
        log = self.logs / f"{label}.log"
        try:
            with self._started(configuration, label, log) as pipe:
                self._follow(pipe, configuration, result, on_window)
        except RuntimeError as error:
            result["failure"] = shortened(str(error))
            self._clock.say(f"{label}: failed: {result['failure']}")
        except Interrupted as interruption:
            # The windows so far are kept, and the run is made again.
            result |= {"failure": "interrupted", "interrupted_with": interruption.exit_code}
        result["seconds"] = time.monotonic() - begun_s
        result["start_log"] = read_start(log)
        return result

    def _follow(
        self, pipe: Pipe, configuration: Configuration, result: Run, on_window: Callable[[Run], None]
    ) -> None:
        """Take the messages of the process until it is done.

        Raises:
            RuntimeError: It failed, has ended or does not answer in time.
        """
        for part, timeout_s in self._expected(configuration):
            message = pipe.take(timeout_s)
            if message is None:
                raise RuntimeError(f"{part}: nothing within {timeout_s:g} s")
            if message["part"] == "failed":
                raise RuntimeError(f"{part}: {message['reason']}")
            self._keep(message, result)
            if message["part"] == "window":
                on_window(result)

    def _keep(self, message: dict[str, Any], result: dict[str, Any]) -> None:
        if (figures := message.pop("figures", None)) is not None:
            result["windows"].append(self._with_gpu(figures))
            self._clock.say(window_line(result["windows"][-1]))
            return
        kept = "recordings" if message["part"] == RECORDED else "parts"
        result[kept].append(message)
        self._clock.say(f"  {message['part']} after {message['after_s']:.1f} s")

    def _expected(self, configuration: Configuration) -> Iterator[tuple[str, float]]:
        """Yield each part that the process reports, and how long it may take."""
        yield "imported", self._limits.load_s
        yield "loaded", self._limits.load_s
        yield "running", self._limits.start_s
        for window_s in self._windows_s(configuration):
            yield "window", self._limits.start_s + self.plan.settle_s + window_s
            if self._recording:
                yield RECORDED, self._limits.start_s + 2 * WRITE_TIMEOUT_S
        yield "done", STOP_TIMEOUT_S

    def _windows_s(self, configuration: Configuration) -> list[float]:
        return [self.plan.window_s] + [self.plan.other_window_s] * (len(configuration.rows) - 1)

    def _with_gpu(self, figures: dict[str, Any]) -> dict[str, Any]:
        gpu = self._gpu
        use = None if gpu is None else use_between(self._watch_log, gpu, figures["begin_s"], figures["end_s"])
        return figures | {"gpu": None if use is None else use._asdict()}

    @contextlib.contextmanager
    def _started(self, configuration: Configuration, label: str, log: Path) -> Iterator[Pipe]:
        """Start the process of a configuration; at the end wait until the GPU's memory is free."""
        plan = self.plan
        spec = SteadySpec(
            model=str(self.model),
            argv=configuration.argv(plan.max_model_len),
            rows=configuration.rows,
            window_s=self._windows_s(configuration),
            prefill_group_tokens=configuration.prefill_group_tokens,
            settle_s=plan.settle_s,
            requests_per_prefix=plan.requests_per_prefix,
            lengths=plan.lengths,
            recording=self._recording,
        )
        path = self.logs / f"{label}.json"
        path.write_text(spec.to_json() + "\n", encoding="utf-8")
        visible = {} if self._gpu is None else {"CUDA_VISIBLE_DEVICES": str(self._gpu)}
        process = self._processes.start(
            ["bench.gpu.race.steady_engine", str(path)],
            log,
            environment=visible | configuration.environment,
            piped=True,
        )
        try:
            yield Pipe(process, log)
        finally:
            self._stop(process)

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        members = process_tree(process.pid)
        self._processes.kill(process)
        deadline_s = time.monotonic() + FREE_TIMEOUT_S
        while left := self._left(members):
            if time.monotonic() > deadline_s:
                self._clock.say(f"  after {FREE_TIMEOUT_S:g} s: {left}")
                return
            time.sleep(POLL_S)

    def _left(self, members: set[int]) -> str:
        """Return what a process has left behind; empty if nothing."""
        running = [pid for pid in members if Path(f"/proc/{pid}/fd").exists() and _has_memory(pid)]
        if running:
            return f"processes {running} still run"
        used_mib = None if self._gpu is None else last_used_mib(self._watch_log, self._gpu)
        is_free = used_mib is None or used_mib < self._used_before_mib + SPARE_MIB
        return "" if is_free else f"{used_mib:.0f} MiB of the GPU are in use"


def _has_memory(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return bool(Path(f"/proc/{pid}/statm").read_text().split()[0] != "0")
    except OSError:
        return False


def main(argv: list[str]) -> int:
    """Run the race. Return 0: nothing is left to run, 1: time was short or all runs failed, 2: bad input."""
    try:
        asked, plan, finals = parse(argv)
        names = (asked.profile, "--profile") if asked.profile else (asked.only, "--only")
        configurations = choose(read_race_file(asked.configs), *names)
        asked.journal.mkdir(parents=True, exist_ok=True)
        journal = None if asked.profile else Journal(asked.journal, journal_plan(plan))
        if journal is not None:
            journal.check(configurations)
    except ValueError as error:
        say(f"bench.gpu: {error}")
        return 2
    except OSError as error:
        say(f"bench.gpu: --journal: {error}")
        return 2
    machine = {**describe_machine(), **describe_gpus(), "commit": describe_commit()}
    clock = Clock(asked.deadline_s)
    try:
        with Processes() as processes:
            race = Race(processes, asked, plan, clock, machine)
            race.begin()
            say(HEAD)
            if journal is None:
                return _profile(race, configurations[0], asked.journal)
            is_done = _run_all(race, journal, configurations, finals, clock)
    except ValueError as error:
        say(f"bench.gpu: {error}")
        return 2
    except (RuntimeError, OSError) as error:
        say(f"bench.gpu: {error}")
        return 1
    say("\n".join(standing_lines(journal.runs)))
    has_figures = any(run["windows"] for run in journal.runs)
    return 0 if is_done and has_figures else 1


def _profile(race: Race, configuration: Configuration, journal: Path) -> int:
    """Record steps of one configuration. Return 0: all were recorded, 1: a failure.

    Raises:
        RuntimeError: None was recorded.
    """
    run = race.run(configuration, 1, lambda _: None) | {"plan": journal_plan(race.plan)}
    say(write_profile(run, race.logs, journal, race.model))
    if is_interrupted(run):
        raise Interrupted(run["interrupted_with"] - 128)
    return 1 if run["failure"] else 0


def _run_all(
    race: Race,
    journal: Journal,
    configurations: list[Configuration],
    finals: Finals,
    clock: Clock,
) -> bool:
    """Run what the journal says is next, until nothing is left or the next run may not end in time.

    Raises:
        FlagError: The journal has runs of another GPU or vLLM.
    """
    journal.check_machine(race.machine)
    by_name = {one.name: one for one in configurations}
    longest_s = max((run["seconds"] for run in journal.runs if not run["failure"]), default=0.0)
    while names := journal.next(configurations, finals):
        if clock.ends_before(longest_s):
            clock.say(f"not run, no time is left: {', '.join(names)}")
            return False
        number = len(journal.runs_of(names[0])) + 1
        run = race.run(
            by_name[names[0]],
            number,
            lambda so_far: journal.keep(so_far, configurations, finals),
        )
        longest_s = max(longest_s, run["seconds"])
        journal.add(run, configurations, finals)
        if is_interrupted(run):
            raise Interrupted(run["interrupted_with"] - 128)
    return True
