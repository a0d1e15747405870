"""The runs of a plan: flags, data set and directory of each, and what decides its result."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from coordinator.config import RunConfig, parse
from coordinator.inputs import Inputs
from sut.benchmark import BENCHMARK
from sut.loadgen import OFFLINE_SLACK
from sut.results.submission.recorded_runs import RunKind
from sut.settings import Scenario
from tokenfleet.campaign.plan_file import CampaignPlan
from tokenfleet.campaign.plan_groups import Group
from tokenfleet.campaign.plan_settings import RehearsalSettings

# Takes the place of addresses that are not known before the workers have started.
NO_ADDRESS = "127.0.0.1:1"


class PlannedRun(NamedTuple):
    """One LoadGen test of a campaign."""

    scenario: Scenario
    kind: RunKind
    group: Group
    flags: tuple[str, ...]
    """Of `tokenfleet run`, without --workers and --output-dir."""
    run_dir: Path

    @property
    def name(self) -> str:
        """Scenario and kind."""
        return f"{self.scenario} {self.kind}"

    @property
    def output_dir(self) -> Path:
        """Value of --output-dir."""
        return self.run_dir.parent.parent

    @property
    def elsewhere(self) -> Path:
        """An output directory that never exists, for checks that refuse one that does."""
        return self.output_dir / ".not-created"

    def argv(self, addresses: tuple[str, ...]) -> list[str]:
        """Compose the flags of the run over these workers."""
        places = [f"--workers={','.join(addresses)}", f"--output-dir={self.output_dir}"]
        return [*self.flags, *places]

    def config(self, addresses: tuple[str, ...] = (NO_ADDRESS,)) -> RunConfig:
        """Return the configuration of the run over these workers.

        Raises:
            ValueError: Names flag, value and bound.
        """
        return parse(self.argv(addresses))

    def read_inputs(self) -> Inputs:
        """Read the run's files, also if its directory exists.

        Raises:
            ValueError: Names flag or file, value and bound.
        """
        return Inputs.read(dataclasses.replace(self.config(), output_dir=self.elsewhere))


class RunIdentity(NamedTuple):
    """What decides the result of a run beside its workers and the code: contents, never paths."""

    dataset_sha256: str
    generation: Mapping[str, object]
    """Sampling parameters."""
    user_conf: str
    audit_config: str | None

    @classmethod
    def of(cls, run: PlannedRun, inputs: Inputs) -> "RunIdentity":
        """Describe a run that has not begun."""
        return cls(
            inputs.dataset.sha256,
            dataclasses.asdict(inputs.generation),
            decisive_conf(run.scenario, run.kind, inputs.user_conf),
            inputs.audit_conf,
        )

    def differences(self, other: "RunIdentity") -> list[str]:
        """Name what differs."""
        labels = ("data set", "sampling", "user.conf", "audit.config")
        pairs = zip(labels, self, other, strict=True)
        return [name for name, mine, others in pairs if mine != others]


def decisive_conf(scenario: Scenario, kind: RunKind, user_conf: str) -> str:
    """Return a user.conf without what has no effect on the result.

    The rate decides neither an answer nor, where all samples are issued at once, anything else: another rate
    for the performance run then leaves accuracy and compliance runs as they are.
    """
    if kind is RunKind.PERFORMANCE or (scenario is not Scenario.OFFLINE and kind is not RunKind.ACCURACY):
        return user_conf
    lines = user_conf.splitlines(keepends=True)
    return "".join(line for line in lines if ".target_qps" not in line and "--target-qps" not in line)


def plan_runs(plan: CampaignPlan) -> list[PlannedRun]:
    """List the runs of a plan in their order: group by group, scenario by scenario."""
    return [
        PlannedRun(
            scenario,
            kind,
            group,
            _compose_flags(plan, scenario, kind),
            plan.campaign.output_dir / scenario / kind,
        )
        for group in plan.groups
        for scenario in group.scenarios
        for kind in plan.kinds
    ]


def _compose_flags(plan: CampaignPlan, scenario: Scenario, kind: RunKind) -> tuple[str, ...]:
    settings = plan.scenarios[scenario]
    flags = [
        *plan.coordinator_flags,
        f"--scenario={scenario}",
        f"--input-file={input_file(plan, kind)}",
        f"--target-qps={settings.target_qps!r}",
    ]
    if kind is RunKind.ACCURACY:
        flags.append("--accuracy")
    elif kind is not RunKind.PERFORMANCE:
        flags.append(f"--compliance={kind}")
    if plan.rehearsal is None or plan.rehearsal.min_duration_s is None:
        flags += [f"--user-conf={settings.user_conf}"] if settings.user_conf else []
    else:
        flags.append(f"--user-conf={rehearsal_conf(plan, scenario)}")
    return (*flags, *([] if plan.rehearsal is None else _rehearsal_flags(plan, plan.rehearsal, kind)))


def _rehearsal_flags(plan: CampaignPlan, settings: RehearsalSettings, kind: RunKind) -> list[str]:
    flags = ["--ungraded"] if plan.submission is None else []
    if settings.max_new_tokens is not None:
        flags.append(f"--max-new-tokens={settings.max_new_tokens}")
    # A compliance test requires its whole data set.
    if settings.max_samples is not None and kind in (RunKind.PERFORMANCE, RunKind.ACCURACY):
        flags.append(f"--max-samples={settings.max_samples}")
    return flags


def rehearsal_conf(plan: CampaignPlan, scenario: Scenario) -> Path:
    """Return the user.conf of a scenario in a rehearsal."""
    return plan.campaign.output_dir / f"rehearsal-{scenario}.conf"


def rehearsal_conf_text(plan: CampaignPlan, scenario: Scenario) -> str:
    """Compose the user.conf of a scenario in a rehearsal: the plan's, with another duration.

    Raises:
        PlanError: The plan's user.conf cannot be read.
    """
    assert plan.rehearsal is not None
    assert plan.rehearsal.min_duration_s is not None
    own = plan.scenarios[scenario].user_conf
    try:
        text = "" if own is None else own.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise plan.error(f"[{scenario}] user-conf", f"{own}: {error}") from error
    prefix = f"{scenario.model_name}.{scenario.loadgen_name}"
    return f"{text}\n{prefix}.min_duration = {round(plan.rehearsal.min_duration_s * 1000)}\n"


def input_file(plan: CampaignPlan, kind: RunKind) -> Path:
    """Return the data set of a run."""
    if kind is RunKind.ACCURACY:
        return plan.data.accuracy
    return plan.data.compliance if kind is RunKind.TEST07 else plan.data.performance


def planned_samples(plan: CampaignPlan, run: PlannedRun) -> int | None:
    """Return the number of samples that LoadGen will issue; None in a rehearsal of short runs.

    Source: loadgen/test_settings_internal.cc and loadgen.cc: whole multiples of the performance sample count.
    """
    if plan.rehearsal is not None and plan.rehearsal != RehearsalSettings():
        return None
    if run.kind is RunKind.ACCURACY:
        return BENCHMARK.accuracy_sample_count
    if run.kind is not RunKind.PERFORMANCE:
        return next(test.num_samples for test in BENCHMARK.compliance_tests if test.name == run.kind)
    slack = OFFLINE_SLACK if run.scenario is Scenario.OFFLINE else 1.0
    needed = slack * BENCHMARK.min_duration_ms / 1000 * plan.scenarios[run.scenario].target_qps
    block = BENCHMARK.performance_sample_count
    return block * max(1, math.ceil(needed / block))


def expected_duration_s(plan: CampaignPlan, run: PlannedRun) -> float | None:
    """Estimate the duration of a run from the plan's rate; None in a rehearsal of short runs.

    The rate gives the tokens per second, by the mean answer length of the performance data set.
    """
    num_samples = planned_samples(plan, run)
    if num_samples is None:
        return None
    qps = plan.scenarios[run.scenario].target_qps
    if run.kind not in (RunKind.ACCURACY, RunKind.TEST07):
        return num_samples / qps
    return num_samples * BENCHMARK.mean_accuracy_answer_len / (qps * BENCHMARK.mean_answer_len)
