"""Choose ports that are still free when a worker restarts."""

import contextlib
import random
import socket
from pathlib import Path

FIRST_STEADY_PORT = 10_000
_TRIES = 1000


def steady_port(rng: random.Random, num: int = 1) -> int:
    """Choose a random loopback port that is free and outside the range of ephemeral ports.

    Args:
        rng: Source of random numbers.
        num: Number of consecutive free ports; the first is returned.

    Raises:
        ValueError: No free ports were found.

    Source: ip(7), ip_local_port_range: the range of ephemeral ports.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    for _ in range(_TRIES):
        port = rng.randrange(FIRST_STEADY_PORT, first - num + 1)
        with contextlib.suppress(OSError), contextlib.ExitStack() as socks:
            for index in range(num):
                socks.enter_context(socket.socket()).bind(("127.0.0.1", port + index))
            return port
    raise ValueError(f"no {num} consecutive free ports in {FIRST_STEADY_PORT}..{first - 1}")
