"""Reads what a run of a search left in its directory."""

import hashlib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.bounded_file import read_bounded
from common.json_document import as_list, entry
from common.text import printable
from sut.loadgen_conf import MAX_CONF_BYTES
from sut.log_files import REQUESTS, USER_CONF, read_record
from sut.results.timing.requests_file import ForeignFileError, check_integers, open_parquet
from sut.results.verdict import Outcome
from tokenfleet.find_qps.full_length import ServedQueries, full_length_ratio
from tokenfleet.find_qps.rate_search import RatePoint, RunLengthKind
from tokenfleet.find_qps.search_conditions import SearchConditions
from tokenfleet.find_qps.search_plan import PlannedSearchRun, SearchPlan

MAX_TEXT_LEN = 300
# What LoadGen decides a run by is what is searched; a short run draws its samples, and so not each of them.
_JUDGED = {
    RunLengthKind.FULL: frozenset(["loadgen_result"]),
    RunLengthKind.SHORT: frozenset(["loadgen_result", "coverage"]),
}
# A run that is over its limit, by however little, is this far over it.
MIN_LOST_RATIO, MIN_OVER_RATIO = 1.01, 1.001
# LoadGen's stamps differ from ours by less than the rest.
MAX_MET_RATIO = 0.9
# The steady part of an Offline run: after its first answers, before the batches empty.
STEADY_FROM, STEADY_TO = 0.25, 0.75


class RefusedRunError(Exception):
    """A run is complete and INVALID for a reason that another rate would not change."""


class DisturbedRunError(Exception):
    """A run lost a worker: its latencies are not those of the rate, and it has to be run again."""


def read_ended_record(run_dir: Path) -> dict[str, Any] | None:
    """Read the run.json of a run that has ended by itself; None if there is none."""
    try:
        record: Any = read_record(run_dir)
        has_ended = bool(record["run_id"]) and (is_complete(record) or is_lost(record))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if has_ended else None


def is_complete(record: Mapping[str, Any]) -> bool:
    """Return whether LoadGen's test ended."""
    return record["verdict"]["outcome"] in (Outcome.VALID, Outcome.INVALID)


def is_lost(record: Mapping[str, Any]) -> bool:
    """Return whether the run was ended because too many queries were over a limit."""
    over = record["over_latency"]
    if record["verdict"]["outcome"] != Outcome.FAILED or over is None or over["bound"] is None:
        return False
    return bool(max(over["num_ttft"], over["num_tpot"]) > over["bound"])


def read_conditions(run_dir: Path) -> SearchConditions | None:
    """Read under which conditions a run was made; None if it has not ended by itself."""
    record = read_ended_record(run_dir)
    return None if record is None else SearchConditions.of_record(record)


def read_remarks(run_dir: Path) -> list[str]:
    """List the warnings of a VALID run's checks, and why it is no submission run."""
    record = read_ended_record(run_dir) or {}
    checks, deviations = (as_list(entry(record, "verdict", key)) for key in ("checks", "deviations"))
    found = [
        f"{entry(check, 'name')}: {entry(check, 'seen')}"
        for check in checks
        if entry(check, "warning") is True
    ]
    if deviations:
        found.append(f"no submission run for {len(deviations)} reasons, first: {deviations[0]}")
    return [printable(text, MAX_TEXT_LEN) for text in found]


class FinishedRun(NamedTuple):
    """A run of the search that has ended by itself: complete, or lost."""

    record: dict[str, Any]
    """Content of run.json."""
    requests: pa.Table
    """Content of requests.parquet."""

    @classmethod
    def read(cls, run_dir: Path) -> "FinishedRun | None":
        """Read a run's directory; None if it holds no run that has ended by itself.

        Raises:
            ForeignFileError: It holds files of two runs.
        """
        record = read_ended_record(run_dir)
        if record is None:
            return None
        try:
            with open_parquet(run_dir / REQUESTS, record["run_id"]) as file:
                return cls(record, file.read())
        except OSError:
            return None

    def check_planned(self, plan: SearchPlan, run: PlannedSearchRun, conf_sha256: str) -> None:
        """Require the run that the search has planned, with the user.conf that LoadGen read.

        Args:
            plan: The search.
            run: The planned run.
            conf_sha256: Of the user.conf in the run's directory.

        Raises:
            ForeignFileError: Names what differs.
        """
        run_dir = plan.run_dir(run)
        planned = {
            "target_qps": (entry(self.record, "config", "target_qps"), run.target_qps),
            "data set": (entry(self.record, "dataset", "sha256"), plan.dataset_sha256),
            f"SHA-256 of {USER_CONF}": (conf_sha256, entry(self.record, "files_sha256", USER_CONF)),
        }
        for name, (found, expected) in planned.items():
            # A run that was ended early has no hashes.
            if expected is not None and found != expected:
                shown = printable(f"{found}, not {expected}", MAX_TEXT_LEN)
                raise ForeignFileError(f"{run_dir} is not {run} of the search: its {name} is {shown}")

    @property
    def outcome(self) -> str:
        """The verdict's outcome."""
        return str(self.record["verdict"]["outcome"])

    @property
    def is_complete(self) -> bool:
        """Whether LoadGen's test ended."""
        return is_complete(self.record)

    @property
    def is_lost(self) -> bool:
        """Whether the run was ended because too many queries were over a limit."""
        return is_lost(self.record)

    def check(self, judged: Collection[str]) -> None:
        """Require that nothing but the named checks speaks against a complete run.

        Raises:
            RefusedRunError: Names the check.
            DisturbedRunError: A worker was lost.
        """
        self._check_workers()
        for check in self.record["verdict"]["checks"] if self.is_complete else ():
            if not check["passed"] and check["name"] not in judged:
                raise RefusedRunError(printable(f"{check['name']}: {check['seen']}", MAX_TEXT_LEN))

    def _check_workers(self) -> None:
        """Require that no worker was lost; a VALID run is VALID nevertheless.

        Raises:
            DisturbedRunError: Names the first worker that was lost.
        """
        losses = (self.record.get("summary") or {}).get("losses") or []
        if losses and self.outcome != Outcome.VALID:
            loss = losses[0]
            raise DisturbedRunError(printable(f"lost {loss['address']}: {loss['reason']}", MAX_TEXT_LEN))

    def check_latencies(self, ratio: float) -> None:
        """Require that an INVALID run of full length misses a latency limit: another rate may then be VALID.

        Args:
            ratio: Latency over its limit that decides, by our own times.

        Raises:
            RefusedRunError: The latencies are well within their limits.
        """
        bounds, figures = self.record["loadgen_bounds"], self.record["loadgen"]
        limits = {key: bound["value"] for key, bound in bounds.items() if bound["name"] == "limit"}
        if ratio < MAX_MET_RATIO and all(figures[key] <= limit for key, limit in limits.items()):
            self.check(())

    def column(self, *names: str) -> NDArray[np.int64]:
        """Return a column of requests.parquet; where it is null, the next of these names.

        Raises:
            ForeignFileError: It is not of integers, or null in each of these columns.
        """
        values = pc.coalesce(*(self.requests.column(name) for name in names))
        check_integers(Path(REQUESTS), pa.table({names[-1]: values}), names[-1:])
        return np.asarray(values.to_numpy(), np.int64)


