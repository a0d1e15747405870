"""Log before a run which settings its files set, and why it is no submission run."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from coordinator.config import RunConfig
from coordinator.inputs import Confs, Inputs
from coordinator.transport.agreement import Served, held_prompts
from protos import worker_pb2 as pb
from sut.benchmark import BENCHMARK, ComplianceTest, Seeds
from sut.conf_effects import shared_rate, unused_lines, used_lines
from sut.dataset import Dataset
from sut.loadgen import LoadGenSettings
from sut.results.deviations import EngineReport, Setup, deviations_before_run, engine_deviations
from sut.run_length import RunLength, setting_number
from sut.settings import GenerationConfig, Mode, Scenario
from sut.user_conf import planned_qps

logger = logging.getLogger(__name__)

_NO_RATE = (
    "planned rate: LoadGen's default of 1 query/s; Offline is INVALID if it ends before min_duration: "
    "give the fleet's samples/s in --target-qps or --user-conf"
)


class DataFacts(NamedTuple):
    """Facts of the data set that decide whether a run may be submitted."""

    num_samples: int
    column_names: tuple[str, ...]
    rows_by_dataset: Mapping[str, int]

    @classmethod
    def of(cls, data: Dataset) -> "DataFacts":
        """Describe a data set."""
        return cls(data.num_samples, data.column_names, data.rows_by_dataset)

    @classmethod
    def official(cls, mode: Mode, test: ComplianceTest | None) -> "DataFacts":
        """Describe the data set of a submission."""
        if mode is Mode.ACCURACY:
            rows = BENCHMARK.accuracy_rows
            return cls(BENCHMARK.accuracy_sample_count, BENCHMARK.grading_columns, rows)
        num_samples = BENCHMARK.performance_sample_count if test is None else test.num_samples
        return cls(num_samples, BENCHMARK.grading_columns, {})


class ConfReport(NamedTuple):
    """What a run takes from its user.conf and audit.config."""

    flag: str
    used: str
    warnings: tuple[str, ...]
    """Lines without effect, or with an effect that the user may not expect."""


def report_confs(config: RunConfig, confs: Confs) -> list[ConfReport]:
    """Report the settings and the lines without effect of each file that the run has."""
    given = [*([] if config.user_conf is None else [confs.user]), *confs.audits]
    reports = []
    for conf in given:
        unused = map(str, unused_lines(conf, config.scenario, config.target_qps))
        shared = shared_rate(conf, config.scenario, config.target_qps) if conf is confs.user else None
        warnings = (*unused, *([] if shared is None else [shared]))
        built_in = conf is confs.audit and config.compliance is not None
        flag = f"--compliance {config.compliance}" if built_in else conf.flag
        reports.append(ConfReport(flag, used_lines(conf, config.scenario), warnings))
    return reports


def announce(config: RunConfig, inputs: Inputs) -> None:
    """Log what the run takes from its files, and why it is no submission run as far as they show it.

    Call it before LoadGenTest is created: see LoadGenSettings.read.
    """
    for flag, used, warnings in report_confs(config, inputs.confs):
        logger.info("%s %s", flag, used)
        for text in warnings:
            logger.warning("%s, %s", flag, text)
    if planned := planned_qps(inputs.confs.user, config.scenario, config.target_qps):
        logger.info("planned rate: %g queries/s (%s)", *planned)
    elif config.mode is Mode.PERFORMANCE and not inputs.confs.audits:
        logger.warning(_NO_RATE)
    settings = LoadGenSettings.read(inputs.user_conf, inputs.audit_conf, config.scenario)
    if short := too_short(config, settings):
        logger.warning("%s", short)
    setup = build_setup(config, inputs, (), settings.seeds)
    _warn(deviations_before_run(settings.logged, setup))


def too_short(config: RunConfig, settings: LoadGenSettings) -> str | None:
    """Return why LoadGen cannot call the run VALID, whatever its latencies; None if it can.

    Early stopping decides performance runs of Server alone.
    """
    if config.mode is not Mode.PERFORMANCE or config.scenario is Scenario.OFFLINE:
        return None
    return RunLength.of(settings.logged).too_short(setting_number(settings.logged, "effective_target_qps"))


def warn_of_engines(scenario: Scenario, workers: Sequence[Served], setup: Setup) -> None:
    """Log each deviation from a submission run that the workers make known, and what their flags add to TTFT.

    Args:
        scenario: Of the run; Offline has no limit of TTFT.
        workers: The workers of the run.
        setup: Facts of the run.
    """
    _warn(engine_deviations(setup))
    if scenario is not Scenario.OFFLINE:
        for text in held_prompts(workers):
            logger.warning("%s", text)


def _warn(deviations: Iterable[str]) -> None:
    for text in deviations:
        logger.warning("no submission run: %s", text)


def build_setup(
    config: RunConfig, inputs: Inputs, workers: Iterable[tuple[str, pb.WorkerInfo]], seeds: Seeds
) -> Setup:
    """Collect the facts that decide whether a run may be submitted.

    Args:
        config: The run's flags.
        inputs: The run's files.
        workers: Address and WorkerInfo of each worker; once per stream, if it has opened any.
        seeds: LoadGen's seeds.
    """
    facts = DataFacts.of(inputs.dataset)
    return compose_setup(config, inputs.generation, inputs.confs.audit_values, facts, workers, seeds)


def compose_setup(
    config: RunConfig,
    generation: GenerationConfig,
    audit_config: Mapping[str, str] | None,
    data: DataFacts,
    workers: Iterable[tuple[str, pb.WorkerInfo]],
    seeds: Seeds,
) -> Setup:
    """Collect the same facts where the data set may be unknown.

    Args:
        config: The run's flags.
        generation: The run's sampling.
        audit_config: Values of the audit.config by key; None without one.
        data: Facts of the data set.
        workers: Address and WorkerInfo of each worker.
        seeds: LoadGen's seeds.
    """
    return Setup(
        scenario=config.scenario,
        mode=config.mode,
        **data._asdict(),
        generation=generation,
        audit_config=audit_config,
        engines=tuple(
            EngineReport(
                address,
                info.engine,
                info.engine_args,
                tuple(info.stop_token_ids),
                info.execution_facts,
                info.engine_facts,
            )
            for address, info in workers
        ),
        seeds=seeds,
        random_weights=config.random_weights,
    )
