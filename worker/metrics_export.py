"""Export of metrics: a worker and a node serve them at --metrics-port, a replica passes them to its node."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from common.flags import FlagError
from common.metrics import Readings, to_message
from common.metrics_port import bind_metrics_port, server_context
from common.shared_readings import SharedReadings
from worker.config import BadInput, WorkerConfig
from worker.machine.life_signs import SHARED_FD
from worker.machine.parent_death import is_replica
from worker.worker_metrics import WORKER_METRICS

INTERVAL_S = 1.0
Read = Callable[[], Readings]
Publish = Callable[[Readings], None]


@contextlib.asynccontextmanager
async def exporting(config: WorkerConfig, read: Read) -> AsyncIterator[None]:
    """Export the metrics of a worker or a node inside a `with` block, if --metrics-port is given.

    Args:
        config: The flags of the worker or node.
        read: Reads WORKER_METRICS, once a second, on the event loop.

    Raises:
        BadInput: The port cannot be bound.
    """
    if config.metrics_port is None:
        yield
        return
    with _to_node() if is_replica() else _serving(config) as publish:
        publishing = asyncio.ensure_future(_publish(read, publish))
        try:
            yield
        finally:
            publishing.cancel()


async def _publish(read: Read, publish: Publish) -> None:
    while True:
        publish(read())
        await asyncio.sleep(INTERVAL_S)


@contextlib.contextmanager
def _to_node() -> Iterator[Publish]:
    """Yield a function that passes readings to this replica's node."""
    with SharedReadings(int(os.environ[SHARED_FD])) as shared:
        yield lambda readings: shared.write(to_message(readings))


@contextlib.contextmanager
def _serving(config: WorkerConfig) -> Iterator[Publish]:
    """Serve inside a `with` block the readings last given to the function that this yields.

    Raises:
        BadInput: The port cannot be bound.
    """
    from common.metrics_endpoint import MetricsEndpoint, families

    assert config.metrics_port is not None
    latest: deque[Readings] = deque([{}], maxlen=1)
    try:
        tls = server_context(config.tls_cert, config.tls_key, config.tls_ca)
        listening = bind_metrics_port(config.metrics_host, config.metrics_port)
    except FlagError as error:
        raise BadInput(error) from error
    with MetricsEndpoint(listening, lambda: families(WORKER_METRICS, latest[0]), tls):
        yield latest.append
