"""`tokenfleet network-sut`: the SUT's side of the Network division.

    tokenfleet network-sut --workers node1:50051,node2:50051 --host 0.0.0.0 --port 50050 ...
    tokenfleet run --network-sut --workers sut:50050 ...        (on LoadGen's node)

It serves the protocol of a worker. Prompts arrive one in a message and go to the workers with the
coordinator's routing and failover; each message back has tokens of one sample. It serves one run at a time,
one after another; a run that fails on the workers does not end it. Exit codes: 0 stopped, 2 bad input,
130 interrupted.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from common.exposure import refuse_exposed
from common.flags import Flag, FlagError, Parser, add_flags, build
from common.open_files import raise_open_file_limit
from common.standard_streams import BackgroundStream, log_to_stderr, open_standard_streams
from common.tls import WorkerAccessFlags
from coordinator.config import (
    MaxWorkerLosses,
    NoWorkerTimeout,
    ReadyTimeout,
    StallTimeout,
    WorkerAddresses,
    WorkerTimeout,
    check_addresses,
)
from coordinator.transport.access import Access
from coordinator.transport.fleet import Patience
from coordinator.transport.stream import Limits
from sut.settings import Scenario
from tokenfleet.engine_program import run_engine_program
from tokenfleet.network.fleet_engine import FleetEngine, FleetSettings
from worker.auth import AuthInterceptor
from worker.bounded_stop import run_service
from worker.config import EngineKind, WorkerConfig
from worker.server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSutConfig(WorkerAccessFlags):
    """One Network SUT: flags for its workers as those of a run, flags of its own port begin with listen."""

    workers: WorkerAddresses
    scenario: Annotated[
        Scenario, Flag("scenario of the runs: offline fills the workers' windows in order of arrival")
    ] = Scenario.SERVER
    host: Annotated[
        str, Flag("address to listen on; other than loopback needs TLS or --insecure", metavar="HOST")
    ] = "127.0.0.1"
    port: Annotated[int, Flag("TCP port", ge=1, le=65535, metavar="PORT")] = 50050
    insecure: Annotated[bool, Flag("listen in plaintext on an address that is not loopback")] = False
    listen_tls_cert: Annotated[
        Path | None, Flag("use TLS, with this certificate (PEM); needs --listen-tls-key")
    ] = None
    listen_tls_key: Annotated[Path | None, Flag("private key of --listen-tls-cert (PEM)")] = None
    listen_tls_ca: Annotated[Path | None, Flag("require client certificates that this CA signed (PEM)")] = (
        None
    )
    listen_run_token_file: Annotated[
        Path | None, Flag("file with the run token that LoadGen's node must present")
    ] = None
    ready_timeout_s: ReadyTimeout = 900.0
    worker_timeout_s: WorkerTimeout = 10.0
    stall_timeout_s: StallTimeout = 120.0
    no_worker_timeout_s: NoWorkerTimeout = 60.0
    max_worker_losses: MaxWorkerLosses = 3

    def _check_together(self) -> None:
        check_addresses(self.workers)
        if not self.insecure and self.listen_tls_cert is None:
            refuse_exposed(self.host, "--listen-tls-cert and --listen-tls-key")
        if self.insecure and any((self.listen_tls_cert, self.listen_tls_key, self.listen_tls_ca)):
            raise FlagError("--insecure", "means plaintext, but a --listen-tls flag is given")

    @property
    def server(self) -> WorkerConfig:
        """The configuration of the port."""
        return WorkerConfig(
            engine=EngineKind.COUNTING,
            host=self.host,
            port=self.port,
            frame_hold_ms=0.0,
            insecure=self.insecure,
            tls_cert=self.listen_tls_cert,
            tls_key=self.listen_tls_key,
            tls_ca=self.listen_tls_ca,
            run_token_file=self.listen_run_token_file,
        )

    def engine(self) -> FleetEngine:
        """Create the fleet as an engine.

        Raises:
            FlagError: Names flag, file and error.
        """
        patience = Patience(
            limits=Limits(self.worker_timeout_s, self.stall_timeout_s),
            no_worker_s=self.no_worker_timeout_s,
            continues=True,
        )
        return FleetEngine(
            FleetSettings(
                addresses=self.workers,
                access=Access.read(self.security_files),
                patience=patience,
                scenario=self.scenario,
                ready_timeout_s=self.ready_timeout_s,
                max_losses=self.max_worker_losses,
            )
        )


def main(argv: list[str]) -> int:
    """Serve until a signal arrives and return the exit code."""
    open_standard_streams()
    raise_open_file_limit()
    with BackgroundStream("stderr"):
        log_to_stderr()
        return run_engine_program("network-sut", partial(_serve, argv))


def _serve(argv: list[str]) -> None:
    """Serve until a signal arrives.

    Raises:
        ValueError: Bad input; names flag, file, value and bound.
        BadInput: The port cannot be bound, or the workers cannot be had.
    """
    parser = Parser(allow_abbrev=False, description="Serve a fleet of workers to LoadGen's node.")
    add_flags(parser, NetworkSutConfig)
    config = build(NetworkSutConfig, parser.parse_args(argv))
    auth = AuthInterceptor.from_files(config.server.security_files._replace(flag_prefix="--listen-"))
    engine = config.engine()
    run_service(Server(config.server, engine, auth, engine.ask_nodes).run)
