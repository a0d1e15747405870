"""`tokenfleet probe [HOST:PORT] [SERVICE | --info | --load | --host]`: ask a worker once, without grpcurl.

`python -m worker.probe` is the same program. HOST:PORT defaults to $WORKER_ADDRESS, else 127.0.0.1:50051.
If $WORKER_TLS_CA names a file, the probe uses TLS, with the client certificate $WORKER_TLS_CERT and its key
$WORKER_TLS_KEY, if set.

Without a flag the probe asks for the health of SERVICE, a name in gRPC's health protocol. On a node, the
probe without SERVICE succeeds if any replica serves; with tokenfleet.v1.Worker, if all do. It prints SERVING.

  --info  print the answer to GetInfo as JSON: engine, model, limits, state, replicas of a node
  --load  print the answer to GetLoad as JSON: the run and its requests
  --host  print the answer to GetHost as JSON: the machine

Exit codes: 0 SERVING, or the answer was printed; 1 not SERVING or no answer, with the reason in one line;
2 bad input.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.bounded_file import read_bounded
from common.command_exit import BAD_INPUT, end_command
from common.connect_errors import ClientTls, diagnose
from common.flags import FlagError
from common.standard_streams import open_standard_streams
from common.text import print_table, printable
from common.tls import load_ca, load_pair
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
# GetHost waits up to 5 s for disks and accelerators.
CALL_TIMEOUT_S = 8.0
HEALTH_TIMEOUT_S = 5.0
MAX_DETAIL_LEN = 2000
# The probe runs on the worker's host or network: no proxy is used.
OPTIONS = [("grpc.enable_http_proxy", 0)]
CA, CERT, KEY = (f"WORKER_TLS_{name}" for name in ("CA", "CERT", "KEY"))
# The flags that common.tls names, as the probe's variables.
_VARIABLES = {"--tls-ca": CA, "--tls-cert": CERT, "--tls-key": KEY}


class Answer(NamedTuple):
    """The answer to one call."""

    exit_code: int
    text: str
    """For stdout if the exit code is 0, else the reason."""


class Arguments(NamedTuple):
    """The command line; an empty string for each word that is not given."""

    address: str
    service: str
    flag: str


class Target(NamedTuple):
    """How to reach the worker."""

    address: str
    ca: bytes | None
    cert: bytes | None
    key: bytes | None
    client_tls: ClientTls
    """The same files for connections without gRPC."""

    def open_channel(self) -> grpc.Channel:
        """Create a channel to the worker."""
        if self.ca is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
        return grpc.secure_channel(self.address, credentials, options=OPTIONS)


def read_target(address: str, env: Mapping[str, str]) -> Target:
    """Read the files that the environment variables name.

    Raises:
        ValueError: Names the variable, the file and the error.
    """
    ca, cert, key = (_read(variable, env) for variable in (CA, CERT, KEY))
    if (cert is None) != (key is None):
        raise ValueError(f"{CERT} and {KEY}: each needs the other")
    if ca is None and cert is not None:
        raise ValueError(f"{CERT}: needs {CA} too: a certificate is only used over TLS")
    context = None if ca is None else _make_context(env)
    return Target(address, ca, cert, key, ClientTls(context, cert is not None, CA, CERT, KEY))


def _make_context(env: Mapping[str, str]) -> ssl.SSLContext:
    """Load the files for connections without gRPC, which also checks their contents.

    Raises:
        ValueError: Names the variable, the file and the error.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        load_ca(context, "--tls-ca", Path(env[CA]))
        if env.get(CERT):
            load_pair(context, Path(env[CERT]), Path(env[KEY]))
    except FlagError as error:
        raise ValueError(f"{_VARIABLES[error.flag]}: {error.reason}") from error
    return context


