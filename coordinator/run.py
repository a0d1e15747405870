"""One run from its inputs to its verdict, and the one fatal exit.

LoadGen cannot be aborted. Once its test has begun, a run that cannot continue ends with the process, in
`Execution._leave`: LoadGen's summary is then empty, and run.json holds the reason.
"""

import contextlib
import dataclasses
import gc
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from common.signals import SIGNAL_POLL_S, Interrupted, Interrupts
from coordinator.config import LossPolicy, RunConfig
from coordinator.inputs import Inputs
from coordinator.pre_run_checks import announce, build_setup, warn_of_engines
from coordinator.recording import final_table
from coordinator.recording.file_thread import FileThread
from coordinator.recording.jitter import JitterMeter
from coordinator.recording.outputs import Outputs
from coordinator.recording.progress import ExpectedSamples, Progress
from coordinator.recording.recorder import Recorder, RunTimes
from coordinator.recording.run_counts import collect_counts
from coordinator.recording.run_dir import WRITE_TIMEOUT_S, LoadGenConfs, RunDir
from coordinator.recording.run_record import RunRecord
from coordinator.scheduling.event_loop import ActiveRun, Deadline, EventLoop, opening_of
from coordinator.scheduling.scheduler import Task
from coordinator.transport.fleet import Patience
from coordinator.transport.stream import Limits
from protos import worker_pb2 as pb
from sut import log_files
from sut.loadgen import LoadGenTest, generated_samples
from sut.results import verdict
from sut.results.deviations import Setup
from sut.results.loadgen_figures import LoadGenFigures
from sut.results.verdict import Outcome, Verdict
from sut.sut import SUT, Reports

logger = logging.getLogger(__name__)

# LoadGen's issue thread waits at most about this long for the interpreter lock; the wait counts in TTFT.
SWITCH_INTERVAL_S = 0.0005
# Containers allocated and not freed before the next collection: about ten megabytes. Frames and requests
# leave none; with Python's default of 700 the pings of 64 workers alone start a collection each second.
GC_THRESHOLD = 50_000
# LoadGen's logs of the longest runs are gigabytes; a file system that hangs for longer fails the run.
VERDICT_TIMEOUT_S = 1800.0
# Time limits of the fatal exit, of its outputs and of run.json in it: an interrupted user waits.
LEAVE_TIMEOUT_S = {Outcome.INTERRUPTED: 8.0, Outcome.FAILED: 120.0}
SALVAGE_TIMEOUT_S = {Outcome.INTERRUPTED: 3.0, Outcome.FAILED: 100.0}
LEAVE_WRITE_TIMEOUT_S = {Outcome.INTERRUPTED: 2.0, Outcome.FAILED: 30.0}


def run(config: RunConfig) -> int:
    """Run once.

    Returns:
        The exit code: 0 valid or not graded, 3 complete but INVALID. A run that fails or is interrupted
        after it has begun does not return.

    Raises:
        ValueError: Bad input: a flag, a file, or workers that cannot serve this run. Nothing is left behind.
        Interrupted: A signal arrived before the run had begun. Nothing is left behind.

    Thread: main.
    """
    interrupts, times, end = Interrupts(), RunTimes(), RunEnd()
    inputs = Inputs.read(config)
    announce(config, inputs)
    test = LoadGenTest(inputs.user_conf, config.scenario, config.mode)
    confs = LoadGenConfs(inputs.user_conf, inputs.audit_conf)
    run_id = f"{config.scenario}-{config.mode}-{uuid.uuid4().hex[:8]}"
    reports = Reports(config.scenario)
    with (
        FileThread() as files,
        _ready_workers(config, inputs, end) as event_loop,
        RunDir(inputs.run_dir, confs, files, overwrite=config.overwrite) as run_dir,
        Outputs(run_dir.create_stream(), run_dir.path, end.fail) as outputs,
        _opened(config, inputs, event_loop, reports, outputs, run_id) as active_run,
    ):
        execution = Execution(
            config=config,
            inputs=inputs,
            times=times,
            end=end,
            interrupts=interrupts,
            test=test,
            reports=reports,
            files=files,
            run_dir=run_dir,
            outputs=outputs,
            event_loop=event_loop,
            active_run=active_run,
            recorder=Recorder(run_id, config, inputs, test.settings.seeds, active_run),
        )
        record = execution.execute()
    final_table.show(record)
    return verdict.exit_code(record.verdict.outcome)


