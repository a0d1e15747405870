"""Refuses, before the first run, what could not be run or submitted."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from common.child_process import child_command, child_environment
from common.source_commit import read_commit
from common.text import printable
from coordinator.doctor.command import examine, parse
from coordinator.doctor.findings import DEVIATION, Level
from coordinator.doctor.visits import Visit
from coordinator.inputs import Inputs
from coordinator.pre_run_checks import build_setup
from sut.benchmark import BENCHMARK
from sut.loadgen import LoadGenSettings
from sut.results.deviations import deviations_before_run
from sut.results.submission.recorded_runs import RunKind
from sut.settings import Scenario
from tokenfleet.campaign.plan_entries import entries_of_run, naming_entries
from tokenfleet.campaign.plan_file import CampaignPlan
from tokenfleet.campaign.plan_groups import Group
from tokenfleet.campaign.planned_runs import PlannedRun, RunIdentity
from tokenfleet.campaign.tree_command import check_code, check_submission

MODEL_LEN = BENCHMARK.max_prompt_len + BENCHMARK.accuracy_max_new_tokens.value
"""Tokens that the longest prompt and the longest answer have together."""
FLAGS_TIMEOUT_S = 180.0
MAX_LINE_LEN = 300
_SPECULATIVE = ("speculative-config", "spec-method", "spec-model", "speculative-algorithm")


class CheckedFiles(NamedTuple):
    """What the files of all runs show."""

    identities: dict[PlannedRun, RunIdentity]
    """What decides the result of each run."""
    refused: list[str]
    """What could not be submitted, if the plan does not allow it."""


def check_files(plan: CampaignPlan, runs: Iterable[PlannedRun]) -> CheckedFiles:
    """Check the plan and the files of all runs; nothing is written.

    Raises:
        FlagError: Something that no run or no grading can do without.
    """
    check_submission(plan)
    _check_grading_files(plan)
    _check_restarts(plan)
    found = [line for group in plan.groups for line in _worker_flag_deviations(plan, group)]
    identities = {}
    for run in runs:
        with naming_entries(plan, entries_of_run(plan, run.scenario, run.kind)):
            inputs = run.read_inputs()
            identities[run] = RunIdentity.of(run, inputs)
            found += [f"{run.name}: {text}" for text in _deviations(run, inputs)]
    refused = list(dict.fromkeys(found)) if plan.is_strict else []
    if not refused:
        check_code(plan, read_commit())
    return CheckedFiles(identities, refused)


def _deviations(run: PlannedRun, inputs: Inputs) -> list[str]:
    """List the deviations from a submission that a run's files show."""
    settings = LoadGenSettings.read(inputs.user_conf, inputs.audit_conf, run.scenario)
    setup = build_setup(run.config(), inputs, (), settings.seeds)
    return deviations_before_run(settings.logged, setup)


def refuse_workers(plan: CampaignPlan, runs: Sequence[PlannedRun], visits: list[Visit]) -> list[str]:
    """Check the workers of a group before its first run.

    Args:
        plan: The plan.
        runs: The runs of the group that are due.
        visits: The workers' answers.

    Returns:
        What could not be submitted, if the plan does not allow it.

    Raises:
        FlagError: Something that no run can do without.
    """
    found = []
    addresses = tuple(visit.address for visit in visits)
    for visit in visits:
        info = visit.info
        if not info.replicas and info.max_model_len < MODEL_LEN:
            found.append(_model_len_deviation(visit.address, info.max_model_len))
        if visit.host is not None and visit.host.commit not in ("", read_commit()):
            commit = printable(visit.host.commit, MAX_LINE_LEN)
            found.append(f"{visit.address}: code revision {commit}, here {read_commit() or 'unknown'}")
    for run in _distinct(runs):
        found += _examine(plan, run, addresses, visits)
    return list(dict.fromkeys(found)) if plan.is_strict else []


