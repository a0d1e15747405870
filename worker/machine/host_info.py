"""Facts about the machine of a worker or node, read when GetHost is called."""

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from common.host_facts import read_disk_space, read_host_facts
from common.source_commit import read_commit
from protos import worker_pb2 as pb
from worker.machine.hardware import read_hardware
from worker.machine.nvml import add_accelerators

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 5.0
"""Longest time that a hanging driver or mount delays an answer."""


class HostInspector:
    """Answers GetHost; one per process, used on the server's event loop."""

    def __init__(self) -> None:
        self._reading: Future[pb.HostInfo] | None = None
        self._commit = read_commit()

    async def read(self) -> pb.HostInfo:
        """Read the host's facts within about READ_TIMEOUT_S; facts not read by then are left out.

        At most one thread reads disks and accelerators: while it hangs, later calls wait for the same one.
        """
        received_ns = time.monotonic_ns()
        if self._reading is None or self._reading.done():
            self._reading = _start_reading()
        reading = asyncio.wrap_future(self._reading)
        # The thread logs its failure; asyncio must not log it again if it comes after the answer.
        reading.add_done_callback(_retrieve_exception)
        await asyncio.wait({reading}, timeout=READ_TIMEOUT_S)
        host = pb.HostInfo(received_ns=received_ns, commit=self._commit, **read_host_facts()._asdict())
        if reading.done():
            host.MergeFrom(reading.result())
        else:
            host.not_told.append(f"hardware, disks and accelerators: no answer within {READ_TIMEOUT_S:g} s")
        host.MergeFrom(pb.HostInfo(answered_ns=time.monotonic_ns(), wall_ns=time.time_ns()))
        return host


def hugging_face_cache(home: Path) -> Path:
    """Return the directory that models are downloaded to, by the rules of huggingface_hub.

    Args:
        home: The user's home directory.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    hub = Path(os.environ.get("HF_HOME", cache / "huggingface")) / "hub"
    return Path(os.environ.get("HF_HUB_CACHE", hub)).expanduser()


def _start_reading() -> "Future[pb.HostInfo]":
    """Read on a daemon thread: threads of asyncio.to_thread are joined at exit, and this one may hang."""
    reading: Future[pb.HostInfo] = Future()

    def run() -> None:
        try:
            reading.set_result(_read_slow_facts())
        except Exception as error:
            logger.exception("reading host facts")
            reading.set_exception(error)

    threading.Thread(target=run, name="host", daemon=True).start()
    return reading


def _retrieve_exception(ended: "asyncio.Future[pb.HostInfo]") -> None:
    if not ended.cancelled():
        ended.exception()


def _read_slow_facts() -> pb.HostInfo:
    """Read hardware, disk space and accelerators, which may hang."""
    host = pb.HostInfo(hardware=read_hardware())
    places = {"working directory": Path.cwd(), "Hugging Face cache": hugging_face_cache(Path.home())}
    for purpose, path in places.items():
        try:
            host.disks.append(pb.Disk(**read_disk_space(purpose, path)._asdict()))
        except OSError as error:
            host.not_told.append(f"{purpose}: {error}")
    add_accelerators(host)
    return host
