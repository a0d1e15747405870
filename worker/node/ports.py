"""Ports that a worker can come back to."""

import contextlib
import random
import socket
from pathlib import Path

FIRST_STEADY_PORT = 10_000
_TRIES = 1000


def steady_port(rng: random.Random, num: int = 1) -> int:
    """Draw a port of loopback that is free now and that no connection is ever given.

    Args:
        rng: Draws it.
        num: That many in a row must be free; the first is returned.

    Raises:
        ValueError: So many are not to be had.

    Source: ip(7), ip_local_port_range: where connections get their own ports from.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    for _ in range(_TRIES):
        port = rng.randrange(FIRST_STEADY_PORT, first - num + 1)
        with contextlib.suppress(OSError), contextlib.ExitStack() as socks:
            for index in range(num):
                socks.enter_context(socket.socket()).bind(("127.0.0.1", port + index))
            return port
    raise ValueError(f"no {num} free ports in a row in {FIRST_STEADY_PORT}..{first - 1}")
