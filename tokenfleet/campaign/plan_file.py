"""Reads the plan of a campaign: a TOML file of which every key is known."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.bounded_file import read_bounded
from common.config_file import MAX_CONFIG_BYTES, join_lists, parse_toml, to_argv
from common.flags import names
from coordinator.config import RunConfig
from sut.results.submission.recorded_runs import Division, RunKind
from sut.settings import Scenario
from tokenfleet.campaign.plan_groups import Group, read_groups
from tokenfleet.campaign.plan_reader import PlanError, PlanReader, nearest
from tokenfleet.campaign.plan_settings import (
    CampaignSettings,
    DataSettings,
    NodeSettings,
    RehearsalSettings,
    ScenarioSettings,
    SubmissionSettings,
)

TABLES = (
    *("campaign", "data", *Scenario, "submission", "rehearsal"),
    *("nodes", "worker", "groups", "coordinator", "system"),
)
CAMPAIGN_SETS = frozenset(
    [
        *("scenario", "accuracy", "input-file", "workers", "output-dir", "overwrite", "verbose", "user-conf"),
        *("max-new-tokens", "max-samples", "target-qps", "audit-config", "ungraded", "compliance"),
        *("tokenizer", "lcb-tests", "generation-config"),
    ]
)
"""Flags of `tokenfleet run` that [coordinator] may not set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """What a campaign runs."""

    path: Path
    sha256: str
    """SHA-256 of the file, in hex."""
    campaign: CampaignSettings
    data: DataSettings
    scenarios: Mapping[Scenario, ScenarioSettings]
    groups: tuple[Group, ...]
    nodes: NodeSettings | None
    """None: the campaign starts its own workers on this machine."""
    coordinator_flags: tuple[str, ...]
    """Flags of every run beside those that the campaign sets."""
    submission: SubmissionSettings | None
    """None: nothing is graded and no tree is laid out."""
    system: Mapping[str, str]
    """Fields of the system description that no program can know."""
    rehearsal: RehearsalSettings | None
    command_line: "NodeFlags"
    """Flags that took precedence over the plan."""

    @property
    def is_strict(self) -> bool:
        """Whether whatever could not be submitted is refused."""
        return self.rehearsal is None

    @property
    def kinds(self) -> tuple[RunKind, ...]:
        """Runs of each scenario, in their order."""
        chosen = tuple(RunKind) if self.rehearsal is None else self.rehearsal.runs
        return tuple(kind for kind in RunKind if kind in chosen)

    def error(self, entry: str, reason: str) -> PlanError:
        """Compose a refusal of one entry."""
        return PlanError(self.path, entry, reason)


class NodeFlags(NamedTuple):
    """Flags of the command line that take precedence over the plan."""

    workers: tuple[str, ...] = ()
    """Addresses instead of those of [nodes]."""
    run_token_file: Path | None = None


def read_plan(path: Path, given: NodeFlags) -> CampaignPlan:
    """Read and check a plan.

    Raises:
        FlagError: Names file and entry: not readable, not TOML, an unknown or missing key, or a bad value.
    """
    content, tables = _read(path)
    reader = PlanReader(path, tables)
    reader.check_tables(TABLES)
    scenarios = {
        scenario: reader.settings(ScenarioSettings, str(scenario))
        for scenario in Scenario
        if reader.has(scenario)
    }
    rehearsal = reader.optional(RehearsalSettings, "rehearsal")
    submission = reader.optional(SubmissionSettings, "submission")
    if submission is None and rehearsal is None:
        raise reader.error("[submission]", "missing; only a plan with [rehearsal] may do without")
    if submission is not None and rehearsal is not None and not rehearsal.has_official_runs:
        raise reader.error("[rehearsal]", "max-samples and runs exclude the table [submission]")
    _check_scenarios(reader, scenarios, submission)
    nodes = _read_nodes(reader, given)
    return CampaignPlan(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        campaign=reader.settings(CampaignSettings, "campaign"),
        data=reader.settings(DataSettings, "data"),
        scenarios=scenarios,
        groups=read_groups(reader, tuple(scenarios), nodes),
        nodes=nodes,
        coordinator_flags=_read_coordinator_flags(reader, given),
        submission=submission,
        system=reader.fields("system"),
        rehearsal=rehearsal,
        command_line=given,
    )


def _read(path: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        content = read_bounded(path, MAX_CONFIG_BYTES)
        return content, parse_toml(content.decode())
    except OSError as error:
        raise PlanError(path, "", str(error.strerror)) from error
    except ValueError as error:
        raise PlanError(path, "", f"is not TOML: {error}") from error


def _check_scenarios(
    reader: PlanReader, scenarios: Iterable[Scenario], submission: SubmissionSettings | None
) -> None:
    """Require the scenarios of a submission; a rehearsal may have fewer.

    Source: submission_checker/loader.py: Offline, and in closed and network Server or Interactive.
    """
    given = set(scenarios)
    if not given:
        raise reader.error("", "has none of the tables [offline], [server] and [interactive]")
    if submission is None:
        return
    if Scenario.OFFLINE not in given:
        raise reader.error("[offline]", "missing; every submission has Offline")
    if submission.division is not Division.OPEN and given == {Scenario.OFFLINE}:
        reason = f"missing, and [interactive] too; division {submission.division} needs one of them"
        raise reader.error("[server]", reason)


def _read_nodes(reader: PlanReader, given: NodeFlags) -> NodeSettings | None:
    nodes = reader.optional(NodeSettings, "nodes")
    if given.workers:
        return NodeSettings(addresses=given.workers, restart_command=nodes.restart_command if nodes else ())
    return nodes


def _read_coordinator_flags(reader: PlanReader, given: NodeFlags) -> tuple[str, ...]:
    table = reader.table("coordinator")
    known = [name for name in names(RunConfig) if name not in CAMPAIGN_SETS]
    for name in table:
        if name not in known:
            reason = (
                "cannot be set in a plan" if name in CAMPAIGN_SETS else f"unknown key{nearest(name, known)}"
            )
            raise reader.error(f"[coordinator] {name}", reason)
    if given.run_token_file is not None:
        table["run-token-file"] = str(given.run_token_file)
    return tuple(to_argv(join_lists(RunConfig, table)))
