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
import shutil
import signal
import sys
import threading
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np

from coordinator.config import LossPolicy, RunConfig
from coordinator.dispatcher import Deadline, Dispatcher
from coordinator.fleet import Patience
from coordinator.flow import Task
from coordinator.inputs import Inputs
from coordinator.progress import Progress
from coordinator.record import RunRecord, Summary
from coordinator.stream import Limits
from protos import worker_pb2 as pb
from sut import settings
from sut.loadgen import LoadGenTest, generated_samples
from sut.results import verdict
from sut.results.verdict import Counts, Outcome, Verdict
from sut.settings import Mode
from sut.sut import SUT

logger = logging.getLogger(__name__)

# LoadGen's issue thread waits for the interpreter lock at most about this long; it counts in TTFT.
SWITCH_INTERVAL_S = 0.0005


class Interrupted(BaseException):
    """A signal asked the run to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Run:
    """One StartTest over one fleet."""

    def __init__(self, config: RunConfig) -> None:
        """Read and check every input that needs no worker.

        Raises:
            ValueError: Names flag or file, value and bound.
        """
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, _interrupt)
        self._begun_s = time.monotonic()
        self._config = config
        self._inputs = Inputs.read(config)
        self._dataset, self._generation = self._inputs.dataset, self._inputs.generation
        self._test = LoadGenTest(self._inputs.user_conf, config.scenario, config.mode)
        self._run_id = f"{config.scenario}-{config.mode}-{uuid.uuid4().hex[:8]}"
        self._started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._versions = _versions()
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
        config, generation = self._config, self._generation
        patience = Patience(
            limits=Limits(config.worker_timeout_s, config.stall_timeout_s),
            no_worker_s=config.no_worker_timeout_s,
            continues=config.on_worker_loss is LossPolicy.CONTINUE,
        )
        deadline = Deadline(config.query_timeout_s, config.on_overdue_query)
        self._dispatcher = Dispatcher(config.workers, patience, deadline, self.fail)
        self._dispatcher.wait_ready(config.ready_timeout_s)
        info = self._dispatcher.links[0].info
        self._dataset.check(
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            max_new_tokens=generation.max_new_tokens,
        )
        self._sut = SUT(
            config.scenario, self._dispatcher.submit, lambda error: self.fail(f"issue: {error!r}")
        )
        spec = pb.RunSpec(**dataclasses.asdict(generation))
        task = Task(
            dataset=self._dataset,
            sut=self._sut,
            max_new_tokens=generation.max_new_tokens,
            block_len=self._block_len(),
            max_losses=config.max_worker_losses,
            keep=lambda *_: None,
        )
        self._spec_hash = self._dispatcher.open(self._run_id, spec, task, lambda: None)
        self._make_run_dir()
        logger.info(
            "run %s on %d workers, specification %s", self._run_id, len(config.workers), self._spec_hash
        )

    def execute(self) -> int:
        """Run to the verdict.

        Returns:
            The exit code: 0 valid, 3 complete but INVALID. A failed or interrupted run does not return.

        Thread: main.
        """
        try:
            _quiet_interpreter()
            self._drive_loadgen()
            if self._failure is None:
                record = self._judge()
            for signum in (signal.SIGINT, signal.SIGTERM):
                # What is left is short and must be whole.
                signal.signal(signum, signal.SIG_IGN)
        except Interrupted as interruption:
            self._leave(Outcome.INTERRUPTED, f"interrupted by {interruption}", interruption.exit_code)
        except Exception as error:
            logger.exception("the harness failed")
            self.fail(f"harness: {error!r}")
        if self._failure is not None:
            self._leave(Outcome.FAILED, self._failure, verdict.exit_code(Outcome.FAILED))
        record.write(self._config.run_dir / "run.json")
        print(record.table())  # noqa: T201 - the final result
        self._dispatcher.close()
        return verdict.exit_code(record.verdict.outcome)

    def fail(self, reason: str) -> None:
        """End the run; the first reason counts.

        Thread: any.
        """
        with self._lock:
            if self._failure is None:
                self._failure = reason
        self._ended.set()

    @property
    def _audit_config(self) -> Path | None:
        """The run's own copy: the given file may lie in the directory that --overwrite empties."""
        return None if self._inputs.audit_conf is None else self._config.run_dir / "audit.config"

    def _make_run_dir(self) -> None:
        run_dir = self._config.run_dir
        try:
            if run_dir.exists():
                shutil.rmtree(run_dir)
            run_dir.mkdir(parents=True)
            (run_dir / "user.conf").write_text(self._inputs.user_conf, encoding="utf-8")
            if self._audit_config is not None:
                self._audit_config.write_text(self._inputs.audit_conf or "", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"--output-dir: cannot write {run_dir}: {error}") from error

    def _block_len(self) -> int:
        """Samples of one data-set copy in an Offline query."""
        official = settings.PERFORMANCE_SAMPLE_COUNT
        if self._config.mode is Mode.ACCURACY:
            official = settings.ACCURACY_SAMPLE_COUNT
        return min(self._dataset.num_samples, official)

    def _drive_loadgen(self) -> None:
        """Run LoadGen on its own thread and watch it from this one."""
        progress = Progress(self._dispatcher, lambda: generated_samples(self._config.run_dir))
        thread = threading.Thread(target=self._start_test, name="loadgen", daemon=True)
        started_s = time.monotonic()
        self._ready_s = started_s - self._begun_s
        thread.start()
        while not self._ended.wait(progress.interval_s):
            progress.tick()
        self._wall_s = time.monotonic() - started_s
        progress.end()

    def _start_test(self) -> None:
        """Thread: LoadGen's."""
        try:
            self._test.run(
                self._dataset.num_samples,
                self._sut.issue_queries,
                self._config.run_dir,
                self._audit_config,
            )
        except Exception as error:
            logger.exception("LoadGen failed")
            self.fail(f"LoadGen: {error!r}")
        finally:
            self._sut.close()
            self._ended.set()

    def _judge(self) -> RunRecord:
        self._dispatcher.settle()
        ledger = self._dispatcher.ledger
        streams = [stream for link in self._dispatcher.links for stream in link.streams]
        counts = Counts(
            num_issued=self._dispatcher.flow.num_issued,
            num_done=ledger.num_done,
            num_distinct=len(np.unique(ledger.done["sample"])),
            num_short=int((ledger.done["num_tokens"] < 2).sum()),
            received_tokens=ledger.num_tokens,
            reported_tokens=int(ledger.done["num_tokens"].sum()),
            produced_tokens=sum(s.last_pong.produced_tokens if s.settled else s.num_tokens for s in streams),
        )
        config = self._config
        judged, detail = verdict.judge(
            config.run_dir, config.scenario, config.mode, self._dataset.num_samples, counts
        )
        return self._record(judged, verdict.headline(config.scenario, detail))

    def _record(self, judged: Verdict, loadgen: dict[str, object]) -> RunRecord:
        data = self._dataset
        return RunRecord(
            run_id=self._run_id,
            scenario=self._config.scenario,
            mode=self._config.run_dir.name,
            verdict=judged,
            started_utc=self._started_utc,
            ready_s=self._ready_s,
            wall_s=self._wall_s,
            coordinator_cpu_s=time.process_time(),
            config=dataclasses.asdict(self._config),
            generation=dataclasses.asdict(self._generation),
            dataset={"path": str(data.path), "sha256": data.sha256, "num_samples": data.num_samples},
            versions=self._versions,
            spec_hash=self._spec_hash,
            loadgen=loadgen,
            summary=Summary.of(self._dispatcher),
        )

    def _leave(self, outcome: Outcome, reason: str, code: int) -> NoReturn:
        """Leave the process, and LoadGen's thread with it: the one fatal exit."""
        logger.error("run %s: %s", outcome, reason)
        try:
            record = self._record(Verdict(outcome, reason), {})
            sys.stdout.write(record.table() + "\n")
            record.write(self._config.run_dir / "run.json")
            self._dispatcher.stop()
            sys.stdout.flush()
        except Exception:
            logger.exception("while leaving")
        finally:
            logging.shutdown()
            os._exit(code)


def _interrupt(signum: int, _: FrameType | None) -> None:
    """Turn the first signal into an exception on main; a second one kills at once."""
    signal.signal(signum, signal.SIG_DFL)
    raise Interrupted(signum)


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
    sys.setswitchinterval(SWITCH_INTERVAL_S)
