"""`tokenfleet campaign PLAN.toml`: all runs of a submission over the same workers, graded and laid out.

A campaign that was stopped continues when it is started again: runs that count are never repeated, anything
else is run anew. Exit codes: 0 complete, 1 a run failed, 2 bad input or what could not be submitted, 3 a run
is INVALID or its answers did not pass, 128 plus the signal's number if interrupted.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.atomic_files import replace_files
from common.command_exit import BAD_INPUT
from common.flags import Flag, Flags, Parser, add_flags, build
from common.source_commit import read_commit
from coordinator.transport.access import Access
from tokenfleet.campaign.campaign_state import CampaignDir, CampaignState
from tokenfleet.campaign.execution import Campaign
from tokenfleet.campaign.group_workers import GroupWorkers, LocalWorkers, NodeWorkers, WorkerTimeouts
from tokenfleet.campaign.phase_table import Phase, PhaseTable
from tokenfleet.campaign.plan_entries import OUTPUT_DIR, naming_entries
from tokenfleet.campaign.plan_file import CampaignPlan, NodeFlags, read_plan
from tokenfleet.campaign.planned_runs import (
    PlannedRun,
    RunIdentity,
    expected_duration_s,
    plan_runs,
    planned_samples,
    rehearsal_conf,
    rehearsal_conf_text,
)
from tokenfleet.campaign.preflight import check_files
from tokenfleet.resumable_program import run_resumable


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignConfig(Flags):
    """Flags of the command."""

    workers: Annotated[
        tuple[str, ...],
        Flag(
            "addresses of the nodes",
            metavar="HOST:PORT[,HOST:PORT...]",
            default_text="those of the plan",
        ),
    ] = ()
    run_token_file: Annotated[
        Path | None,
        Flag("file with the run token that the workers require", default_text="that of the plan"),
    ] = None
    check: Annotated[bool, Flag("check the plan and its files, print the runs, and start nothing")] = False


def main(argv: list[str]) -> int:
    """Carry out a plan and return the exit code."""
    return run_resumable("campaign", _execute, argv)


def _execute(argv: list[str]) -> int:
    parser = Parser(
        allow_abbrev=False, description="Carry out all runs of a submission, grade them and lay out the tree."
    )
    parser.add_argument("plan", type=Path, metavar="PLAN.toml", help="the plan, see docs/campaign.md")
    add_flags(parser, CampaignConfig)
    values = parser.parse_args(argv)
    config = build(CampaignConfig, values)
    plan = read_plan(values.plan, NodeFlags(config.workers, config.run_token_file))
    with naming_entries(plan, OUTPUT_DIR):
        directory = CampaignDir(plan.campaign.output_dir)
    with directory:
        _write_rehearsal_confs(plan)
        runs = plan_runs(plan)
        identities, refused = check_files(plan, runs)
        if refused:
            return _refuse(plan, refused)
        table = _table(plan, runs)
        if config.check:
            table.close()
            return 0
        directory.keep()
        return _run(plan, identities, table, directory.wait_children())


def _refuse(plan: CampaignPlan, refused: list[str]) -> int:
    for line in refused:
        sys.stderr.write(f"campaign: {plan.path}: cannot be submitted: {line}\n")
    return BAD_INPUT


def _run(
    plan: CampaignPlan, identities: dict[PlannedRun, RunIdentity], table: PhaseTable, children_lock: int
) -> int:
    state = CampaignState.open(plan, read_commit())
    state.write()
    workers = _workers(plan, state, next(iter(identities)))
    try:
        return Campaign(plan, identities, state, table, workers, children_lock).execute()
    finally:
        workers.close()
        table.close()


def _workers(plan: CampaignPlan, state: CampaignState, run: PlannedRun) -> GroupWorkers:
    config = run.config()
    access = Access.read(config.security_files)
    patience = WorkerTimeouts(config.ready_timeout_s, plan.campaign.restart_timeout_s)
    kind = LocalWorkers if plan.nodes is None else NodeWorkers
    return kind(plan, state, access, patience)


def _write_rehearsal_confs(plan: CampaignPlan) -> None:
    if plan.rehearsal is None or plan.rehearsal.min_duration_s is None:
        return
    for scenario in plan.scenarios:
        path = rehearsal_conf(plan, scenario)
        replace_files(path.parent, {path.name: rehearsal_conf_text(plan, scenario)})


def _table(plan: CampaignPlan, runs: list[PlannedRun]) -> PhaseTable:
    return PhaseTable(
        [
            Phase(run.name, run.group.name, planned_samples(plan, run), expected_duration_s(plan, run))
            for run in runs
        ]
    )
