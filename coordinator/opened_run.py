"""Opens a run: waits for its workers, checks the prompts against their limits, and begins the streams."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from common.signals import Interrupts
from coordinator.config import RunConfig
from coordinator.inputs import Inputs
from coordinator.recording.file_thread import FileThread
from coordinator.recording.live_view import LiveView
from coordinator.recording.metrics_feed import MetricsFeed
from coordinator.recording.outputs import Outputs
from coordinator.recording.run_snapshot import RunPhase
from coordinator.run_end import RunEnd
from coordinator.scheduling.event_loop import ActiveRun, Deadline, EventLoop, opening_of
from coordinator.scheduling.network_audit import NetworkAudit
from coordinator.scheduling.scheduler import Task
from coordinator.transport.fleet import Patience
from coordinator.transport.stream import Limits
from protos import worker_pb2 as pb
from sut.sut import Reports


class RunServices(NamedTuple):
    """What serves a run from before its first worker until it is graded."""

    interrupts: Interrupts
    metrics: MetricsFeed
    files: FileThread
    view: LiveView

    def enter(self, phase: RunPhase) -> None:
        """Show from now on, in the live view and the metrics, that the run is in a phase."""
        self.metrics.enter(phase)
        self.view.show(phase)


@contextlib.contextmanager
def ready_workers(
    config: RunConfig, inputs: Inputs, end: RunEnd, services: RunServices
) -> Iterator[EventLoop]:
    """Connect to the workers, wait until they are ready and check the prompts against their limits.

    Raises:
        ValueError: The workers cannot serve this run.
    """
    patience = Patience(
        limits=Limits(config.worker_timeout_s, config.stall_limit_s),
        no_worker_s=config.no_worker_timeout_s,
        continues=config.continues_on_loss,
    )
    with EventLoop(config.workers, inputs.access, patience, end.fail) as event_loop:
        services.view.watch(event_loop.fleet)
        event_loop.wait_ready(config.ready_timeout_s)
        services.enter(RunPhase.OPENING)
        info = event_loop.links[0].info
        inputs.dataset.check(
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            max_new_tokens=inputs.generation.max_new_tokens,
        )
        yield event_loop


@contextlib.contextmanager
def opened_run(
    config: RunConfig, inputs: Inputs, event_loop: EventLoop, reports: Reports, outputs: Outputs, run_id: str
) -> Iterator[ActiveRun]:
    """Begin the run on every worker; its streams end with the block.

    Raises:
        ValueError: A worker refuses, or the workers differ.
        WorkerLost: The connection to a worker breaks while its stream is opened.
    """
    task = Task(
        dataset=inputs.dataset,
        reports=reports,
        max_new_tokens=inputs.generation.max_new_tokens,
        max_losses=config.max_worker_losses,
        keep=outputs.keep,
        audit=NetworkAudit() if config.network_sut else None,
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