class RunEnd:
    """Whether the run is over, and why it failed if it did; the first reason counts."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why the run failed; None if it did not."""
        return self._failure

    def fail(self, reason: str) -> None:
        """End the run.

        Thread: any.
        """
        with self._lock:
            if self._failure is None:
                self._failure = reason
        self._ended.set()

    def fail_issue(self, error: BaseException) -> None:
        """End the run because a query could not be taken.

        Thread: LoadGen's.
        """
        self.fail(f"issue: {error!r}")

    def complete(self) -> None:
        """Note that LoadGen's test has ended.

        Thread: LoadGen's.
        """
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False if it has not come."""
        return self._ended.wait(timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A run that its workers have accepted, up to its verdict or the fatal exit."""

    config: RunConfig
    inputs: Inputs
    times: RunTimes
    end: RunEnd
    interrupts: Interrupts
    test: LoadGenTest
    reports: Reports
    files: FileThread
    run_dir: RunDir
    outputs: Outputs
    event_loop: EventLoop
    active_run: ActiveRun
    recorder: Recorder

    def execute(self) -> RunRecord:
        """Begin the run and drive it to its verdict.

        Returns:
            The record of a complete run. A run that fails or is interrupted does not return.

        Raises:
            ValueError: The output directory belongs to another run, or cannot be written; nothing has begun.

        Thread: main.
        """
        try:
            self._begin()
            record = self._complete()
            if record is None or self.end.failure is not None:
                self._leave(Outcome.FAILED, str(self.end.failure), verdict.exit_code(Outcome.FAILED))
        except Interrupted as interruption:
            self._leave(Outcome.INTERRUPTED, f"interrupted by {interruption}", interruption.exit_code)
        return record

    def _begin(self) -> None:
        unfinished = Verdict(Outcome.UNFINISHED, "the coordinator has not ended this run")
        record = self.recorder.record(unfinished, self.times, LoadGenFigures())
        self.run_dir.begin(record)
        num_workers = len(self.event_loop.links)
        logger.info("run %s on %d workers, specification %s", record.run_id, num_workers, record.spec_hash)
        warn_of_engines(self._setup())

    def _complete(self) -> RunRecord | None:
        """Run the test and store the verdict; None if the run failed."""
        try:
            _quiet_interpreter()
            meter = self._drive_loadgen()
            if self.end.failure is not None:
                return None
            record = self._judge(meter)
            self.interrupts.ignore()
            if self.end.failure is None:
                self._conclude(record)
        except Exception as error:
            logger.exception("the harness failed")
            self.end.fail(f"harness: {error!r}")
            return None
        return record

    def _drive_loadgen(self) -> JitterMeter:
        """Run LoadGen on its own thread and watch it from this one."""
        thread = threading.Thread(target=self._start_test, name="loadgen", daemon=True)
        read_expected = partial(generated_samples, self.run_dir.path)
        with (
            ExpectedSamples(read_expected) as expected,
            JitterMeter(self.event_loop.loop) as meter,
            self.recorder.issue_lateness as lateness,
            Progress(self.active_run, expected.get, lateness) as progress,
        ):
            self.times.begin_test()
            thread.start()
            while not self.end.wait(SIGNAL_POLL_S):
                progress.tick()
            self.times.end_test()
        return meter

    def _start_test(self) -> None:
        """Thread: LoadGen's."""
        sut = SUT(self.active_run.scheduler.issue, self.end.fail_issue)
        try:
            self.test.run(
                self.inputs.dataset.num_samples,
                sut.issue_queries,
                self.run_dir.path,
                self.run_dir.audit_config,
            )
        except Exception as error:
            logger.exception("LoadGen failed")
            self.end.fail(f"LoadGen: {error!r}")
        finally:
            self.reports.close()
            self.end.complete()

    def _judge(self, meter: JitterMeter) -> RunRecord:
        """Check the complete run; LoadGen's logs are read on the file thread."""
        self.active_run.settle()
        setup = self._setup()
        judge = partial(
            verdict.judge, self.run_dir.path, setup, collect_counts(self.active_run), meter.telemetry()
        )
        judged, detail = self.files.call(judge, VERDICT_TIMEOUT_S)
        return self.recorder.record(judged, self.times, LoadGenFigures.of(setup.scenario, detail))

    def _setup(self) -> Setup:
        workers = [(link.address, info) for link in self.event_loop.links for info in link.infos]
        return build_setup(self.config, self.inputs, workers, self.test.settings.seeds)

    def _conclude(self, record: RunRecord) -> None:
        """Store the verdict of a complete run, then give LoadGen's logs their names if it accepts them."""
        self.run_dir.write(record)
        if record.verdict.outcome.accepted:
            self.files.call(partial(log_files.accept, self.run_dir.path), WRITE_TIMEOUT_S)
        self.run_dir.release_space()

    def _leave(self, outcome: Outcome, reason: str, code: int) -> NoReturn:
        """End the process, and LoadGen's thread with it: the one fatal exit.

        The time is bounded, whatever a disk or a worker does, and no step depends on the one before.
        """
        timer = threading.Timer(LEAVE_TIMEOUT_S[outcome], os._exit, (code,))
        timer.daemon = True
        timer.start()
        # The first signal asks for what already happens; a later one ends the process at once.
        self.interrupts.hold()
        logger.error("run %s: %s", outcome, reason)
        judged, timeout_s = Verdict(outcome, reason), LEAVE_WRITE_TIMEOUT_S[outcome]
        steps: tuple[Callable[[], object], ...] = (
            partial(self._write_unfinished, judged, timeout_s),
            partial(self.files.call, partial(log_files.reject, self.run_dir.path), timeout_s),
            partial(self._salvage, outcome),
            self.run_dir.release_space,
            partial(self._show_unfinished, judged),
        )
        for step in steps:
            _try_step(step)
        logging.shutdown()
        os._exit(code)

    def _write_unfinished(self, judged: Verdict, timeout_s: float) -> None:
        self.run_dir.write(self.recorder.record(judged, self.times, LoadGenFigures()), timeout_s)

    def _show_unfinished(self, judged: Verdict) -> None:
        final_table.show(self.recorder.record(judged, self.times, LoadGenFigures()))

    def _salvage(self, outcome: Outcome) -> None:
        """Cancel the streams, so that workers empty their engines, and store what was received."""
        unfinished = self.active_run.abandon()
        self.event_loop.close()
        states = ["partial" if count else "waiting" for count in unfinished.counts.tolist()]
        logger.error("%s", self.outputs.salvage(*unfinished, states, SALVAGE_TIMEOUT_S[outcome]))


