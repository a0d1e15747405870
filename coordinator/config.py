"""The coordinator's flags: the reference's names where the reference has the flag."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import NoReturn, TypeVar

from common import config_file
from common.config_file import ConfigFile, Table
from sut.settings import Mode, Scenario

_Choice = TypeVar("_Choice", bound=StrEnum)


class LossPolicy(StrEnum):
    """What the loss of a worker means for the run."""

    CONTINUE = "continue"
    FAIL = "fail"


class OverduePolicy(StrEnum):
    """What happens to a query that is older than its deadline; all of them are listed."""

    REPORT = "report"
    CONTINUE = "continue"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run."""

    scenario: Scenario = Scenario.OFFLINE
    """offline, server, or interactive (LoadGen's Server under the interactive limits)."""
    accuracy: bool = False
    """Accuracy mode instead of performance."""
    input_file: Path
    """Parquet or pickle with a column tok_input or input_tokens."""
    workers: tuple[str, ...]
    """host:port of each worker."""
    output_dir: Path = Path("mlperf_results")
    """Gets <scenario>/<performance|accuracy|TESTnn>/."""
    user_conf: Path | None = None
    """LoadGen user.conf; its lines go into the run's own."""
    generation_config: Path | None = None
    """JSON in the reference's format."""
    max_new_tokens: int | None = None
    """Longest answer in tokens; default 10240, accuracy 32768."""
    max_samples: int | None = None
    """Take only the first rows of the input file."""
    target_qps: float | None = None
    """LoadGen's target_qps."""
    audit_config: Path | None = None
    """audit.config of a compliance test."""
    overwrite: bool = False
    """Replace an earlier run in the same directory."""
    ready_timeout_s: float = 900.0
    """How long to wait until every worker is SERVING."""
    worker_timeout_s: float = 10.0
    """A worker that says nothing for this long, pinged each second in which nothing comes, is lost."""
    stall_timeout_s: float = 120.0
    """A worker that has requests and brings no token for this long is lost."""
    on_worker_loss: LossPolicy = LossPolicy.CONTINUE
    """continue: its requests go on elsewhere, and it is taken back when it returns; fail: the run ends."""
    no_worker_timeout_s: float = 60.0
    """How long a run goes on without any worker."""
    max_worker_losses: int = 3
    """A request that was taken from this many workers in a row goes to no other one: the run fails."""
    query_timeout_s: float = 3600.0
    """A query that its worker has had for longer is overdue, and is listed."""
    on_overdue_query: OverduePolicy | None = None
    """report: nothing more; continue: it goes on elsewhere; fail: the run ends; None: see overdue_policy."""
    tls_ca: Path | None = None
    """Speak TLS, with workers whose certificates this CA has signed (PEM)."""
    tls_cert: Path | None = None
    """Certificate to show to workers that ask for one (PEM)."""
    tls_key: Path | None = None
    """Its private key (PEM)."""
    run_token_file: Path | None = None
    """Holds the secret that the workers ask for."""
    config_file: ConfigFile | None = None
    """Where flags come from that the command line does not give."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        for name in ("max_new_tokens", "max_samples", "max_worker_losses"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{_flag(name)}: {value} is below 1")
        if self.target_qps is not None and not 0 < self.target_qps < float("inf"):
            raise ValueError(f"--target-qps: {self.target_qps} is not above 0 and finite")
        for name in (f.name for f in fields(self) if f.name.endswith("_timeout_s")):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{_flag(name)}: {getattr(self, name)} is not above 0 and finite")
        self._check_workers()

    def _check_workers(self) -> None:
        for address in self.workers:
            host, _, port = address.rpartition(":")
            if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
                raise ValueError(f"--workers: {address!r} is not host:port with a port in 1..65535")
            # gRPC would take it for a scheme, or look for such a name until --ready-timeout-s.
            if stray := re.search(r"[\s/]", host):
                raise ValueError(f"--workers: {address!r} is not host:port: the host holds {stray[0]!r}")
            if not re.fullmatch(r"\[[^][]+\]|[^][:]+", host):
                raise ValueError(
                    f"--workers: {address!r} is not host:port: brackets stand around an IPv6 address, "
                    "as in [::1]:50051, and ':' nowhere else in a host"
                )
            if self.workers.count(address) > 1:
                raise ValueError(f"--workers: {address} is named {self.workers.count(address)} times")

    @property
    def mode(self) -> Mode:
        """What the run measures."""
        return Mode.ACCURACY if self.accuracy else Mode.PERFORMANCE

    @property
    def overdue_policy(self) -> OverduePolicy:
        """What is done: fail by default, report in accuracy mode, whose queries may all wait for hours."""
        default = OverduePolicy.REPORT if self.accuracy else OverduePolicy.FAIL
        return self.on_overdue_query or default

    @property
    def run_dir(self) -> Path:
        """Where this run's files go."""
        name: str = self.mode
        if self.audit_config is not None:
            folders = reversed(self.audit_config.parent.parts)
            name = next((part for part in folders if re.fullmatch(r"TEST[0-9]{2}", part)), "audit")
        return self.output_dir / self.scenario / name


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Parser(argparse.ArgumentParser):
    """Raises ValueError with one line for a bad flag, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        raise ValueError(message)


def parse(argv: list[str]) -> RunConfig:
    """Read the command line.

    Raises:
        ValueError: Names flag, value and bound.
    """
    file, full_argv = expand(argv)
    return to_config(build_parser().parse_args(full_argv), file)


def expand(argv: list[str]) -> tuple[ConfigFile | None, list[str]]:
    """Put the flags of the file that --config names before those of the command line.

    Raises:
        ValueError: Names file and key: not readable, no TOML, or no flag of ours.
    """
    known = [f.name.replace("_", "-") for f in fields(RunConfig) if f.name != "config_file"]
    single = [name for name in known if name != "workers"]
    file, table = config_file.read(argv, "coordinator", single, known)
    return file, [*config_file.to_argv(_joined(table), argv), *argv]


def to_config(values: argparse.Namespace, file: ConfigFile | None) -> RunConfig:
    """Make a configuration of what the parser has read, and of the file that is part of it.

    Raises:
        ValueError: Names flag, value and bound.
    """
    names = (f.name for f in fields(RunConfig) if f.name != "config_file")
    return RunConfig(**{name: getattr(values, name) for name in names}, config_file=file)


# Of each flag with a value: its type, what it means, and what None stands for.
_MEANINGS: dict[str, tuple[type, str]] = {
    "output_dir": (Path, "gets <scenario>/<performance|accuracy|TESTnn>/"),
    "user_conf": (Path, "LoadGen's user.conf; its lines go into the run's own"),
    "generation_config": (Path, "sampling, JSON as the reference has it; default temperature 1, top_p 1"),
    "max_new_tokens": (int, "longest answer in tokens; default 10240, accuracy 32768"),
    "max_samples": (int, "only the first rows; default all"),
    "target_qps": (float, "LoadGen's target_qps; Server and Interactive need it, here or in the user.conf"),
    "audit_config": (Path, "audit.config of a compliance test"),
    "ready_timeout_s": (float, "how long to wait for workers at the start"),
    "worker_timeout_s": (float, "a worker that is silent for this long is lost"),
    "stall_timeout_s": (float, "a worker that has requests and brings no token for this long is lost"),
    "on_worker_loss": (LossPolicy, "what the loss of a worker means for the run"),
    "no_worker_timeout_s": (float, "how long a run goes on without any worker"),
    "max_worker_losses": (int, "a request taken from this many workers in a row fails the run"),
    "query_timeout_s": (float, "a query that its worker has had for longer is overdue, and listed"),
    "on_overdue_query": (OverduePolicy, "what happens to it then; default fail, accuracy report"),
    "tls_ca": (Path, "speak TLS, to workers of this CA (PEM)"),
    "tls_cert": (Path, "certificate to show to workers that ask (PEM)"),
    "tls_key": (Path, "its private key (PEM)"),
    "run_token_file": (Path, "holds the secret that workers ask for"),
}


def build_parser(needs_input: bool = True) -> Parser:
    """Build the parser; defaults come from RunConfig, and a bad flag raises ValueError.

    Args:
        needs_input: Whether --input-file must be given.
    """
    parser = Parser(
        allow_abbrev=False,
        description="Run MLPerf LoadGen against tokenfleet workers.",
    )
    parser.add_argument(
        "--scenario",
        type=one_of(Scenario),
        metavar="|".join(Scenario),
        default=Scenario.OFFLINE,
        help="what LoadGen does; interactive is Server with other limits; default offline",
    )
    switches = {
        "accuracy": "accuracy mode instead of performance",
        "overwrite": "replace an earlier run's directory",
    }
    for name, meaning in switches.items():
        parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, default=False, help=meaning)
    parser.add_argument(
        "--input-file",
        type=Path,
        required=needs_input,
        metavar="FILE",
        help="parquet or pickle with a column tok_input or input_tokens",
    )
    parser.add_argument(
        "--workers",
        type=_addresses,
        required=True,
        metavar="HOST:PORT[,HOST:PORT...]",
        help="the fleet: workers, or nodes of several",
    )
    defaults = {f.name: f.default for f in fields(RunConfig)}
    for name, (kind, meaning) in _MEANINGS.items():
        choices = (
            {"type": one_of(kind), "metavar": "|".join(kind)} if issubclass(kind, StrEnum) else {"type": kind}
        )
        default = defaults[name]
        known = "" if default is None else f"; default {default}"
        parser.add_argument(_flag(name), default=default, help=meaning + known, **choices)
    config_file.add_flags(parser)
    return parser


def to_argv(config: RunConfig) -> list[str]:
    """Write a configuration as the command line that `parse` reads back to the same."""
    file = [] if config.config_file is None else [f"--config={config.config_file.path}"]
    return [*file, *config_file.to_argv(_joined(config_file.to_table(config)))]


def _joined(table: Table) -> Table:
    """Write a list of workers as the flag has it."""
    workers = table.get("workers")
    return table | {"workers": ",".join(map(str, workers))} if isinstance(workers, list) else table


def one_of(choices: type[_Choice]) -> Callable[[str], _Choice]:
    """Make a reader of one value of a flag; it raises ArgumentTypeError that names the values there are."""

    def read(text: str) -> _Choice:
        try:
            return choices(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}") from error

    return read


def _addresses(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
