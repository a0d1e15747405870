"""`python -m bench.peers.serve TRANSPORT --port P`: a counting engine behind a peer's transport."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from bench.flag_help import FlagFormatter
from bench.peers import grpc_stream, http_sse, zmq_msgspec
from bench.peers.streams import Streams
from common.flags import add_flags
from worker.engines.scripted.counting import CountingConfig, CountingEngine

Serve = Callable[[CountingEngine, int, int], Awaitable[None]]
"""Serves an engine at a port until killed; arguments: engine, tokens per message, port."""


def streamed(serve: Callable[[Streams, int], Awaitable[None]]) -> Serve:
    """Adapt a transport with one stream per request to Serve."""

    async def serve_engine(engine: CountingEngine, tokens_per_message: int, port: int) -> None:
        streams = Streams(engine, tokens_per_message)
        await asyncio.gather(streams.pump(), serve(streams, port))

    return serve_engine


SERVE: dict[str, Serve] = {
    "grpc": streamed(grpc_stream.serve),
    "sse": streamed(http_sse.serve),
    "zmq-msgspec": zmq_msgspec.serve,
}


async def main(argv: list[str]) -> None:
    """Serve until killed; an exception in the engine or server ends the process."""
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.peers.serve", allow_abbrev=False
    )
    parser.add_argument("transport", choices=list(SERVE), help="what carries the tokens")
    parser.add_argument("--port", type=int, required=True, help="TCP port")
    parser.add_argument(
        "--tokens-per-message", type=int, default=1, help="tokens of a request in one message, 1 or more"
    )
    add_flags(parser, CountingConfig)
    values = vars(parser.parse_args(argv))
    serve, port = SERVE[values.pop("transport")], values.pop("port")
    tokens_per_message = values.pop("tokens_per_message")
    await serve(CountingEngine(CountingConfig(**values)), tokens_per_message, port)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
