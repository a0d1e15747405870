"""One run from its inputs to its verdict, and the one fatal exit.

LoadGen cannot be aborted: once its test has begun, a run that cannot go on ends with the process, in
`_leave`. LoadGen's summary is then empty, and run.json says what happened.
"""

import contextlib
import dataclasses
import gc
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from common.signals import SIGNAL_POLL_S, Interrupted, Interrupts
from coordinator.config import LossPolicy, RunConfig
from coordinator.inputs import Inputs
from coordinator.pre_run_checks import build_setup, warn_before_run
from coordinator.recording.jitter import Pulse
from coordinator.recording.outputs import Outputs
from coordinator.recording.progress import Progress
from coordinator.recording.run_counts import tally
from coordinator.recording.run_dir import RunDir
from coordinator.recording.run_record import RunRecord, Summary
from coordinator.scheduling.event_loop import Deadline, EventLoop, opening_of
from coordinator.scheduling.scheduler import Task
from coordinator.transport.fleet import Patience
from coordinator.transport.stream import Limits
from protos import worker_pb2 as pb
from sut.benchmark import find_round
from sut.loadgen import LoadGenTest, generated_samples
from sut.results import verdict
from sut.results.deviations import Setup
from sut.results.verdict import Outcome, Verdict
from sut.sut import SUT, Reports

logger = logging.getLogger(__name__)

# LoadGen's issue thread waits for the interpreter lock at most about this long; it counts in TTFT.
SWITCH_INTERVAL_S = 0.0005
# Containers made and not freed until a collection looks for cycles: some ten megabytes. Frames and requests
# leave none; at Python's own 700 a beat over 64 workers alone starts a collection each second.
GC_THRESHOLD = 50_000
# How long leaving may take, and what of it the received outputs may: an interrupted user waits.
LEAVE_TIMEOUT_S = {Outcome.INTERRUPTED: 8.0, Outcome.FAILED: 120.0}
SALVAGE_TIMEOUT_S = {Outcome.INTERRUPTED: 3.0, Outcome.FAILED: 100.0}


