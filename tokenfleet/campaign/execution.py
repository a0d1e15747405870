"""Carries out a plan: loads workers, runs what is due, grades it and lays out the tree."""

import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from common.child_process import child_command, child_environment
from common.command_exit import BAD_INPUT, FAILED
from common.source_commit import read_commit
from coordinator.doctor.visits import Visit
from sut.results.submission.set_faults import kernel_choices
from sut.results.verdict import Outcome
from tokenfleet.campaign.campaign_state import LOG_FOLDER, CampaignState
from tokenfleet.campaign.consistency import (
    CodeVersions,
    kernel_difference,
    mixed,
    rate_advice,
    rerun_reason,
)
from tokenfleet.campaign.grading_commands import describe_grade, grading_argv, read_grade
from tokenfleet.campaign.group_workers import GroupWorkers, WorkersError
from tokenfleet.campaign.phase_table import PhaseState, PhaseTable
from tokenfleet.campaign.plan_file import CampaignPlan
from tokenfleet.campaign.plan_groups import Group
from tokenfleet.campaign.plan_settings import GradingTime
from tokenfleet.campaign.planned_runs import PlannedRun, RunIdentity
from tokenfleet.campaign.preflight import refuse_workers
from tokenfleet.campaign.run_results import RunResult, changed_file, read_result, set_aside
from tokenfleet.campaign.shared_facts import shared_difference, shared_facts_of_workers
from tokenfleet.campaign.tree_command import (
    drop_scratch,
    has_tree,
    in_place,
    is_half_moved,
    move_tree,
    prepare_scratch,
    tree_argv,
)
from tokenfleet.child import ChildProcess
from tokenfleet.left_runs import wait_ended
from tokenfleet.log_tail import last_line, last_lines
from tokenfleet.resumable_program import ProgramStopped

POLL_S = 0.2
INVALID = 3
MAX_TREE_LINES = 30


