"""Choose ports that are still free when a worker restarts."""

import contextlib
import random
import socket
from pathlib import Path

FIRST_STEADY_PORT = 10_000
# Fewer ports than these are no choice for a node of many replicas beside other programs.
_MIN_STEADY_PORTS = 1000
_TRIES = 1000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def steady_port(rng: random.Random, num: int = 1) -> int:
    """Choose a random loopback port that is free and below the range of ephemeral ports.

    If that range leaves hardly any, as one from 1024 on does, any port from 10,000 on is chosen; a
    connection may then take it while its worker restarts.

    Args:
        rng: Source of random numbers.
        num: Number of consecutive free ports; the first is returned.

    Raises:
        ValueError: No free ports were found.

    Source: ip(7), ip_local_port_range: the range of ephemeral ports.
    """
    steady = range(FIRST_STEADY_PORT, int(EPHEMERAL_RANGE.read_text("ascii").split()[0]))
    ports = steady if len(steady) >= _MIN_STEADY_PORTS else range(FIRST_STEADY_PORT, 1 << 16)
    for _ in range(_TRIES):
        port = rng.choice(ports[: len(ports) - num + 1])
        if are_free(port, num):
            return port
    raise ValueError(f"no {num} consecutive free ports in {ports.start}..{ports.stop - 1}")


def are_free(port: int, num: int) -> bool:
    """Return whether consecutive loopback ports, of which this is the first, are free now."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as socks:
        for index in range(num):
            socks.enter_context(socket.socket()).bind(("127.0.0.1", port + index))
        return True
    return False
