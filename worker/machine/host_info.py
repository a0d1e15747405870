"""The machine under a worker or a node, looked at for whoever asks."""

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from common.host_facts import read_disk_space, read_host_facts
from protos import worker_pb2 as pb
from worker.machine.nvml import look_at_accelerators

logger = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 5.0
"""A driver or a mount that hangs holds an answer up for so long."""


class Host:
    """One for the process; on the event loop of its server."""

    def __init__(self) -> None:
        """Look at nothing yet."""
        self._look: Future[pb.HostInfo] | None = None

    async def describe(self) -> pb.HostInfo:
        """Answer GetHost; takes at most about LOOK_TIMEOUT_S, and leaves out what has not been seen by then.

        One look at a time: behind one that hangs no second one is begun.
        """
        received_ns = time.monotonic_ns()
        if self._look is None or self._look.done():
            self._look = _begin_look()
        look = asyncio.wrap_future(self._look)
        # A failure that comes after the answer has been logged where it happened.
        look.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({look}, timeout=LOOK_TIMEOUT_S)
        host = pb.HostInfo(**read_host_facts()._asdict())
        if look.done():
            host.MergeFrom(look.result())
        else:
            host.not_told.append(f"disks and accelerators: no answer within {LOOK_TIMEOUT_S:g} s")
        host.received_ns, host.answered_ns, host.wall_ns = received_ns, time.monotonic_ns(), time.time_ns()
        return host


def hugging_face_cache(home: Path) -> Path:
    """Find where models are downloaded to, as huggingface_hub does.

    Args:
        home: The user's.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    hub = Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"
    return Path(os.environ.get("HF_HUB_CACHE", hub)).expanduser()


def _begin_look() -> "Future[pb.HostInfo]":
    """Look on a thread that nobody waits for at the end, unlike those of asyncio.to_thread."""
    look: Future[pb.HostInfo] = Future()

    def run() -> None:
        try:
            look.set_result(_look())
        except Exception as error:
            logger.exception("looking at the host")
            look.set_exception(error)

    threading.Thread(target=run, name="host", daemon=True).start()
    return look


def _look() -> pb.HostInfo:
    """Look at what may take long."""
    host = pb.HostInfo()
    places = {"working directory": Path.cwd(), "Hugging Face cache": hugging_face_cache(Path.home())}
    for purpose, path in places.items():
        try:
            host.disks.append(pb.Disk(**read_disk_space(purpose, path)._asdict()))
        except OSError as error:
            host.not_told.append(f"{purpose}: {error}")
    look_at_accelerators(host)
    return host
