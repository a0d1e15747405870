"""Deviations from a submission run that are known before the run starts."""

import logging
from collections.abc import Iterable

from coordinator.config import RunConfig
from coordinator.inputs import Inputs
from protos import worker_pb2 as pb
from sut.benchmark import Seeds
from sut.loadgen import LoadGenSettings
from sut.results.deviations import EngineReport, Setup, deviations_before_run

logger = logging.getLogger(__name__)


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
    return Setup(
        scenario=config.scenario,
        mode=config.mode,
        num_samples=inputs.dataset.num_samples,
        column_names=inputs.dataset.column_names,
        rows_by_dataset=inputs.dataset.rows_by_dataset,
        num_equal_prompts=_num_equal_prompts(inputs),
        generation=inputs.generation,
        audit_config=inputs.audit_conf,
        engines=tuple(
            EngineReport(address, info.engine, info.engine_args, tuple(info.stop_token_ids))
            for address, info in workers
        ),
        seeds=seeds,
        random_weights=config.random_weights,
    )


def _num_equal_prompts(inputs: Inputs) -> int:
    """Count samples whose prompt equals an earlier one and gets the same answer: greedy, or with one seed."""
    if inputs.generation.temperature and inputs.generation.seed is None:
        return 0
    data = inputs.dataset
    return data.num_samples - len({data.prompt(row).tobytes() for row in range(data.num_samples)})


def warn_before_run(settings: LoadGenSettings, setup: Setup) -> None:
    """Log each deviation from a submission run that is already known."""
    for text in deviations_before_run(settings.logged, setup):
        logger.warning("no submission run: %s", text)
