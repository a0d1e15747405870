"""Readings of metrics in memory that two processes share: one writes the latest, the other reads them."""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import xxhash

from common.metrics import Metric, Readings, from_message

# Length and digest of the message behind them.
_HEADER = struct.Struct("<QQ")
_MAX_BYTES = 64 << 20
_TRIES = 5


class SharedReadings:
    """One message in a file in memory; neither side waits for the other. A context manager that closes it."""

    def __init__(self, fd: int) -> None:
        """Use a descriptor, inherited or from `create`."""
        self._fd = fd

    @classmethod
    def create(cls) -> Self:
        """Create an empty file in memory; give its descriptor to a child with `pass_fds`."""
        return cls(os.memfd_create("metrics"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def write(self, message: bytes) -> None:
        """Replace the message; one process writes."""
        os.pwrite(self._fd, _HEADER.pack(len(message), xxhash.xxh3_64_intdigest(message)) + message, 0)

    def read_metrics(self, metrics: Sequence[Metric]) -> Readings:
        """Return the readings of these metrics; empty without a message of readings."""
        with suppress(ValueError):
            return from_message(self.read(), metrics)
        return {}

    def read(self) -> bytes:
        """Return the message; empty without one, when closed, or if it was replaced during every try."""
        for _ in range(_TRIES if self._fd >= 0 else 0):
            header = os.pread(self._fd, _HEADER.size, 0)
            if len(header) < _HEADER.size:
                return b""
            length, digest = _HEADER.unpack(header)
            message = os.pread(self._fd, min(length, _MAX_BYTES), _HEADER.size)
            if xxhash.xxh3_64_intdigest(message) == digest:
                return message
        return b""