@contextlib.contextmanager
def _ready_workers(config: RunConfig, inputs: Inputs, end: RunEnd) -> Iterator[EventLoop]:
    """Connect to the workers, wait until they are ready and check the prompts against their limits.

    Raises:
        ValueError: The workers cannot serve this run.
    """
    patience = Patience(
        limits=Limits(config.worker_timeout_s, config.stall_timeout_s),
        no_worker_s=config.no_worker_timeout_s,
        continues=config.on_worker_loss is LossPolicy.CONTINUE,
    )
    with EventLoop(config.workers, inputs.access, patience, end.fail) as event_loop:
        event_loop.wait_ready(config.ready_timeout_s)
        info = event_loop.links[0].info
        inputs.dataset.check(
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            max_new_tokens=inputs.generation.max_new_tokens,
        )
        yield event_loop


@contextlib.contextmanager
def _opened(
    config: RunConfig, inputs: Inputs, event_loop: EventLoop, reports: Reports, outputs: Outputs, run_id: str
) -> Iterator[ActiveRun]:
    """Begin the run on every worker; its streams end with the block.

    Raises:
        ValueError: A worker refuses, or the workers differ.
    """
    task = Task(
        dataset=inputs.dataset,
        reports=reports,
        max_new_tokens=inputs.generation.max_new_tokens,
        max_losses=config.max_worker_losses,
        keep=outputs.keep,
    )
    opening = opening_of(run_id, pb.RunSpec(**dataclasses.asdict(inputs.generation)))
    deadline = Deadline(config.query_timeout_s, config.overdue_policy)
    active_run = event_loop.open(opening, task, deadline, outputs.flush)
    try:
        yield active_run
    finally:
        # A loop that does not answer ends with the process.
        with contextlib.suppress(TimeoutError):
            active_run.end()


def _try_step(step: Callable[[], object]) -> None:
    """Take one step of the fatal exit; the next ones follow whatever happens."""
    try:
        step()
    except OSError as error:
        logger.error("while leaving: %s", error)
    except Exception:
        logger.exception("while leaving")


def _quiet_interpreter() -> None:
    """Keep pauses out of the test: objects that exist now are never scanned by the collector again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
