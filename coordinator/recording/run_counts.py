"""Counts of a complete run, for the verdict."""

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.event_loop import ActiveRun
from coordinator.transport.agreement import execution_differences, worker_warnings
from coordinator.transport.compiled_kernels import KernelCompilations
from coordinator.transport.worker_link import WorkerLink
from sut.results.checks import MAX_NAMED_ANSWERS, Counts, ShortAnswer
from sut.results.compilations import WorkerCompilations


def collect_counts(run: ActiveRun) -> Counts:
    """Add up the counts of a complete run whose workers were asked for their final counts."""
    done = run.scheduler.table.done
    streams = [stream for link in run.fleet.links for stream in link.stream_counts]
    settled = [stream for stream in streams if stream.settled]
    served = [(link.address, info) for link in run.fleet.links for info in link.infos]
    return Counts(
        num_issued=run.scheduler.num_issued,
        num_done=len(done),
        num_distinct=len(np.unique(done["sample"])),
        num_short=int((done["num_tokens"] < 2).sum()),
        short_answers=_short_answers(run, done),
        received_tokens=sum(stream.num_tokens for stream in streams),
        reported_tokens=int(done["num_tokens"].sum()),
        produced_tokens=sum(stream.produced_tokens for stream in settled),
        lost_tokens=sum(stream.num_tokens for stream in streams if not stream.settled),
        dropped_tokens=sum(load.num_dropped_tokens for load in run.scheduler.loads),
        spec_hashes=tuple(stream.spec_hash for stream in streams),
        num_losses=run.scheduler.failover.num_losses,
        num_continued=int((done["losses"] > 0).sum()),
        num_repeated_answers=run.scheduler.degenerate.num_repeated,
        num_equal_answers=run.scheduler.degenerate.num_equal,
        num_silent=sum(is_silent(link) for link in run.fleet.links),
        num_workers=len(run.fleet.links),
        compilations=tuple(
            WorkerCompilations(link.address, total.num, total.num_untimed, total.ms, total.names)
            for link in run.fleet.links
            if (total := KernelCompilations.total(stream.compiled for stream in link.stream_counts))
        ),
        execution_differences=tuple(execution_differences(served)),
        worker_warnings=tuple(worker_warnings(served)),
    )


def _short_answers(run: ActiveRun, done: NDArray[np.void]) -> tuple[ShortAnswer, ...]:
    """Name the first short answers, in order of completion."""
    rows = done[done["num_tokens"] < 2][:MAX_NAMED_ANSWERS]
    links = run.fleet.links
    return tuple(
        ShortAnswer(sample, links[worker].address, num_tokens)
        for sample, worker, num_tokens in rows[["sample", "worker", "num_tokens"]].tolist()
    )


def is_silent(link: WorkerLink) -> bool:
    """Whether a worker did not report how many tokens its engine produced, though it was not lost."""
    counts = link.stream.counts
    return counts.asked and not counts.settled and (link.live or not counts.round_trip_ns)
