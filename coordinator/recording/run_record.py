"""The record of a run: run.json, and the same as a table for people."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray

from common.atomic_files import whole_file
from coordinator.recording.over_latency import OverLatency
from coordinator.scheduling.event_loop import ActiveRun
from coordinator.scheduling.request_columns import tpot_ns, ttft_ns
from coordinator.scheduling.worker_load import RequestTimes, WorkerLoad
from coordinator.transport.compiled_kernels import KernelCompilations
from coordinator.transport.stream import StreamCounts
from coordinator.transport.worker_host import WorkerHost
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from sut.results.loadgen_figures import Bound, LoadGenSpread
from sut.results.speculation import enabling_args
from sut.results.timing.clock_offsets import ClockOffsets
from sut.results.timing.decomposition import RunDecomposition
from sut.results.timing.request_records import is_known
from sut.results.timing.spread import Spread
from sut.results.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One worker's share of the run."""

    address: str
    requests: int
    """Requests that ended at this worker."""
    ended_ns: int
    """From LoadGen's first query to the end of this worker's last request; 0 without requests."""
    service_ns: Spread
    """From sending the prompt to the end, of the requests that lost no worker: others had time elsewhere."""
    tokens: int
    frames: int
    engine_steps: int | None
    """None: a stream ended before the worker had told the last count."""
    acceptance_length: float | None
    """As in Summary, of this worker."""
    streams: int
    """Streams opened to the worker: 1, plus 1 for each time it came back after a loss."""
    dropped_tokens: int
    """Tokens that arrived after their request had moved to another worker."""
    compiled_kernels: KernelCompilations | None
    """Kernels that the engine compiled during the run; None: not known."""
    round_trip_ns: int
    """Shortest ping of the latest stream."""
    clock_offset_ns: int
    """Worker's monotonic clock minus the coordinator's, measured by that ping."""
    info: dict[str, object]
    """The worker's latest answer to GetInfo."""
    stream_infos: list[dict[str, object]]
    """The worker's description of itself on each stream, oldest first."""
    hosts: list[WorkerHost]
    """The worker's machine at the opening of each stream, oldest first."""

    @classmethod
    def of(
        cls, link: WorkerLink, load: WorkerLoad, done: NDArray[np.void], first_issued_ns: int
    ) -> "WorkerRow":
        """Describe one worker from the run's complete requests, in order of completion, dtype DONE."""
        own = done[done["worker"] == link.index]
        return cls(
            address=link.address,
            requests=len(own),
            ended_ns=int(own["done_ns"][-1]) - first_issued_ns if len(own) else 0,
            service_ns=Spread.of((own["done_ns"] - own["sent_ns"])[own["losses"] == 0]),
            tokens=sum(stream.num_tokens for stream in link.stream_counts),
            frames=sum(stream.num_frames for stream in link.stream_counts),
            engine_steps=_total_steps(link.stream_counts),
            acceptance_length=acceptance_length(link.stream_counts),
            streams=len(link.stream_counts),
            dropped_tokens=load.num_dropped_tokens,
            compiled_kernels=KernelCompilations.total(stream.compiled for stream in link.stream_counts),
            round_trip_ns=link.stream_counts[-1].round_trip_ns,
            clock_offset_ns=link.stream_counts[-1].clock_offset_ns,
            info=_as_dict(link.info),
            stream_infos=[_as_dict(info) for info in link.infos],
            hosts=list(link.hosts),
        )


def report_delays_ns(times: RequestTimes) -> NDArray[np.int64]:
    """Return how long each report of one stream took from the engine's output to the end, (N,).

    Two machines' clocks may drift apart by more than a report takes: the offset is that of the moment. The
    clocks of one machine are one clock, whose differences need no mapping.
    """
    # The event loop may be between its two appends.
    delays_ns = np.array(times.delays_ns[:], np.int64)
    reports_ns = np.array(times.reports_ns[: len(delays_ns)], np.int64)
    if not times.counts.clock_offset_ns:
        return delays_ns
    pings = np.array(times.counts.pings[:], np.int64).reshape(-1, 3)
    produced_ns, _ = ClockOffsets(pings).to_ours(reports_ns - delays_ns)
    return (reports_ns - produced_ns)[is_known(produced_ns)]


def _total_steps(streams: Iterable[StreamCounts]) -> int | None:
    """Return the engine steps of a worker's streams; None unless each has told its final count."""
    steps = [stream.engine_steps if stream.settled else None for stream in streams]
    return None if None in steps else sum(filter(None, steps))


def acceptance_length(streams: Iterable[StreamCounts]) -> float | None:
    """Return the tokens per row of the streams to engines with speculative decoding; see Summary."""
    # A Network SUT has no engine steps: it sends an answer in two parts.
    own = [
        stream
        for stream in streams
        if enabling_args(stream.info.engine_args) and "num_workers" not in stream.info.execution_facts
    ]
    num_rows = sum(stream.decode_rows for stream in own)
    return sum(stream.decode_tokens for stream in own) / num_rows if num_rows else None


