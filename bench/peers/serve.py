"""`python -m bench.peers.serve grpc|sse --port P`: a counting engine behind a per-request transport."""

import argparse
import asyncio
import sys

from bench.peers import grpc_stream, http_sse
from bench.peers.streams import Streams
from worker.counting_engine import CountingConfig, CountingEngine, add_flags

SERVE = {"grpc": grpc_stream.serve, "sse": http_sse.serve}


async def main(argv: list[str]) -> None:
    """Serve until killed; an engine or server that fails ends the process."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.serve", allow_abbrev=False)
    parser.add_argument("transport", choices=list(SERVE))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens-per-message", type=int, default=1)
    add_flags(parser)
    values = vars(parser.parse_args(argv))
    serve, port = SERVE[values.pop("transport")], values.pop("port")
    tokens_per_message = values.pop("tokens_per_message")
    streams = Streams(CountingEngine(CountingConfig(**values)), tokens_per_message)
    await asyncio.gather(streams.pump(), serve(streams, port))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
