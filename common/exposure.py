"""Refusal to serve plaintext on an address that other machines reach."""

import ipaddress

from common.flags import FlagError


def refuse_exposed(
    host: str, tls_flags: str, *, flag: str = "--host", insecure_flag: str = "--insecure"
) -> None:
    """Refuse to serve plaintext on an address that other machines reach.

    Args:
        host: Value of the flag.
        tls_flags: Names of the flags that enable TLS.
        flag: Name of the flag with the address.
        insecure_flag: Name of the flag that permits plaintext.

    Raises:
        FlagError: It is not a loopback address.
    """
    if not _is_loopback(host):
        reason = f"{host!r} is not a loopback address: give {tls_flags}, or {insecure_flag} for plaintext"
        raise FlagError(flag, reason)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # A name may resolve to any address.
        return False
