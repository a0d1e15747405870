"""Computes the model hash while an engine loads the model."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from worker.engines.model.model_hash import ModelHash


class HashTask:
    """One hash in a thread, which `close` stops; the event loop is not blocked."""

    def __init__(
        self,
        hash_model: Callable[[threading.Event], ModelHash],
        downloaded: asyncio.Future[Any] | None = None,
    ) -> None:
        """Start it.

        Args:
            hash_model: Computes the hash; the event stops it.
            downloaded: Done when the files are on this machine; None: they are.
        """
        self._stop = threading.Event()
        self._task = asyncio.create_task(self._hash(hash_model, downloaded))
        self._task.add_done_callback(_retrieve_exception)

    async def result(self) -> ModelHash:
        """Wait for the hash.

        Raises:
            FlagError: A file is missing, cannot be read or is malformed.
        """
        return await self._task

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._task.cancel()

    async def _hash(
        self, hash_model: Callable[[threading.Event], ModelHash], downloaded: asyncio.Future[Any] | None
    ) -> ModelHash:
        if downloaded is not None:
            await asyncio.shield(downloaded)
        return await asyncio.to_thread(hash_model, self._stop)


def _retrieve_exception(ended: asyncio.Task[ModelHash]) -> None:
    """Mark a task's exception as retrieved, so that asyncio does not log it if the load has failed first."""
    if not ended.cancelled():
        ended.exception()