def _distinct(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Choose runs that show all that workers may lack: each scenario, and each data set with its budget."""
    by_scenario = {run.scenario: run for run in runs}
    by_kind = {run.kind: run for run in runs if run.kind is not RunKind.TEST09}
    return list(dict.fromkeys([*by_scenario.values(), *by_kind.values()]))


def _examine(
    plan: CampaignPlan, run: PlannedRun, addresses: tuple[str, ...], visits: list[Visit]
) -> list[str]:
    """Make the doctor's checks of one run; returns its deviations from a submission."""
    # The doctor refuses the directory of a run that exists, and a campaign moves it aside.
    order = parse([*run.argv(addresses), f"--output-dir={run.elsewhere}"])
    rows, _ = examine(order, visits)
    for row in rows:
        if row.level is Level.FAIL:
            raise plan.error(run.name, f"{row.group}, {row.check}: {printable(row.seen, MAX_LINE_LEN)}")
    return [f"{run.name}: {row.seen}" for row in rows if row.check == DEVIATION and row.level is Level.WARN]


def _check_grading_files(plan: CampaignPlan) -> None:
    """Require what grading needs at the end of hours of runs."""
    if plan.submission is None:
        return
    if not (plan.data.tokenizer / "tokenizer.json").is_file():
        raise plan.error("[data] tokenizer", f"{plan.data.tokenizer} holds no tokenizer.json")
    tests = plan.data.lcb_tests
    if tests is None:
        raise plan.error("[data] lcb-tests", "missing; the programs of the accuracy runs need it")
    if not tests.exists():
        raise plan.error("[data] lcb-tests", f"{tests} does not exist")


def _check_restarts(plan: CampaignPlan) -> None:
    """Require a way to restart nodes that serve several groups."""
    named = [address for group in plan.groups for address in group.addresses]
    if plan.nodes is None or plan.nodes.restart_command or len(set(named)) == len(named):
        return
    if not sys.stdin.isatty():
        reason = "missing; several groups share nodes, and there is no terminal to ask for their restart"
        raise plan.error("[nodes] restart-command", reason)


def _worker_flag_deviations(plan: CampaignPlan, group: Group) -> list[str]:
    """Check the flags of a local worker as the worker reads them."""
    if group.worker_flags is None:
        return []
    table = _resolve_flags(plan, group)
    place = f"group {group.name}"
    found = []
    if table.get("engine") not in ("vllm", "sglang"):
        found.append(f"{place}: engine is {table.get('engine')}, not vllm")
    length = table.get("max-model-len", table.get("context-length"))
    if length is not None and int(length) < MODEL_LEN:
        found.append(_model_len_deviation(place, int(length)))
    slow = [scenario for scenario in group.scenarios if scenario is not Scenario.INTERACTIVE]
    found += [
        f"{place}: {name} is set in {slow[0]}, only interactive allows it"
        for name in _SPECULATIVE
        if name in table and slow
    ]
    if table.get("enable-prefix-caching"):
        found.append(f"{place}: enable-prefix-caching: the KV cache may not be used across queries")
    if table.get("load-format") == "dummy":
        found.append(f"{place}: load-format is dummy: the weights are random")
    return found


def _model_len_deviation(place: str, length: int) -> str:
    return (
        f"{place}: max-model-len is {length:,}, below {MODEL_LEN:,}: the longest prompt has "
        f"{BENCHMARK.max_prompt_len:,} tokens, the longest answer {BENCHMARK.accuracy_max_new_tokens.value:,}"
    )


def _resolve_flags(plan: CampaignPlan, group: Group) -> Mapping[str, Any]:
    """Return the flags of a local worker, with its preset and its defaults, by name.

    Raises:
        PlanError: The worker would refuse them.
    """
    assert group.worker_flags is not None
    command = child_command("worker", [*group.worker_flags, "--print-config"])
    place = f"[worker], group {group.name}"
    try:
        done = subprocess.run(
            command,
            env=child_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FLAGS_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        reason = f"`worker --print-config` has not ended within {FLAGS_TIMEOUT_S:g} s"
        raise plan.error(place, reason) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise plan.error(place, printable(lines[-1], MAX_LINE_LEN))
    table: Mapping[str, Any] = tomllib.loads(done.stdout)["worker"]
    return table
