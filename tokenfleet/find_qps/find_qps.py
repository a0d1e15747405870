"""`tokenfleet find-qps`: the highest target_qps that LoadGen calls VALID, or Offline's sample count.

A search that was stopped continues when it is started again with the same flags: no finished run is
repeated. Exit codes: 0 found and confirmed by a VALID run of full length, 1 a run failed, 2 bad input or the
lower bound is not VALID, 3 no run of full length was VALID, 128 plus the signal's number if interrupted.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from common.child_process import child_command, child_environment
from common.command_exit import BAD_INPUT, FAILED
from common.flags import FlagError
from coordinator.transport.access import Access
from sut.settings import Scenario
from tokenfleet.child import ChildProcess
from tokenfleet.find_qps.config import parse
from tokenfleet.find_qps.rate_search import RatePoint, RateSearch, RunLengthKind, SearchStep, StepKind
from tokenfleet.find_qps.sample_count_search import next_offline_step
from tokenfleet.find_qps.search_conditions import SearchConditions, visit_now
from tokenfleet.find_qps.search_plan import PlannedSearchRun, SearchPlan
from tokenfleet.find_qps.search_results import (
    DisturbedRunError,
    OfflinePoint,
    RefusedRunError,
    read_conditions,
    read_offline_point,
    read_rate_point,
    read_remarks,
)
from tokenfleet.find_qps.search_state import SearchDir, SearchState
from tokenfleet.left_runs import wait_ended
from tokenfleet.log_tail import last_line
from tokenfleet.resumable_program import ProgramStopped, run_resumable

POLL_S = 0.2
NOT_FOUND = 3
DEFAULT_OFFLINE_QPS = 1.0
_Point = TypeVar("_Point")


def main(argv: list[str]) -> int:
    """Search and return the exit code."""
    return run_resumable("find-qps", _execute, argv)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _execute(argv: list[str]) -> int:
    plan = SearchPlan.read(*parse(argv))
    if plan.run.scenario is not Scenario.OFFLINE and not plan.config.sweep:
        _check_length(plan)
    with SearchDir(plan.directory):
        runs = SearchRuns(plan, SearchState(plan))
        runs.check_present_conditions()
        plan.write_confs()
        if plan.config.sweep:
            return _sweep(plan, runs)
        if plan.run.scenario is Scenario.OFFLINE:
            return _search_offline(plan, runs)
        return _search_rate(plan, runs)


def _check_length(plan: SearchPlan) -> None:
    """Refuse runs of full length that are too short for LoadGen's early stopping.

    Raises:
        FlagError: Names the number of queries.
    """
    lowest = plan.config.min_qps or 0.0
    if reason := plan.full.too_short(lowest):
        raise FlagError("--min-qps", reason)


class SearchRuns:
    """The runs of one search, those of earlier starts included."""

    def __init__(self, plan: SearchPlan, state: SearchState) -> None:
        """Take what an earlier start has begun."""
        self._plan = plan
        self._state = state
        self._num_read = 0
        self._first: tuple[PlannedSearchRun, SearchConditions] | None = None

    def check_present_conditions(self) -> None:
        """Require that the code and the workers are those of the runs that earlier starts have made.

        Workers that are not ready yet are not compared: the next run waits for them, and is compared.

        Raises:
            FlagError: Names what differs.
        """
        earlier = ((run, read_conditions(self._plan.run_dir(run))) for run in self._state.runs)
        first = next(((run, found) for run, found in earlier if found is not None), None)
        if first is None:
            return
        now = visit_now(self._plan.run.workers, Access.read(self._plan.run.security_files))
        if now is not None:
            self._check_conditions(*first)
            self._check_conditions(None, now)

    def _check_conditions(self, run: PlannedSearchRun | None, conditions: SearchConditions | None) -> None:
        """Compare a run with the first one.

        Args:
            run: None stands for the next one.
            conditions: Those of the run; None: it has no record.

        Raises:
            FlagError: Names what differs.
        """
        if conditions is None:
            return
        if self._first is None:
            assert run is not None
            self._first = run, conditions
            return
        first, known = self._first
        if difference := known.first_difference(conditions):
            reason = f"{run or 'the next run'} has {difference} as in {first}"
            advice = "remove the directory to search anew, or give another --output-dir"
            raise FlagError("--output-dir", f"{reason}; {advice}", self._plan.directory)

    def read(
        self, step: SearchStep, read_point: Callable[[SearchPlan, PlannedSearchRun], _Point | None]
    ) -> tuple[PlannedSearchRun, _Point]:
        """Return the next run's result, from its directory if it has finished, else after running it.

        Raises:
            ProgramStopped: It failed, or no rate would make it VALID.
            FlagError: It is of another fleet than the first run, or of other code.
        """
        known = self._state.runs
        number = self._num_read + 1
        is_known = number <= len(known)
        run = known[number - 1] if is_known else _planned(number, step)
        try:
            point = self._read_known(run, read_point) if is_known else None
            if point is None:
                self._run(run, is_known)
                point = read_point(self._plan, run)
        except RefusedRunError as error:
            raise ProgramStopped(f"{run} is INVALID: {error}", NOT_FOUND) from error
        except DisturbedRunError as error:
            reason = f"{run} says nothing of its rate: {error}; start again to repeat it"
            raise ProgramStopped(reason, FAILED) from error
        if point is None:
            log = self._plan.log(run)
            raise ProgramStopped(f"{run} failed: {last_line(log)} ({log})", FAILED)
        self._check_conditions(run, read_conditions(self._plan.run_dir(run)))
        self._num_read = number
        return run, point

    def _read_known(
        self, run: PlannedSearchRun, read_point: Callable[[SearchPlan, PlannedSearchRun], _Point | None]
    ) -> _Point | None:
        wait_ended(self._plan.run_dir(run))
        try:
            return read_point(self._plan, run)
        except DisturbedRunError:
            return None

    def _run(self, run: PlannedSearchRun, is_known: bool) -> None:
        """Run a coordinator to its end.

        Raises:
            ProgramStopped: The run refused its flags, files or workers.
        """
        if is_known:
            # What a killed start has left: it never looked like a result.
            shutil.rmtree(self._plan.output_dir(run), ignore_errors=True)
        else:
            self._state.begin(run)
        log = self._plan.log(run)
        log.unlink(missing_ok=True)
        sys.stderr.write(f"{run} begins: {log}\n")
        command = child_command("tokenfleet", ["run", *self._plan.argv(run)])
        with log.open("ab") as output, ChildProcess(command, child_environment(os.environ), output) as child:
            while (code := child.poll()) is None:
                time.sleep(POLL_S)
        if code == BAD_INPUT:
            raise ProgramStopped(f"{run}: {last_line(log)}", BAD_INPUT)

    def end(self, **facts: object) -> None:
        """Record how the search ended."""
        self._state.write({"end": facts})


def _planned(number: int, step: SearchStep) -> PlannedSearchRun:
    return PlannedSearchRun(number, RunLengthKind(step.kind), step.target_qps)


def _search_rate(plan: SearchPlan, runs: SearchRuns) -> int:
    assert plan.config.min_qps is not None
    search = RateSearch(plan.config.min_qps, plan.config.max_qps, plan.config.max_runs)
    points: list[RatePoint] = []
    confirmed: dict[float, PlannedSearchRun] = {}
    while (step := search.next_step(points)).kind in (StepKind.SHORT, StepKind.FULL):
        run, point = runs.read(step, read_rate_point)
        points.append(point)
        confirmed[point.target_qps] = run
        _say(f"{run}: {_describe(plan, point)}")
    runs.end(outcome=step.kind, target_qps=step.target_qps)
    if step.kind is StepKind.FOUND:
        code = _propose(plan, confirmed[step.target_qps], step.target_qps)
        if (untried := search.untried_qps(points)) is not None:
            _say(f"a higher rate may be VALID: no run was left to try {untried:g} queries/s (--max-runs)")
        elif step.target_qps == search.max_qps:
            _say(f"a higher rate may be VALID: --max-qps {search.max_qps:g} ended the search")
        return code
    if step.kind is StepKind.TOO_HIGH:
        raise FlagError("--min-qps", f"{step.target_qps:g} queries/s is not VALID: search below it")
    raise ProgramStopped(
        f"no run of full length was VALID after {len(points)} runs, the lowest at {step.target_qps:g} "
        f"queries/s: search again with more --max-runs and another --output-dir",
        NOT_FOUND,
    )


def _describe(plan: SearchPlan, point: RatePoint) -> str:
    ratio = f"the deciding latency is {math.exp(point.log_ratio):.3f} of its limit"
    if point.is_lost:
        return f"lost, ended early; {ratio}"
    if point.kind is RunLengthKind.FULL:
        return f"{'VALID' if point.is_valid else 'INVALID'}; {ratio}"
    num_full, num_allowed = plan.full.num_queries(point.target_qps), plan.full.allowed(point.target_qps)
    return f"{ratio}, as a run of {num_full} queries would have it ({num_allowed} may be over)"


def _search_offline(plan: SearchPlan, runs: SearchRuns) -> int:
    first_qps = plan.config.min_qps or DEFAULT_OFFLINE_QPS
    points: list[OfflinePoint] = []
    last: PlannedSearchRun | None = None
    while True:
        step = next_offline_step(points, first_qps, plan.full.min_duration_s, plan.config.max_runs)
        if step.kind is not StepKind.FULL:
            break
        last, point = runs.read(step, read_offline_point)
        points.append(point)
        _say(
            f"{last}: {'VALID' if point.is_valid else 'INVALID'}; {point.num_samples} samples in "
            f"{point.duration_s:.1f} s, {point.samples_per_s:.4g} samples/s while the engines were full"
        )
    runs.end(outcome=step.kind, target_qps=step.target_qps)
    if step.kind is StepKind.FOUND and last is not None:
        return _propose(plan, last, step.target_qps)
    raise ProgramStopped(f"no run was VALID after {len(points)} runs", NOT_FOUND)


def _sweep(plan: SearchPlan, runs: SearchRuns) -> int:
    """Run each rate of the curve and write it."""
    # Its plotting library takes a second to import.
    from tokenfleet.find_qps.rate_sweep import format_sweep, read_sweep_row, sweep_rates, write_sweep

    assert plan.config.min_qps is not None
    assert plan.config.max_qps is not None
    rows = []
    for rate in sweep_rates(plan.config.min_qps, plan.config.max_qps, plan.config.sweep_points):
        run, row = runs.read(SearchStep(StepKind.SHORT, rate), read_sweep_row)
        rows.append(row)
        _say(f"{run}: {row.tokens_per_s:,.1f} tokens/s, TPOT p99 {row.tpot_p99_ms:.2f} ms")
    write_sweep(plan, rows)
    runs.end(outcome="swept")
    _say(format_sweep(rows))
    _say(f"written: {plan.directory}/sweep.csv, sweep.parquet, sweep.svg")
    return 0


def _propose(plan: SearchPlan, run: PlannedSearchRun, target_qps: float) -> int:
    """Print the lines of the user.conf, which are those of the confirming run."""
    run_dir = plan.run_dir(run)
    key = f"{plan.run.scenario.model_name}.{plan.run.scenario.loadgen_name}"
    _say(f"{target_qps:g} queries/s is VALID: {run_dir}")
    _say(f"user.conf: {key}.target_qps = {target_qps!r}")
    _say(f"all lines of that run: {run_dir / 'user.conf'}")
    for remark in read_remarks(run_dir):
        _say(f"note: {remark}")
    return 0
