"""The addresses that --host stands for, each checked before gRPC listens on it.

gRPC accepts a name if one of its addresses can be bound. Clients that use another of them would then reach a
different server, or none.
"""

import errno
import logging
import socket
from contextlib import suppress

from common.flags import FlagError

logger = logging.getLogger(__name__)

_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def listen_addresses(host: str, port: int) -> list[str]:
    """Return host:port for every address of a host, after checking that each can be bound.

    Args:
        host: A name, or an IPv4 or IPv6 address with or without brackets.
        port: TCP port.

    Raises:
        FlagError: The name is unknown, or one of its addresses is in use, or is not of this machine.
    """
    found = [
        (family, address)
        for family, address in _resolve(host.strip("[]"), port)
        if address == host.strip("[]") or _is_usable(family)
    ]
    if not found:
        raise FlagError("--host", f"{host} has no address of a protocol that this machine supports")
    for family, address in found:
        _check_bindable(host, family, address, port)
    return [_join(address, port) for _, address in found]


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    if host == "localhost":
        # As gRPC's clients resolve it, whatever /etc/hosts lists.
        return list(_LOOPBACK.items())
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid name"
        raise FlagError("--host", f"{host!r} cannot be resolved: {reason}") from error
    return list(dict.fromkeys((family, str(address[0])) for family, *_, address in infos))


def _is_usable(family: socket.AddressFamily) -> bool:
    """Return whether this machine supports an address family; IPv6 may be disabled."""
    with suppress(OSError), socket.socket(family) as sock:
        sock.bind((_LOOPBACK[family], 0))
        return True
    logger.info("not listening on %s addresses: this machine does not support them", family.name)
    return False


def _check_bindable(host: str, family: socket.AddressFamily, address: str, port: int) -> None:
    """Bind an address for a moment.

    Raises:
        FlagError: Names the address and the reason.
    """
    shown = _join(address, port)
    try:
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6 and address == "::":
                # gRPC listens on :: for both protocols.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # getaddrinfo restores the zone of a link-local address.
            sock.bind(socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise FlagError("--port", f"cannot listen on {shown}, is it in use?") from error
        if error.errno == errno.EADDRNOTAVAIL:
            name = host if host.strip("[]") == address else f"{host} is {address}, which"
            raise FlagError("--host", f"{name} is not an address of this machine") from error
        raise FlagError("--port", f"cannot listen on {shown}: {error.strerror}") from error


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
