"""Why a run will not be a submission run, as far as that is known before it starts."""

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
    """Collect what decides whether a run may be submitted.

    Args:
        config: The run's flags.
        inputs: The run's files.
        workers: Address and info of each worker.
        seeds: LoadGen's.
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