def _as_dict(info: pb.WorkerInfo) -> dict[str, object]:
    found: dict[str, object] = MessageToDict(info, preserving_proto_field_name=True)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The coordinator's own measurements, in ns of its monotonic clock; LoadGen's figures are apart."""

    ttft_ns: Spread
    """From LoadGen's call to the first token."""
    tpot_ns: Spread
    """(done - first) / (tokens - 1), of answers of at least two tokens."""
    latency_ns: Spread
    queued_ns: Spread
    """From LoadGen's call to sending the prompt."""
    issue_lateness_ns: Spread
    """Delay of a thread with known due times; see IssueLateness. LoadGen's thread had the same causes."""
    report_delay_ns: Spread
    """From the engine's output to the return of LoadGen's call, for frames with a first token or an end."""
    answer_tokens: Spread
    acceptance_length: float | None
    """Tokens per request and engine step after a request's first token, of engines with speculative decoding:
    1 plus the accepted draft tokens, less those beyond the end of an answer. None: no engine has it."""
    workers: list[WorkerRow]
    losses: list[dict[str, object]]
    """Each loss of a worker: see failover.Loss."""
    continuations: list[dict[str, object]]
    """Each time a request continued on another worker: see failover.Continuation."""
    overdue: list[dict[str, object]]
    """Queries older than their deadline, as they were when found: see overdue.Overdue."""

    @classmethod
    def of(cls, run: ActiveRun, issue_lateness_ns: NDArray[np.int64]) -> "Summary":
        """Summarize the requests that are complete so far.

        Args:
            run: The run.
            issue_lateness_ns: Measurements of IssueLateness, (M,).
        """
        done = run.scheduler.table.done
        return cls(
            ttft_ns=Spread.of(ttft_ns(done)),
            tpot_ns=Spread.of(tpot_ns(done)),
            latency_ns=Spread.of(done["done_ns"] - done["issued_ns"]),
            queued_ns=Spread.of(done["sent_ns"] - done["issued_ns"]),
            issue_lateness_ns=Spread.of(issue_lateness_ns),
            report_delay_ns=Spread.of(
                np.concatenate(
                    [report_delays_ns(times) for load in run.scheduler.loads for times in load.request_times]
                )
            ),
            answer_tokens=Spread.of(done["num_tokens"]),
            acceptance_length=acceptance_length(
                stream for link in run.fleet.links for stream in link.stream_counts
            ),
            workers=[
                WorkerRow.of(link, load, done, run.scheduler.first_issued_ns)
                for link, load in zip(run.fleet.links, run.scheduler.loads, strict=True)
            ],
            losses=[loss._asdict() for loss in run.scheduler.failover.losses],
            continuations=[moved._asdict() for moved in run.scheduler.failover.continuations],
            overdue=[query._asdict() for query in run.overdue],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The content of run.json."""

    run_id: str
    scenario: str
    mode: str
    directory: str
    """Absolute path of the run's files."""
    verdict: Verdict
    started_utc: str
    ready_s: float
    """From the start of the process's run to StartTest: reading inputs, waiting for workers."""
    wall_s: float
    """Duration of StartTest."""
    coordinator_cpu_s: float
    test_cpu_s: float
    """The part of it that was spent during StartTest."""
    config: dict[str, object]
    """Resolved flags."""
    changed_flags: list[str]
    """Fields of `config` that differ from their defaults, required flags among them."""
    generation: dict[str, object]
    """Sampling parameters of every request."""
    dataset: dict[str, object]
    versions: dict[str, str]
    """Of the coordinator: Python, packages, and the Git commit of its source tree, if known."""
    host: WorkerHost
    """The coordinator's machine."""
    round: str | None
    """Round of submissions whose seeds LoadGen has; None if no known round has them."""
    spec_hash: str
    loadgen: dict[str, object]
    """LoadGen's own result figures."""
    loadgen_bounds: dict[str, Bound]
    """Limits and target rate, by the figure in `loadgen` that LoadGen compares with them."""
    loadgen_latencies: dict[str, LoadGenSpread]
    """LoadGen's ttft_ns, tpot_ns and latency_ns; the first and the last from the time a query was due."""
    files_sha256: dict[str, str]
    """Of LoadGen's logs and confs, by their accepted names; empty before the verdict."""
    over_latency: OverLatency | None
    """Queries over LoadGen's latency limits; None in Offline and accuracy runs, which have none."""
    summary: Summary | None
    origin_ns: int
    """Time of LoadGen's first query by the coordinator's monotonic clock.

    It is 0 of requests.parquet, timeline.parquet and the pauses; losses and continuations have their time by
    that clock.
    """
    pauses: list[dict[str, object]]
    """Pauses of the coordinator of at least 10 ms, the longest 1,000: see jitter.LongPause.

    Their begin is the time since LoadGen's first query.
    """
    decomposition: RunDecomposition | None = None
    """What TTFT, TPOT and latency consist of; None until the workers are free."""

    def write(self, path: Path) -> None:
        """Write run.json whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=1, default=str) + "\n"
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
