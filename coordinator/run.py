"""One run from its inputs to its verdict, and the one fatal exit.

LoadGen cannot be aborted. Once its test has begun, a run that cannot continue ends with the process, in
`Execution._leave`: LoadGen's summary is then empty, and run.json holds the reason.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NoReturn

from common.forced_end import end_after
from common.signals import SIGNAL_POLL_S, Interrupted, Interrupts
from common.standard_streams import leave
from coordinator.config import RunConfig
from coordinator.inputs import Inputs
from coordinator.interpreter import quiet_interpreter
from coordinator.opened_run import RunServices, opened_run, ready_workers
from coordinator.pre_run_checks import announce, build_setup, warn_of_engines
from coordinator.recording import final_table
from coordinator.recording.file_thread import FileThread
from coordinator.recording.jitter import JitterMeter
from coordinator.recording.live_view import LiveView, view_terminal
from coordinator.recording.log_growth import LogGrowth
from coordinator.recording.metrics_feed import MetricsFeed
from coordinator.recording.outputs import Outputs
from coordinator.recording.progress import ExpectedSamples, Progress
from coordinator.recording.recorder import RecordedInputs, Recorder, RunTimes
from coordinator.recording.request_writer import RequestWriter
from coordinator.recording.run_counts import collect_counts
from coordinator.recording.run_dir import WRITE_TIMEOUT_S, LoadGenConfs, RunDir
from coordinator.recording.run_readings import RunReadings, RunSources
from coordinator.recording.run_record import RunRecord
from coordinator.recording.run_snapshot import FollowedRun, LatencyBounds, RunPhase
from coordinator.report_process import report_run, write_report
from coordinator.run_end import SHORT_LIMITS, RunEnd
from coordinator.run_grading import RunGrading
from coordinator.scheduling.event_loop import ActiveRun, EventLoop, network_name
from coordinator.scheduling.network_audit import AUDIT_NAME
from coordinator.scheduling.scheduler import NOTHING_UNFINISHED, Unfinished
from coordinator.transport.agreement import Served
from sut import log_files
from sut.loadgen import LoadGenTest, generated_samples
from sut.results import verdict
from sut.results.deviations import Setup
from sut.results.loadgen_figures import LoadGenFigures
from sut.results.verdict import Outcome, Verdict
from sut.sut import SUT, Reports

logger = logging.getLogger(__name__)


def run(config: RunConfig) -> int:
    """Run once.

    Returns:
        The exit code: 0 valid or not graded, 3 complete but INVALID. A run that fails or is interrupted
        after it has begun does not return.

    Raises:
        ValueError: Bad input: a flag, a file, or workers that cannot serve this run. Nothing is left behind.
        WorkerLost: A worker was lost before the run had begun. Nothing is left behind.
        Interrupted: A signal arrived before the run had begun, and nothing is left behind; or while answers
            were being scored, and run.json says NOT_GRADED.

    Thread: main.
    """
    interrupts, times = Interrupts(), RunTimes()
    inputs = Inputs.read(config)
    announce(config, inputs)
    test = LoadGenTest(inputs.user_conf, config.scenario, config.mode)
    title = f"{config.scenario} {inputs.run_dir.name}"
    with (
        MetricsFeed(config) as metrics,
        FileThread() as files,
        LiveView(title, view_terminal(is_wanted=config.live_view)) as view,
    ):
        services = RunServices(interrupts, metrics, files, view)
        with accepted_run(config, inputs, test, times, services) as execution:
            record = execution.execute()
        record = execution.grade(record)
    final_table.show(record, final_table.SHOW_TIMEOUT_S)
    if config.report:
        report_run(inputs.run_dir, interrupts)
    return verdict.exit_code(record.verdict.outcome)


@contextlib.contextmanager
def accepted_run(
    config: RunConfig, inputs: Inputs, test: LoadGenTest, times: RunTimes, services: RunServices
) -> Iterator["Execution"]:
    """Have the workers accept the run and make its directory; its streams end with the block.

    Raises:
        ValueError: The workers cannot serve this run, or its directory cannot be used.
        WorkerLost: The connection to a worker breaks while its stream is opened.
    """
    end, reports = RunEnd(), Reports(config.scenario)
    run_id = f"{config.scenario}-{config.mode}-{uuid.uuid4().hex[:8]}"
    confs = LoadGenConfs(inputs.user_conf, inputs.audit_conf)
    recorded = RecordedInputs(inputs.run_dir, inputs.dataset, inputs.generation)
    with (
        ready_workers(config, inputs, end, services) as event_loop,
        RunDir(inputs.run_dir, confs, services.files, overwrite=config.overwrite) as run_dir,
        Outputs(run_dir.create_stream(), run_dir.path, end.fail) as outputs,
        opened_run(config, inputs, event_loop, reports, outputs, run_id) as active_run,
    ):
        recorder = Recorder(run_id, config, recorded, test.settings, active_run)
        yield Execution(
            config=config,
            inputs=inputs,
            times=times,
            end=end,
            services=services,
            test=test,
            reports=reports,
            run_dir=run_dir,
            outputs=outputs,
            event_loop=event_loop,
            active_run=active_run,
            recorder=recorder,
            request_writer=RequestWriter(
                config, run_id, run_dir, services.files, test.settings, active_run, recorder.timeline
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A run that its workers have accepted, up to its verdict or the fatal exit."""

    config: RunConfig
    inputs: Inputs
    times: RunTimes
    end: RunEnd
    services: RunServices
    test: LoadGenTest
    reports: Reports
    run_dir: RunDir
    outputs: Outputs
    event_loop: EventLoop
    active_run: ActiveRun
    recorder: Recorder
    request_writer: RequestWriter

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

    def grade(self, record: RunRecord) -> RunRecord:
        """Write the requests of the complete run and grade its answers; its workers are free.

        Raises:
            Interrupted: A signal arrived; run.json has the verdict before the grading.

        Thread: main.
        """
        # Scoring may take hours.
        self.services.enter(RunPhase.GRADING)
        record = self.request_writer.store(record)
        test, files = self.inputs.confs.compliance_test, self.services.files
        return RunGrading(self.config, test, self.run_dir, files, self.services.interrupts).grade(record)

    def _begin(self) -> None:
        unfinished = Verdict(Outcome.UNFINISHED, "the coordinator has not ended this run")
        record = self.recorder.record(unfinished, self.times, LoadGenFigures())
        self.run_dir.begin(record)
        num_workers = len(self.event_loop.links)
        logger.info("run %s on %d workers, run hash %s", record.run_id, num_workers, record.spec_hash)
        warn_of_engines(self.config.scenario, self._workers(), self._setup())

    def _complete(self) -> RunRecord | None:
        """Run the test and store the verdict; None if the run failed."""
        try:
            quiet_interpreter()
            meter = self._drive_loadgen()
            if self.end.failure is not None:
                return None
            record = self._judge(meter)
            # The verdict is known. A second signal still ends the process.
            self.services.interrupts.hold()
            if self.end.failure is None:
                self._conclude(record)
        except TimeoutError as error:
            self.end.fail_disk(f"{self.run_dir.path}: {error}")
        except Exception as error:
            logger.exception("the harness failed")
            self.end.fail(f"harness: {error!r}")
        else:
            return record
        return None

    def _drive_loadgen(self) -> JitterMeter:
        """Run LoadGen on its own thread and watch it from this one."""
        thread = threading.Thread(target=self._start_test, name="loadgen", daemon=True)
        read_expected = partial(generated_samples, self.run_dir.path)
        with (
            ExpectedSamples(read_expected) as expected,
            JitterMeter(self.event_loop.loop, pauses=self.recorder.pauses) as meter,
            LogGrowth(self.run_dir.path, self.config.log_stall_timeout_s) as growth,
            self.recorder.issue_lateness as lateness,
        ):
            timeline, progress = self.recorder.timeline, Progress(self.active_run, expected.get, lateness)
            bounds = LatencyBounds.of(self.config.scenario, self.config.mode, self.test.settings.logged)
            self.services.view.follow(FollowedRun(self.active_run, expected.get, lateness, timeline, bounds))
            readings = RunReadings(
                self.recorder.run_id,
                self.config,
                RunSources(self.active_run, expected.get, lateness, meter),
            )
            self.services.metrics.enter(RunPhase.TEST)
            # Rates over time begin with no tokens: the next sample may come half a second into the test.
            timeline.tick()
            self.times.begin_test()
            thread.start()
            # An exception in the middle of a lock's own code would leave it held for ever.
            self.services.interrupts.hold()
            while not self.end.wait(SIGNAL_POLL_S):
                self.services.interrupts.check()
                timeline.tick()
                self.services.metrics.tick(readings.read)
                if not self.services.view.is_on:
                    progress.tick()
                self._check_logs(growth, expected.get())
                self._check_latencies()
            self.services.interrupts.resume()
            self.times.end_test()
            timeline.sample(time.monotonic_ns())
            self.services.metrics.tick(readings.read, last=True)
            self.services.enter(RunPhase.LOGS)
        return meter

    def _check_logs(self, growth: LogGrowth, num_expected: int | None) -> None:
        """End the run if LoadGen cannot write its logs any more: its test would never end."""
        scheduler = self.active_run.scheduler
        num_done = scheduler.table.num_done
        complete = num_expected is not None and num_done >= num_expected
        reason = growth.find_stall(idle=num_done == scheduler.num_issued, complete=complete)
        if reason is not None:
            self.end.fail_disk(f"{reason} (--log-stall-timeout-s)")

    def _check_latencies(self) -> None:
        """End the run if too many queries are over a latency limit (--max-over-latency)."""
        if self.config.max_over_latency is not None:
            reason = self.recorder.over_latency.count(time.monotonic_ns()).exceeds
            if reason:
                self.end.fail(reason)

    def _start_test(self) -> None:
        """Thread: LoadGen's."""
        sut = SUT(self.active_run.scheduler.issue, self.end.fail_issue)
        # LoadGen asks again after a performance test, when the SUT may have lost a worker.
        ask_name = cache(self._ask_name)
        try:
            self.test.run(
                self.inputs.dataset.num_samples,
                sut.issue_queries,
                self.run_dir.path,
                self.run_dir.audit_config,
                ask_name if self.config.network_sut else None,
                trace=self.config.loadgen_trace,
            )
        except Exception as error:
            logger.exception("LoadGen failed")
            self.end.fail(f"LoadGen: {error!r}")
        finally:
            self.reports.close()
            self.end.complete()

    def _ask_name(self) -> str:
        """Ask every node of the Network SUT for its name; a failure ends the run.

        Thread: LoadGen's; blocks, bounded, before LoadGen's clock starts.
        """
        nodes = self.event_loop.ask_nodes()
        if not nodes:
            self.end.fail("no node of the Network SUT has answered (--network-sut)")
        return network_name(nodes)

    def _judge(self, meter: JitterMeter) -> RunRecord:
        """Check the complete run; LoadGen's logs are read on the file thread."""
        self.active_run.settle()
        setup = self._setup()
        telemetry = replace(meter.telemetry(), issue=self.recorder.issue_lateness.pauses)
        judge = partial(verdict.judge, self.run_dir.path, setup, collect_counts(self.active_run), telemetry)
        files, limit_s = self.services.files, self.config.log_stall_timeout_s
        judged, detail = files.call_while_active(judge, limit_s)
        hashes = files.call_while_active(self.run_dir.hash_files, limit_s)
        figures = LoadGenFigures.of(setup.scenario, detail)
        if (audit := self.active_run.scheduler.audit) is not None:
            files.call_while_active(partial(audit.write, self.run_dir.path / AUDIT_NAME), limit_s)
        return self.recorder.record(judged, self.times, figures, hashes)

    def _setup(self) -> Setup:
        return build_setup(self.config, self.inputs, self._workers(), self.test.settings.seeds)

    def _workers(self) -> list[Served]:
        return [(link.address, info) for link in self.event_loop.links for info in link.infos]

    def _conclude(self, record: RunRecord) -> None:
        """Store the verdict of a complete run, then give LoadGen's logs their names if it accepts them."""
        self.run_dir.write(record)
        if record.verdict.outcome.accepted:
            self.services.files.call(partial(log_files.accept, self.run_dir.path), WRITE_TIMEOUT_S)
        self.run_dir.release_space()

    def _leave(self, outcome: Outcome, reason: str, code: int) -> NoReturn:
        """End the process, and LoadGen's thread with it: the one fatal exit.

        The time is bounded, whatever a disk or a worker does, and no step depends on the one before. The
        workers are free before the first disk is waited for.
        """
        limits = self.end.limits(outcome)
        # The first signal asks for what already happens; a later one ends the process at once.
        self.services.interrupts.hold()
        end_after(limits.total_s, code)
        self.services.view.close()
        logger.error("run %s: %s", outcome, reason)
        judged = Verdict(outcome, reason)
        # A worker that does not react takes as long as a disk.
        write = partial(self._write_unfinished, judged, limits.write_s)
        writing = threading.Thread(target=_try_step, args=(write,), daemon=True)
        writing.start()
        unfinished: list[Unfinished] = []
        steps: tuple[Callable[[], object], ...] = (
            lambda: unfinished.append(self.active_run.abandon()),
            self.event_loop.close,
            partial(writing.join, limits.write_s),
            partial(self.services.files.call, partial(log_files.reject, self.run_dir.path), limits.write_s),
            lambda: self._salvage(unfinished, limits.salvage_s),
            partial(self.request_writer.rescue, limits.write_s),
            self.run_dir.release_space,
            partial(self._show_unfinished, judged),
            partial(self._report, limits.report_s),
        )
        for step in steps:
            _try_step(step)
        leave(code)

    def _write_unfinished(self, judged: Verdict, timeout_s: float) -> None:
        self.run_dir.write(self.recorder.record(judged, self.times, LoadGenFigures()), timeout_s)

    def _show_unfinished(self, judged: Verdict) -> None:
        record = self.recorder.record(judged, self.times, LoadGenFigures())
        final_table.show(record, SHORT_LIMITS.write_s)

    def _report(self, timeout_s: float) -> None:
        if self.config.report and timeout_s:
            write_report(self.run_dir.path, timeout_s)

    def _salvage(self, abandoned: list[Unfinished], timeout_s: float) -> None:
        """Store what was received; nothing of the requests in flight if the event loop did not answer."""
        unfinished = abandoned[0] if abandoned else NOTHING_UNFINISHED
        states = ["partial" if count else "waiting" for count in unfinished.counts.tolist()]
        logger.error("%s", self.outputs.salvage(*unfinished, states, timeout_s))


def _try_step(step: Callable[[], object]) -> None:
    """Take one step of the fatal exit; the next ones follow whatever happens."""
    try:
        step()
    except OSError as error:
        logger.error("while leaving: %s", error)
    except Exception:
        logger.exception("while leaving")
