"""`python -m bench.fleet.simulated`: many simulated workers in one process, for fleets on few cores.

Each worker has a separate port, gRPC server and engine; all share one event loop. Streams and frames
are real. The process prints `ready` once all workers are SERVING and ends on SIGTERM or SIGINT; Processes
(processes.py) ends it with the benchmark that started it. Exit codes: 0 stopped, 2 bad input.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from typing import NamedTuple

from bench.command import say
from bench.flag_help import FlagFormatter
from common.flags import FlagError, Parser
from worker.config import BadInput, EngineKind, WorkerConfig
from worker.engine_protocol import Step
from worker.engines.scripted.simulated import SimulatedConfig, SimulatedEngine, parse_engine_flags
from worker.outbox import merge
from worker.server import Server

MAX_PORT = 65_535


class Fleet(NamedTuple):
    """The parsed command line."""

    workers: list[WorkerConfig]
    engine: SimulatedConfig
    """Configuration of each engine."""
    kind: type[SimulatedEngine]


class WholeAnswers(SimulatedEngine):
    """Engine that returns a request's whole answer in the step that completes its prefill."""

    async def step(self) -> Step:
        """Run the first step, and at its end all following steps."""
        steps = [(await super().step()).columns]
        while len(self._running):
            steps.append(self._running.step().columns)
        return Step(merge(steps), urgent=True)


def parse(argv: list[str]) -> Fleet:
    """Parse the command line; flags unknown here belong to worker/engines/scripted/simulated.py.

    Raises:
        FlagError: Names flag, value and bound.
    """
    parser = Parser(
        formatter_class=FlagFormatter,
        description=__doc__,
        prog="python -m bench.fleet.simulated",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=int, default=72, help="number of workers, 1 or more")
    parser.add_argument("--port-base", type=int, required=True, help="first worker's port; the others follow")
    parser.add_argument(
        "--frame-hold-ms",
        type=float,
        default=WorkerConfig().frame_hold_ms,
        help="as of `tokenfleet worker`",
    )
    parser.add_argument("--whole-answers", action="store_true", help="whole answer with first token")
    own, engine_argv = parser.parse_known_args(argv)
    kind = WholeAnswers if own.whole_answers else SimulatedEngine
    return Fleet(_workers(own), parse_engine_flags(engine_argv), kind)


def _workers(own: argparse.Namespace) -> list[WorkerConfig]:
    highest = MAX_PORT - own.workers + 1
    if own.workers < 1:
        raise FlagError("--workers", f"{own.workers} is below 1")
    if not 1 <= own.port_base <= highest:
        raise FlagError("--port-base", f"{own.port_base} is not in 1..{highest} for {own.workers} workers")
    return [
        WorkerConfig(
            engine=EngineKind.SIMULATED,
            port=own.port_base + index,
            frame_hold_ms=own.frame_hold_ms,
            drain_timeout_s=0.0,
        )
        for index in range(own.workers)
    ]


async def serve(fleet: Fleet) -> None:
    """Serve until a signal.

    Raises:
        BadInput: A port cannot be bound.
    """
    servers = [Server(config, fleet.kind(fleet.engine)) for config in fleet.workers]

    def stop() -> None:
        for server in servers:
            server.stop()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop)
    serving = [asyncio.ensure_future(server.serve()) for server in servers]
    saying = asyncio.ensure_future(_say_ready(servers))
    try:
        await asyncio.gather(*serving)
    finally:
        saying.cancel()
        stop()
        await asyncio.gather(*serving, return_exceptions=True)


async def _say_ready(servers: list[Server]) -> None:
    for server in servers:
        await server.serving.wait()
    gc.collect()
    gc.freeze()
    say("ready")


def main(argv: list[str]) -> int:
    """Run the fleet and return its exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        asyncio.run(serve(parse(argv)))
    except (BadInput, ValueError) as error:
        sys.stderr.write(f"bench.fleet.simulated: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
