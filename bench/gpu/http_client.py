"""`python -m bench.gpu.http_client`: a client of `vllm serve` that sends requests as the reference SUT does.

One streamed POST /v1/completions per request with the prompt's token ids; one JSON chunk per token. Each line
of standard input names a plan file; the answer to it is written to standard output.
"""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from bench.flag_help import FlagFormatter
from bench.gpu.load import budgets_of
from bench.gpu.replay import answer_plans, take_output
from bench.peers.http_sse import DATA, DONE, PATH
from common.flags import Parser
from sut import dataset

MODEL = "bench"
"""Model name at the server."""


def main(argv: list[str]) -> int:
    """Answer plans until standard input ends."""
    parser = Parser(formatter_class=FlagFormatter, prog="python -m bench.gpu.http_client", allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="data set")
    parser.add_argument("--port", type=int, required=True, help="TCP port of the server")
    parser.add_argument("--temperature", type=float, required=True, help="sampling temperature")
    args = parser.parse_args(argv)
    answers = take_output()
    # One connection for each request in flight.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_serve(args.data, args.port, args.temperature, answers))
    return 0


async def _serve(path: Path, port: int, temperature: float, answers: int) -> None:
    data = dataset.load(path)
    prompts = [data.prompt(row).tolist() for row in range(data.num_samples)]
    budgets = budgets_of(data).tolist()
    url = f"http://127.0.0.1:{port}{PATH}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        # The first chunk of an answer repeats the prompt, and the limit of a line is twice this size.
        read_bufsize=1 << 20,
    ) as session:

        async def generate(sample: int) -> AsyncIterator[int]:
            body = {
                "model": MODEL,
                "prompt": prompts[sample],
                "max_tokens": budgets[sample],
                "temperature": temperature,
                "top_p": 1.0,
                "stream": True,
                "return_token_ids": True,
            }
            async with session.post(url, json=body) as response:
                response.raise_for_status()
                async for line in response.content:
                    if line.startswith(DATA) and line != DONE:
                        yield _num_tokens(json.loads(line[len(DATA) :]))

        await answer_plans(answers, generate, {})


def _num_tokens(event: dict[str, Any]) -> int:
    """Count the tokens of a chunk.

    Raises:
        RuntimeError: The chunk is an error message.
    """
    if "choices" not in event:
        raise RuntimeError(f"the server returned {event}")
    return sum(len(choice["token_ids"] or ()) for choice in event["choices"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
