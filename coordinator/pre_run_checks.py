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
        generation=inputs.generation,
        audit_config=inputs.audit_conf,
        engines=tuple(EngineReport(address, info.engine, info.engine_args) for address, info in workers),
        seeds=seeds,
    )


def warn_before_run(settings: LoadGenSettings, setup: Setup) -> None:
    """Log each deviation from a submission run that is already known."""
    for text in deviations_before_run(settings.logged, setup):
        logger.warning("no submission run: %s", text)
