"""HTTP server-sent events with aiohttp at both ends, like the reference SUT with an OpenAI-compatible server.

Each event is a JSON object with those fields of vLLM's completion chunks that carry tokens.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
from aiohttp import web

from bench.peers.streams import Chunk, Streams
from protos.columns import TokenIds

PATH = "/v1/completions"
BACKLOG = 4096
DATA, DONE = b"data: ", b"data: [DONE]\n"


async def serve(streams: Streams, port: int) -> None:
    """Serve until killed."""

    async def completions(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        prompt = np.array(body["prompt"], np.int32)
        async for chunk in streams.generate(prompt, body["max_tokens"]):
            await response.write(DATA + json.dumps(_event(chunk)).encode() + b"\n\n")
        await response.write(DONE + b"\n")
        return response

    app = web.Application()
    app.router.add_post(PATH, completions)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=BACKLOG).start()
    await asyncio.Event().wait()


def _event(chunk: Chunk) -> dict[str, object]:
    choice = {
        "index": 0,
        "text": "",
        "token_ids": chunk.tokens,
        "finish_reason": "stop" if chunk.finished else None,
    }
    return {
        "id": "cmpl-0",
        "object": "text_completion",
        "model": "counting",
        "choices": [choice],
    }


class Client:
    """A session to one server for the whole run, with one connection per request in flight."""

    def __init__(self, address: str) -> None:
        """Open the session; needs a running loop."""
        self._url = f"http://{address}{PATH}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )

    async def connect(self) -> None:
        """Do nothing: each request opens a connection."""

    async def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Send one request and yield its chunks."""
        body = {"model": "counting", "prompt": prompt.tolist(), "max_tokens": max_new_tokens, "stream": True}
        async with self._session.post(self._url, json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(DATA) and line != DONE:
                    event = json.loads(line[len(DATA) :])
                    choice = event["choices"][0]
                    finished = choice["finish_reason"] is not None
                    yield Chunk(choice["token_ids"], finished)

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