class Run:
    """One StartTest over one fleet."""

    def __init__(self, config: RunConfig) -> None:
        """Read and check every input that needs no worker.

        Raises:
            ValueError: Names flag or file, value and bound.
        """
        self._interrupts = Interrupts()
        self._begun_s = time.monotonic()
        self._config = config
        self._inputs = Inputs.read(config)
        self._dataset, self._generation = self._inputs.dataset, self._inputs.generation
        self._test = LoadGenTest(self._inputs.user_conf, config.scenario, config.mode)
        self._run_id = f"{config.scenario}-{config.mode}-{uuid.uuid4().hex[:8]}"
        self._dir = RunDir(config.run_dir)
        self._started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._versions = _versions()
        self._pulse = Pulse()
        self._ended = threading.Event()
        self._failure: str | None = None
        self._lock = threading.Lock()
        self._spec_hash = ""
        self._ready_s = self._wall_s = 0.0

    def connect(self) -> None:
        """Wait for the workers, check the prompts against their limits, begin the run on them.

        Raises:
            ValueError: The workers cannot serve this run, or the output directory cannot be written.
            Interrupted: A signal came first.

        Thread: main.
        """
        config = self._config
        patience = Patience(
            limits=Limits(config.worker_timeout_s, config.stall_timeout_s),
            no_worker_s=config.no_worker_timeout_s,
            continues=config.on_worker_loss is LossPolicy.CONTINUE,
        )
        self._dispatcher = EventLoop(config.workers, self._inputs.access, patience, self.fail)
        self._dispatcher.wait_ready(config.ready_timeout_s)
        info = self._dispatcher.links[0].info
        self._dataset.check(
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            max_new_tokens=self._generation.max_new_tokens,
        )
        self._open()
        # From here on there is something to leave behind: a signal must find `execute`.
        self._interrupts.hold()
        try:
            self._dir.make(self._inputs.user_conf, self._inputs.audit_conf, overwrite=config.overwrite)
            self._outputs = Outputs(self._dir.path, self.fail)
            unfinished = Verdict(Outcome.UNFINISHED, "the coordinator has not ended this run")
            self._dir.write(self._record(unfinished, {}))
        except OSError as error:
            self._dir.remove()
            raise ValueError(f"--output-dir: cannot write {self._dir.path}: {error}") from error
        logger.info(
            "run %s on %d workers, specification %s",
            self._run_id,
            len(self._dispatcher.links),
            self._spec_hash,
        )
        warn_before_run(self._test.settings, self._setup())

    def execute(self) -> int:
        """Run to the verdict.

        Returns:
            The exit code: 0 valid, 3 complete but INVALID. A failed or interrupted run does not return.

        Thread: main.
        """
        try:
            self._interrupts.release()
            _quiet_interpreter()
            self._drive_loadgen()
            if self._failure is None:
                record = self._judge()
            self._interrupts.ignore()
            if self._failure is None:
                self._conclude(record)
        except Interrupted as interruption:
            self._leave(Outcome.INTERRUPTED, f"interrupted by {interruption}", interruption.exit_code)
        except Exception as error:
            logger.exception("the harness failed")
            self.fail(f"harness: {error!r}")
        if self._failure is not None:
            self._leave(Outcome.FAILED, self._failure, verdict.exit_code(Outcome.FAILED))
        self._dir.release_space()
        self._run.end()
        self._dispatcher.close()
        self._outputs.discard()
        record.show()
        return verdict.exit_code(record.verdict.outcome)

    def fail(self, reason: str) -> None:
        """End the run; the first reason counts.

        Thread: any.
        """
        with self._lock:
            if self._failure is None:
                self._failure = reason
        self._ended.set()

    def _open(self) -> None:
        self._reports = Reports(self._config.scenario)
        deadline = Deadline(self._config.query_timeout_s, self._config.overdue_policy)
        task = Task(
            dataset=self._dataset,
            reports=self._reports,
            max_new_tokens=self._generation.max_new_tokens,
            max_losses=self._config.max_worker_losses,
            keep=lambda samples, counts, tokens: self._outputs.keep(samples, counts, tokens),
        )
        spec = pb.RunSpec(**dataclasses.asdict(self._generation))
        self._run = self._dispatcher.open(
            opening_of(self._run_id, spec), task, deadline, lambda: self._outputs.flush()
        )
        self._spec_hash = self._run.spec_hash
        self._sut = SUT(self._run.scheduler.issue, lambda error: self.fail(f"issue: {error!r}"))

    def _drive_loadgen(self) -> None:
        """Run LoadGen on its own thread and watch it from this one."""
        progress = Progress(self._run, lambda: generated_samples(self._dir.path))
        thread = threading.Thread(target=self._start_test, name="loadgen", daemon=True)
        self._pulse.start(self._dispatcher.loop)
        started_s = time.monotonic()
        self._ready_s = started_s - self._begun_s
        thread.start()
        while not self._ended.wait(SIGNAL_POLL_S):
            progress.tick()
        self._wall_s = time.monotonic() - started_s
        self._pulse.stop()
        progress.end()

    def _start_test(self) -> None:
        """Thread: LoadGen's."""
        try:
            self._test.run(
                self._dataset.num_samples,
                self._sut.issue_queries,
                self._dir.path,
                self._dir.audit_config,
            )
        except Exception as error:
            logger.exception("LoadGen failed")
            self.fail(f"LoadGen: {error!r}")
        finally:
            self._reports.close()
            self._ended.set()

    def _judge(self) -> RunRecord:
        self._run.settle()
        setup = self._setup()
        judged, detail = verdict.judge(self._dir.path, setup, tally(self._run), self._pulse.telemetry())
        return self._record(judged, verdict.headline(setup.scenario, detail))

    def _setup(self) -> Setup:
        workers = [(link.address, link.info) for link in self._dispatcher.links]
        return build_setup(self._config, self._inputs, workers, self._test.settings.seeds)

    def _conclude(self, record: RunRecord) -> None:
        """Write the verdict of a complete run."""
        verdict.set_aside(self._dir.path, record.verdict.outcome)
        self._dir.write(record)

    def _record(self, judged: Verdict, loadgen: dict[str, object]) -> RunRecord:
        data, entry = self._dataset, find_round(self._test.settings.seeds)
        return RunRecord(
            run_id=self._run_id,
            scenario=self._config.scenario,
            mode=self._dir.path.name,
            verdict=judged,
            started_utc=self._started_utc,
            ready_s=self._ready_s,
            wall_s=self._wall_s,
            coordinator_cpu_s=time.process_time(),
            config=dataclasses.asdict(self._config),
            generation=dataclasses.asdict(self._generation),
            dataset={"path": str(data.path), "sha256": data.sha256, "num_samples": data.num_samples},
            versions=self._versions,
            round=None if entry is None else entry.name,
            spec_hash=self._spec_hash,
            loadgen=loadgen,
            summary=Summary.of(self._run),
        )

    def _leave(self, outcome: Outcome, reason: str, code: int) -> NoReturn:
        """Leave the process, and LoadGen's thread with it: the one fatal exit.

        Its time is bounded, whatever a disk or a worker does, and no step depends on the one before.
        """
        timer = threading.Timer(LEAVE_TIMEOUT_S[outcome], os._exit, (code,))
        timer.daemon = True
        timer.start()
        # A first signal asks for what is under way already; a later one ends the process.
        self._interrupts.hold()
        logger.error("run %s: %s", outcome, reason)
        steps: tuple[Callable[[], object], ...] = (
            lambda: self._dir.write(self._record(Verdict(outcome, reason), {})),
            lambda: verdict.set_aside(self._dir.path, outcome),
            lambda: self._abandon(outcome),
            self._dir.release_space,
            lambda: self._record(Verdict(outcome, reason), {}).show(),
        )
        for step in steps:
            try:
                step()
            except Exception:
                logger.exception("while leaving")
        logging.shutdown()
        os._exit(code)

    def _abandon(self, outcome: Outcome) -> None:
        """Tell the workers to empty their engines, and keep what they have brought."""
        unfinished = self._run.abandon()
        self._dispatcher.close()
        states = ["partial" if count else "waiting" for count in unfinished.counts.tolist()]
        logger.error("%s", self._outputs.salvage(*unfinished, states, SALVAGE_TIMEOUT_S[outcome]))


def _versions() -> dict[str, str]:
    """Collect what runs here; the project itself may run from a checkout that is not installed."""
    found = {"python": platform.python_version(), "tokenfleet": "checkout"}
    with contextlib.suppress(PackageNotFoundError):
        found["tokenfleet"] = version("tokenfleet")
    return found | {name: version(name) for name in ("mlcommons_loadgen", "grpcio", "numpy")}


def _quiet_interpreter() -> None:
    """Keep pauses out of the clock: what lives now is never scanned again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