def read_finished(plan: SearchPlan, run: PlannedSearchRun) -> FinishedRun | None:
    """Read a run of a search; None if it has to be run again.

    Raises:
        ForeignFileError: The directory holds another run, or files of two.
    """
    found = FinishedRun.read(plan.run_dir(run))
    if found is None:
        return None
    try:
        conf = read_bounded(plan.run_dir(run) / USER_CONF, MAX_CONF_BYTES)
    except OSError:
        return None
    found.check_planned(plan, run, hashlib.sha256(conf).hexdigest())
    return found


def read_rate_point(plan: SearchPlan, run: PlannedSearchRun) -> RatePoint | None:
    """Read a run of a search for a rate; None if it has to be run again.

    Raises:
        RefusedRunError: It is INVALID for another reason than the rate.
        DisturbedRunError: It lost a worker.
    """
    found = read_finished(plan, run)
    if found is None:
        return None
    ratio = full_length_ratio_of(plan, run, found)
    if found.is_lost:
        ratio = max(ratio, MIN_LOST_RATIO)
    elif run.kind is RunLengthKind.FULL:
        # LoadGen's own times decide.
        is_valid = found.outcome == Outcome.VALID
        if not is_valid:
            found.check_latencies(ratio)
        ratio = min(ratio, 1.0) if is_valid else max(ratio, MIN_OVER_RATIO)
    return RatePoint(run.target_qps, run.kind, math.log(ratio), found.is_lost)


def full_length_ratio_of(plan: SearchPlan, run: PlannedSearchRun, found: FinishedRun) -> float:
    """Return the latency over its limit that decides a run of full length at this run's rate.

    Raises:
        RefusedRunError: The run is INVALID for another reason than its rate or length.
    """
    found.check(_JUDGED[run.kind])
    num_full, num_allowed = plan.full.num_queries(run.target_qps), plan.full.allowed(run.target_qps)
    return full_length_ratio(_served(plan, found), num_full, num_allowed)


def _served(plan: SearchPlan, found: FinishedRun) -> ServedQueries:
    issued_ns = found.column("scheduled_ns", "issued_ns")
    # An answer without tokens has no first one.
    first_ns = found.column("first_reported_ns", "first_arrival_ns", "done_arrival_ns")
    done_ns = found.column("done_reported_ns", "done_arrival_ns")
    num_rest = found.column("answer_tokens") - 1
    tpot_ns = np.where(num_rest > 0, (done_ns - first_ns) / np.maximum(num_rest, 1), 0)
    order = np.argsort(issued_ns, kind="stable")
    return ServedQueries(
        issued_s=issued_ns[order] / 1e9,
        latency_s=(done_ns - issued_ns)[order] / 1e9,
        ttft_ratio=(first_ns - issued_ns)[order] / plan.ttft_limit_ns,
        tpot_ratio=tpot_ns[order] / plan.tpot_limit_ns,
    )


class OfflinePoint(NamedTuple):
    """One complete Offline run."""

    target_qps: float
    num_samples: int
    duration_s: float
    samples_per_s: float
    """Over the steady part of the run."""
    is_valid: bool


def read_offline_point(plan: SearchPlan, run: PlannedSearchRun) -> OfflinePoint | None:
    """Read a run of a search for Offline's sample count; None if it has to be run again.

    Raises:
        RefusedRunError: It is INVALID for another reason than its duration.
    """
    found = read_finished(plan, run)
    if found is None:
        return None
    found.check(_JUDGED[RunLengthKind.FULL])
    done_ns = np.sort(found.column("done_reported_ns", "done_arrival_ns"))
    begin, end = int(len(done_ns) * STEADY_FROM), int(len(done_ns) * STEADY_TO)
    steady_s = max(float(done_ns[end] - done_ns[begin]) / 1e9, 1e-9)
    return OfflinePoint(
        run.target_qps,
        len(done_ns),
        duration_s=float(done_ns[-1] - found.column("issued_ns").min()) / 1e9,
        samples_per_s=(end - begin) / steady_s,
        is_valid=found.outcome == Outcome.VALID,
    )