def _read(variable: str, env: Mapping[str, str]) -> bytes | None:
    """Read the file that a variable names; None if the variable is unset or empty."""
    if not (name := env.get(variable)):
        return None
    try:
        return read_bounded(Path(name))
    except OSError as error:
        raise ValueError(f"{variable}: {name}: {error.strerror}") from error


def check_health(channel: grpc.Channel, service: str) -> Answer:
    """Query the health of a service.

    Raises:
        grpc.RpcError: The call failed.
    """
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=HEALTH_TIMEOUT_S)
    kinds = health_pb2.HealthCheckResponse.ServingStatus
    if answer.status == kinds.Value("SERVING"):
        return Answer(0, "SERVING")
    return Answer(1, kinds.Name(answer.status) if answer.status in kinds.values() else str(answer.status))


def _get_info(stub: rpc.WorkerStub) -> Message:
    return stub.GetInfo(pb.GetInfoRequest(), timeout=CALL_TIMEOUT_S)


def _get_load(stub: rpc.WorkerStub) -> Message:
    return stub.GetLoad(pb.GetLoadRequest(), timeout=CALL_TIMEOUT_S)


def _get_host(stub: rpc.WorkerStub) -> Message:
    return stub.GetHost(pb.GetHostRequest(), timeout=CALL_TIMEOUT_S)


_CALLS: dict[str, Callable[[rpc.WorkerStub], Message]] = {
    "--info": _get_info,
    "--load": _get_load,
    "--host": _get_host,
}


def ask(target: Target, service: str, flag: str) -> Answer:
    """Make the one call that the arguments select."""
    with target.open_channel() as channel:
        try:
            if not flag:
                return check_health(channel, service)
            # Field names and omitted defaults as grpcurl prints them.
            return Answer(0, MessageToJson(_CALLS[flag](rpc.WorkerStub(channel))))
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            code, details = error.code(), error.details() or ""
    why = None
    if code is grpc.StatusCode.NOT_FOUND and service:
        why = f"has no health service {printable(service, MAX_DETAIL_LEN)!r} (an address is HOST:PORT)"
    if code is grpc.StatusCode.UNAVAILABLE:
        why = asyncio.run(diagnose(target.address, target.client_tls))
    return Answer(1, why or f"{code.name}: {printable(details, MAX_DETAIL_LEN)}")


def main(argv: list[str], env: Mapping[str, str]) -> int:
    """Probe once and return the exit code."""
    open_standard_streams()
    if {"-h", "--help"} & set(argv):
        # The first line has the command and what it does.
        command, _, text = __doc__.partition("`: ")
        sys.stdout.write(f"usage: {command[1:]}\n\n{text[0].upper()}{text[1:]}")
        return 0
    try:
        address, service, flag = _read_arguments(argv)
        target = read_target(address or env.get("WORKER_ADDRESS") or DEFAULT_ADDRESS, env)
    except ValueError as error:
        return end_command("probe", error, BAD_INPUT)
    answer = ask(target, service, flag)
    if answer.exit_code:
        return end_command("probe", f"{target.address}: {answer.text}", answer.exit_code)
    # The answer to a health check is the exit code, whatever stdout takes.
    return 1 if print_table(answer.text) and flag else 0


def _read_arguments(argv: list[str]) -> Arguments:
    """Sort the words: an address has a colon, a flag begins with a dash.

    Raises:
        ValueError: An argument is given twice, or is an unknown flag.
    """
    flags = [word for word in argv if word.startswith("-")]
    addresses = [word for word in argv if ":" in word and word not in flags]
    services = [word for word in argv if ":" not in word and word not in flags]
    if unknown := [word for word in flags if word not in _CALLS]:
        known = ", ".join(_CALLS)
        raise ValueError(f"{unknown[0]}: the flags are {known}, --help; see it for the environment variables")
    if len(addresses) > 1 or len(services) + len(flags) > 1:
        raise ValueError(f"{' '.join(argv)}: at most one address, and one service or flag")
    return Arguments("".join(addresses), "".join(services), "".join(flags))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