class Campaign:
    """One start of a campaign."""

    def __init__(
        self,
        plan: CampaignPlan,
        identities: Mapping[PlannedRun, RunIdentity],
        state: CampaignState,
        table: PhaseTable,
        workers: GroupWorkers,
        children_lock: int,
    ) -> None:
        """Take a plan that nothing speaks against.

        Args:
            plan: What to run.
            identities: The runs in their order, and what decides the result of each.
            state: Is told what happens.
            table: Shows it.
            workers: Serve the runs.
            children_lock: File that every program of this campaign inherits and so keeps locked.
        """
        self._children_lock = children_lock
        self._plan = plan
        self._identities = identities
        self._state = state
        self._table = table
        self._workers = workers
        self._results: dict[PlannedRun, RunResult] = {}

    def execute(self) -> int:
        """Run everything that is due; returns 0.

        In a rehearsal also 3 if a run is INVALID, and 1 if the official checker refuses the tree.

        Raises:
            ProgramStopped: A run failed too often, is INVALID, or cannot be submitted.
            Interrupted: A signal arrived; the run in progress has been told to stop.
        """
        try:
            return self._execute_all()
        finally:
            for name in self._table.stop():
                self._state.note_run(name, state=PhaseState.STOPPED)

    def _execute_all(self) -> int:
        self._find_kept()
        if self._plan.campaign.grading is GradingTime.BETWEEN_RUNS:
            # A campaign that was stopped while it graded.
            for run in list(self._results):
                self._grade(run)
        for group in self._plan.groups:
            if any(run.group is group for run in self._due()) or self._has_other_flags(group):
                self._run_group(group)
        self._workers.close()
        for run in self._identities:
            self._grade(run)
        self._check_mixed()
        refused = self._lay_out()
        invalid = [run for run, result in self._results.items() if result.outcome == Outcome.INVALID]
        return INVALID if invalid else refused

    def _due(self) -> list[PlannedRun]:
        return [run for run in self._identities if run not in self._results]

    def _has_other_flags(self, group: Group) -> bool:
        """Return whether runs that count were served with other flags, and so perhaps by another engine."""
        kept = [run.name for run in self._results if run.group is group]
        flags = list(group.worker_flags or ())
        return any(self._state.flags.get(name, []) != flags for name in kept)

    def _find_kept(self) -> None:
        """Find the runs of earlier starts that count."""
        for run in self._identities:
            wait_ended(run.run_dir)
            result = read_result(run.run_dir, run.scenario, run.kind)
            if result is None:
                continue
            reason = self._rerun_reason(run, result) or changed_file(run.run_dir, result)
            if reason is None and self._is_graded(run) and read_grade(self._plan, run) is False:
                reason = "its answers did not pass"
            if reason is None:
                self._results[run] = result
                self._state.note_run(run.name, state=PhaseState.KEPT, run_id=result.run_id)
                self._table.change(run.name, PhaseState.KEPT, describe(result), result.wall_s)
            else:
                self._run_anew(run, reason)
        for run, reason in mixed(self._results):
            self._run_anew(run, reason)

    def _is_graded(self, run: PlannedRun) -> bool:
        return grading_argv(self._plan, run) is not None

    def _rerun_reason(self, run: PlannedRun, result: RunResult) -> str | None:
        return rerun_reason(
            result,
            self._identities[run],
            CodeVersions(read_commit(), version("mlcommons_loadgen")),
            is_strict=self._plan.is_strict,
            takes_invalid=self._plan.submission is None,
        )

    def _run_anew(self, run: PlannedRun, reason: str) -> None:
        self._results.pop(run, None)
        self._table.say(f"{run.name} is run anew: {reason}")
        self._table.change(run.name, PhaseState.WAITING)

    def _run_group(self, group: Group) -> None:
        """Run what is due of one group."""
        visits = self._load(group)
        self._drop_foreign(group, visits)
        for run in self._results:
            if run.group is group:
                self._state.note_flags(run.name, group.worker_flags)
        due = [run for run in self._due() if run.group is group]
        if refused := refuse_workers(self._plan, due, visits):
            for line in refused[1:]:
                self._table.say(f"cannot be submitted: {line}")
            raise ProgramStopped(f"cannot be submitted: {refused[0]}", BAD_INPUT)
        for run in due:
            self._run(run, visits)
            if self._plan.campaign.grading is GradingTime.BETWEEN_RUNS:
                self._grade(run)

    def _drop_foreign(self, group: Group, visits: Sequence[Visit]) -> None:
        """Run anew what other engines did in this group's scenarios; refuse what no tree could hold.

        Raises:
            ProgramStopped: Runs that count have other weights, another engine or other machines.
        """
        infos = [visit.info for visit in visits if not visit.info.replicas]
        hashes = frozenset(info.engine_hash for info in infos)
        models = frozenset(info.model_hash for info in infos)
        kernels = kernel_choices(info.execution_facts for info in infos)
        # Without a tree, groups may run on other machines.
        shared = {} if self._plan.submission is None else shared_facts_of_workers(visits)
        for run, result in list(self._results.items()):
            if run.group is group and result.engine_hashes != hashes:
                self._run_anew(run, "the workers have another engine hash")
            elif run.group is group and (difference := kernel_difference(result.kernels, kernels)):
                self._run_anew(run, f"the workers have {difference}")
            elif result.model_hashes != models:
                raise ProgramStopped(
                    f"the workers of group {group.name} have other weights than those of {run.name}",
                    BAD_INPUT,
                )
            elif difference := shared_difference(result.shared, shared):
                reason = f"the workers of group {group.name} have {difference} as in {run.name}"
                raise ProgramStopped(f"{reason}: move {run.run_dir} away to run it anew", BAD_INPUT)

    def _load(self, group: Group) -> list[Visit]:
        """Load the workers of a group, several times if need be.

        Raises:
            ProgramStopped: They do not serve.
        """
        due = [run for run in self._due() if run.group is group]
        if due:
            self._table.change(due[0].name, PhaseState.LOADING)
        else:
            self._table.say(
                f"group {group.name}: the worker flags changed; its engine is compared with the runs"
            )
        for attempt in range(1, self._plan.campaign.max_attempts + 1):
            try:
                visits = self._workers.load(group)
            except WorkersError as error:
                self._table.say(f"group {group.name}, attempt {attempt}: {error}")
                reason = str(error)
            else:
                if due:
                    self._table.change(due[0].name, PhaseState.WAITING)
                return visits
        raise ProgramStopped(f"group {group.name}: {reason}", FAILED)

    def _run(self, run: PlannedRun, visits: list[Visit]) -> None:
        """Run once, and again after a failure.

        Raises:
            ProgramStopped: It failed too often, or is complete and does not count.
        """
        for attempt in range(1, self._plan.campaign.max_attempts + 1):
            if attempt > 1:
                visits = self._load(run.group)
            wait_ended(run.run_dir)
            set_aside(run)
            reason = self._attempt(run, attempt, visits)
            if reason is None:
                return
            self._table.change(run.name, PhaseState.FAILED, reason)
            self._table.say(f"{run.name}, attempt {attempt}: {reason}")
        raise ProgramStopped(f"{run.name}: failed {attempt} times, last: {reason}", FAILED)

    def _attempt(self, run: PlannedRun, attempt: int, visits: Sequence[Visit]) -> str | None:
        """Run once; returns why it failed, None if it counts.

        Raises:
            ProgramStopped: Another attempt would end the same way.
        """
        heads = run.group.addresses or (visits[0].address,)
        self._table.change(run.name, PhaseState.RUNNING, f"attempt {attempt}" if attempt > 1 else "")
        self._state.note_run(run.name, state=PhaseState.RUNNING, attempts=attempt)
        log = self._log(run.name)
        code = self._execute(["run", *run.argv(heads)], log)
        result = read_result(run.run_dir, run.scenario, run.kind)
        if result is None or not result.is_complete:
            reason = f"exit code {code}: {last_line(log)}" if result is None else result.reason
            self._state.note_run(run.name, state=PhaseState.FAILED, reason=reason)
            if code == BAD_INPUT and not self._workers.have_ended:
                raise ProgramStopped(f"{run.name}: {reason}", BAD_INPUT)
            return reason
        why = self._rerun_reason(run, result)
        if why is not None:
            why += rate_advice(run, result, self._plan.scenarios[run.scenario].target_qps)
            self._state.note_run(run.name, state=PhaseState.FAILED, reason=why)
            self._table.change(run.name, PhaseState.FAILED, why, result.wall_s)
            raise ProgramStopped(f"{run.name}: {why}", INVALID)
        self._results[run] = result
        self._state.note_flags(run.name, run.group.worker_flags)
        self._state.note_run(
            run.name, state=PhaseState.DONE, run_id=result.run_id, wall_s=result.wall_s, reason=""
        )
        self._table.change(run.name, PhaseState.DONE, describe(result), result.wall_s)
        return None

    def _grade(self, run: PlannedRun) -> None:
        """Grade a run that has not been graded.

        Raises:
            ProgramStopped: The answers did not pass, or could not be graded.
        """
        argv = grading_argv(self._plan, run)
        if argv is None:
            return
        took_s = self._results[run].wall_s
        if read_grade(self._plan, run) is None:
            self._table.change(run.name, PhaseState.GRADING)
            log = self._log(f"{run.name} grading")
            code = self._execute(argv, log)
            if read_grade(self._plan, run) is None:
                self._table.change(run.name, PhaseState.FAILED, "not graded", took_s)
                raise ProgramStopped(
                    f"{run.name}: not graded, exit code {code}: {last_line(log)} ({log})", FAILED
                )
        score = describe_grade(run)
        self._state.note_run(run.name, score=score)
        if read_grade(self._plan, run) is False:
            self._table.change(run.name, PhaseState.FAILED, f"did not pass: {score}", took_s)
            raise ProgramStopped(f"{run.name}: the answers did not pass: {score}", INVALID)
        self._table.change(run.name, PhaseState.DONE, score, took_s)

    def _check_mixed(self) -> None:
        for run, reason in mixed(self._results):
            raise ProgramStopped(f"{run.name}: {reason}", FAILED)

    def _lay_out(self) -> int:
        """Lay out the tree; returns 0, or 1 if the official checker refuses that of a rehearsal.

        Raises:
            ProgramStopped: It was refused; the reasons are shown and in the log.
        """
        if self._plan.submission is None:
            return 0
        code, is_refused = 0, False
        if not is_half_moved(self._plan):
            prepare_scratch(self._plan)
            log = self._log("submission")
            # The lines of an earlier attempt would be taken for those of this one.
            log.unlink(missing_ok=True)
            code = self._execute(tree_argv(self._plan), log)
            is_refused = code != 0 and (self._plan.is_strict or not has_tree(self._plan))
            for line in last_lines(log, MAX_TREE_LINES):
                self._table.say(line if is_refused else in_place(self._plan, line))
        if is_refused:
            drop_scratch(self._plan)
            raise ProgramStopped(f"no tree, exit code {code}: {log}", code)
        move_tree(self._plan)
        refusal = "; exit code 1, because the official checker refuses it" if code else ""
        self._table.say(f"tree: {self._plan.submission.tree.absolute()}{refusal}")
        return code

    def _log(self, name: str) -> Path:
        return self._plan.campaign.output_dir / LOG_FOLDER / f"{name.replace(' ', '-')}.log"

    def _execute(self, argv: list[str], log: Path) -> int:
        """Run a `tokenfleet` command to its end, and tend the workers meanwhile; returns its exit code."""
        command, environment = child_command("tokenfleet", argv), child_environment(os.environ)
        fds = [self._children_lock]
        with (
            log.open("ab") as output,
            ChildProcess(command, environment, output, inherited_fds=fds) as child,
        ):
            while (code := child.poll()) is None:
                self._workers.tend()
                self._table.tick()
                time.sleep(POLL_S)
        return code


def describe(result: RunResult) -> str:
    """Return outcome, rate and warnings of a run for the table."""
    rate = "" if result.tokens_per_s is None else f", {result.tokens_per_s:,.1f} tokens/s"
    warnings = f"; warn {', '.join(result.warnings)}" if result.warnings else ""
    return f"{result.outcome}{rate}{warnings}"
