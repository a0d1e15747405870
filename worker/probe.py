"""`tokenfleet probe [HOST:PORT] [SERVICE]`: query a worker's health once, for containers and scripts.

`python -m worker.probe` is the same program. HOST:PORT defaults to $WORKER_ADDRESS, else 127.0.0.1:50051.
If $WORKER_TLS_CA names a file, the probe uses TLS, with the client certificate $WORKER_TLS_CERT and its key
$WORKER_TLS_KEY, if set. SERVICE is a service name in gRPC's health protocol. On a node, the probe without
SERVICE succeeds if any replica serves; with tokenfleet.v1.Worker, if all do. Exit codes: 0 SERVING; 1 not
SERVING, with the reason in one line; 2 bad input.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.bounded_file import read_bounded

DEFAULT_ADDRESS = "127.0.0.1:50051"
TIMEOUT_S = 5.0
# The probe runs on the worker's host or network: no proxy is used.
OPTIONS = [("grpc.enable_http_proxy", 0)]


class ProbeAnswer(NamedTuple):
    """The answer of a health check."""

    is_serving: bool
    text: str
    """The serving status, or the gRPC error."""


def open_channel(env: Mapping[str, str]) -> grpc.Channel:
    """Create a channel to the worker that the environment variables specify.

    Raises:
        ValueError: Names the variable, the file and the error.
    """
    address = env["WORKER_ADDRESS"]
    ca, cert, key = (_read(f"WORKER_TLS_{name}", env) for name in ("CA", "CERT", "KEY"))
    if (cert is None) != (key is None):
        raise ValueError("WORKER_TLS_CERT and WORKER_TLS_KEY: each needs the other")
    if ca is None and cert is not None:
        raise ValueError("WORKER_TLS_CERT: needs WORKER_TLS_CA too: a certificate is only used over TLS")
    if ca is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options=OPTIONS)


def _read(variable: str, env: Mapping[str, str]) -> bytes | None:
    """Read the file that a variable names; None if the variable is unset or empty."""
    if not (name := env.get(variable)):
        return None
    try:
        return read_bounded(Path(name))
    except OSError as error:
        raise ValueError(f"{variable}: {name}: {error.strerror}") from error


def ask(channel: grpc.Channel, service: str) -> ProbeAnswer:
    """Query the health of a service once."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        return ProbeAnswer(False, f"{error.code().name}: {error.details()}")
    kinds = health_pb2.HealthCheckResponse.ServingStatus
    return ProbeAnswer(answer.status == kinds.Value("SERVING"), kinds.Name(answer.status))


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Probe once and return the exit code."""
    if {"-h", "--help"} & set(argv):
        sys.stdout.write(f"{__doc__}")
        return 0
    try:
        address, service = _read_arguments(argv)
        env = {**env, "WORKER_ADDRESS": address or env.get("WORKER_ADDRESS") or DEFAULT_ADDRESS}
        channel = open_channel(env)
    except ValueError as error:
        sys.stderr.write(f"probe: {error}\n")
        return 2
    with channel:
        answer = ask(channel, service)
    if answer.is_serving:
        return 0
    # gRPC reports a TLS port to a plaintext client only by this text, which is used only to add a hint.
    is_plain_to_tls = answer.text.endswith("Socket closed") and not env.get("WORKER_TLS_CA")
    hint = "; if it uses TLS: WORKER_TLS_CA is missing" if is_plain_to_tls else ""
    sys.stderr.write(f"probe: {env['WORKER_ADDRESS']}: {answer.text}{hint}\n")
    return 1


def _read_arguments(argv: list[str]) -> tuple[str, str]:
    """Return the address (with a colon) and the service; an empty string for each that is not given.

    Raises:
        ValueError: An argument is given twice, or is a flag.
    """
    addresses = [word for word in argv if ":" in word]
    services = [word for word in argv if ":" not in word]
    if len(addresses) > 1 or len(services) > 1:
        raise ValueError(f"{' '.join(argv)}: at most one address and one service")
    if flags := [word for word in argv if word.startswith("-")]:
        raise ValueError(f"{flags[0]}: the only flag is --help; see it for the environment variables")
    return "".join(addresses), "".join(services)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
