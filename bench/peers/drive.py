"""`python -m bench.peers.drive TRANSPORT FLAGS`: run LoadGen over a peer's transport.

The flags are the coordinator's. LoadGen, data set, settings, reports (`sut`) and interpreter settings are the
product's; only the transport differs. The run writes LoadGen's files and a run.json with the number of
messages.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from functools import partial

from bench.flag_help import prints_usage
from bench.peers import grpc_stream, http_sse
from bench.peers.driver import Driver
from bench.peers.requests import RequestDriver
from bench.peers.zmq_msgspec import MessageDriver
from common.flags import FlagError
from coordinator.config import RunConfig, parse
from coordinator.interpreter import quiet_interpreter
from sut import dataset
from sut.dataset import Dataset
from sut.loadgen import LoadGenTest
from sut.loadgen_conf import NO_USER_CONF, USER_FLAG, read_conf
from sut.user_conf import compose_user_conf

DRIVERS: dict[str, Callable[[RunConfig, Dataset, int], Driver]] = {
    "grpc": partial(RequestDriver, make=grpc_stream.Client),
    "sse": partial(RequestDriver, make=http_sse.Client),
    "zmq-msgspec": MessageDriver,
}


async def run(config: RunConfig, transport: str) -> None:
    """Run one LoadGen test.

    Raises:
        ValueError: `sut` rejects an input.
        RuntimeError: LoadGen wrote no summary.
    """
    if config.max_new_tokens is None:
        raise FlagError("--max-new-tokens", "missing")
    data = dataset.load(config.input_file)
    user = NO_USER_CONF if config.user_conf is None else read_conf(USER_FLAG, config.user_conf)
    conf = compose_user_conf(
        user,
        scenario=config.scenario,
        mode=config.mode,
        num_samples=data.num_samples,
        target_qps=config.target_qps,
    )
    test = LoadGenTest(conf, config.scenario, config.mode)
    run_dir = config.run_dir(None)
    run_dir.mkdir(parents=True)
    driver = DRIVERS[transport](config, data, config.max_new_tokens)
    await driver.connect()
    quiet_interpreter()
    await asyncio.to_thread(test.run, data.num_samples, driver.sut.issue_queries, run_dir, None)
    driver.reports.close()
    await driver.settle()
    await driver.close()
    record = {"summary": {"num_messages": driver.num_messages}}
    (run_dir / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    if not prints_usage(sys.argv[1:], __doc__):
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        asyncio.run(run(parse(sys.argv[2:]), sys.argv[1]))
