"""The worker daemon's own flags; an engine's flags are the engine's."""

import argparse
import dataclasses
import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from common import config_file
from common.config_file import ConfigFile
from common.tls import SecurityFiles
from worker.engines.vllm.preset import preset_name, preset_names, read_preset
from worker.machine.cores import parse_cores

# More than any node has accelerators; each has a port.
MAX_REPLICAS = 64
# vLLM's short names of flags with fields: given on the command line, they take the place of a file's fields.
_LONG_NAMES = {
    "-ac": "--attention-config",
    "-cc": "--compilation-config",
    "-dc": "--diffusion-config",
    "-sc": "--speculative-config",
}


class BadInput(Exception):
    """What the user asked for cannot be had; the message is the one line to print."""


class EngineKind(StrEnum):
    """Which engine serves."""

    VLLM = "vllm"
    COUNTING = "counting"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """How the daemon serves its engine."""

    engine: EngineKind = EngineKind.VLLM
    """vllm: the product; counting, simulated: answers known beforehand, for tests and benchmarks."""
    host: str = "127.0.0.1"
    """Address to listen on; one that is not loopback needs TLS or --insecure."""
    port: int = 50051
    """TCP port, 1 to 65535; replica i of several listens at port + 1 + i."""
    replicas: int = 1
    """Engines on this node; from 2 on each is a process of its own, under this one's watch."""
    cores: str = ""
    """Where this worker may run, as taskset -c takes it; empty: where it may already."""
    frame_hold_ms: float = 20.0
    """Longest wait of tokens that are neither the first nor the last of a request."""
    drain_timeout_s: float = 30.0
    """How long SIGTERM lets the current run go on."""
    insecure: bool = False
    """Serve the network in plaintext."""
    tls_cert: Path | None = None
    """Own certificate (PEM): speak TLS."""
    tls_key: Path | None = None
    """Its private key (PEM)."""
    tls_ca: Path | None = None
    """Let in only clients whose certificates this CA has signed (PEM): mutual TLS."""
    run_token_file: Path | None = None
    """Holds the secret that a run must show."""
    coordinator_timeout_s: float = 15.0
    """When a run ends whose coordinator says nothing or reads nothing; it pings thrice as often."""
    preset: str | None = None
    """Named set of vLLM's flags; those of a file or the command line win."""
    config_file: ConfigFile | None = None
    """Where flags come from that the command line does not give."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: Names flag, value and bound.
        """
        self._check_place()
        if not 0 <= self.frame_hold_ms <= 1000:
            raise ValueError(f"--frame-hold-ms: {self.frame_hold_ms} is not in 0..1000")
        if not self.drain_timeout_s >= 0:
            raise ValueError(f"--drain-timeout-s: {self.drain_timeout_s} is below 0")
        if not 2 <= self.coordinator_timeout_s <= 86_400:
            raise ValueError(f"--coordinator-timeout-s: {self.coordinator_timeout_s} is not in 2..86400")
        if self.preset is not None and self.engine is not EngineKind.VLLM:
            raise ValueError(
                f"--preset: {self.preset} is a set of vLLM's flags, and --engine is {self.engine}"
            )
        self._check_exposure()

    def _check_place(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port: {self.port} is not in 1..65535")
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ValueError(f"--replicas: {self.replicas} is not in 1..{MAX_REPLICAS}")
        if self.replicas > 1 and self.port + self.replicas > 65535:
            raise ValueError(f"--port: {self.port} leaves no ports up to 65535 for {self.replicas} replicas")
        if self.cores:
            parse_cores(self.cores)

    def _check_exposure(self) -> None:
        if self.insecure and any((self.tls_cert, self.tls_key, self.tls_ca)):
            raise ValueError("--insecure: stands for plaintext, and a --tls flag is given too")
        if not self.insecure and self.tls_cert is None and not _is_loopback(self.host):
            raise ValueError(
                f"--host: {self.host!r} is not a loopback address: give --tls-cert and --tls-key, "
                "or --insecure for plaintext"
            )

    @property
    def origin(self) -> dict[str, str]:
        """Where flags come from beside the command line, as JSON by kind."""
        found = {
            "preset": self.preset,
            "config_file": self.config_file and dataclasses.asdict(self.config_file),
        }
        return {kind: json.dumps(value, default=str) for kind, value in found.items() if value}

    @property
    def security_files(self) -> SecurityFiles:
        """The files that AuthInterceptor reads."""
        return SecurityFiles(self.tls_ca, self.tls_cert, self.tls_key, self.run_token_file)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # A name may resolve to anything.
        return False


class Parser(argparse.ArgumentParser):
    """Reports a bad flag in one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            ValueError: Always.
        """
        raise ValueError(message)


def _engine_kind(text: str) -> EngineKind:
    try:
        return EngineKind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(EngineKind)}") from error


# What --help ends with; the parsers of the engines that stand here are not imported for it.
ENGINE_FLAGS = """\
All other flags are the engine's:
  vllm: those of vLLM's engine, under its own names (vllm serve --help=all)
  counting: --prefill-ms, --step-ms, --load-ms, --max-num-seqs, --max-model-len
  simulated: --max-num-seqs, --max-num-batched-tokens, --max-model-len,
    --prefill-tokens-per-s, --step-base-ms, --step-per-seq-us"""
# Of each flag with a value and a default: its type, how the value is shown, and what it means.
_MEANINGS: dict[str, tuple[Callable[[str], object], str, str]] = {
    "engine": (_engine_kind, "|".join(EngineKind), "what serves; all but vllm know their answers beforehand"),
    "host": (str, "HOST", "address to listen on; one that is not loopback needs TLS or --insecure"),
    "port": (int, "PORT", "TCP port; replica i of several listens at port + 1 + i"),
    "replicas": (int, "N", "engines on this node; from 2 on each is a process of its own"),
    "cores": (
        str,
        "0-3,8",
        "where this worker may run, as taskset -c takes it; default where it may already",
    ),
    "frame_hold_ms": (float, "MS", "longest wait of tokens that are neither first nor last of a request"),
    "drain_timeout_s": (float, "S", "how long SIGTERM lets the current run go on"),
    "tls_cert": (Path, "FILE", "speak TLS, with this certificate (PEM)"),
    "tls_key": (Path, "FILE", "its private key (PEM)"),
    "tls_ca": (Path, "FILE", "ask clients for a certificate of this CA (PEM)"),
    "run_token_file": (Path, "FILE", "holds the secret that a run must show"),
    "coordinator_timeout_s": (float, "S", "when a run ends whose coordinator says or reads nothing"),
}


def build_parser() -> Parser:
    """Build the parser of the daemon's own flags; defaults come from WorkerConfig."""
    parser = Parser(
        allow_abbrev=False,
        description="Serve one replica of the model, or a node of several, to a tokenfleet coordinator.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=ENGINE_FLAGS,
    )
    parser.add_argument("--model", help="checkpoint directory or Hugging Face name; needed by vllm")
    parser.add_argument(
        "--insecure",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="serve the network in plaintext",
    )
    parser.add_argument(
        "--preset", type=preset_name, metavar="|".join(preset_names()), help="named set of vLLM's flags"
    )
    defaults = WorkerConfig()
    for name, (kind, metavar, meaning) in _MEANINGS.items():
        default = getattr(defaults, name)
        known = f"; default {default}" if default else ""
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, metavar=metavar, default=default, help=meaning + known)
    config_file.add_flags(parser)
    return parser


def parse(argv: list[str]) -> tuple[WorkerConfig, str | None, list[str]]:
    """Split a command line into the daemon's configuration, the model and the engine's flags.

    The later wins: preset, the file of --config, the command line.

    Raises:
        ValueError: A bad value of one of the daemon's own flags, or a file that cannot be read.
    """
    names = [f.name for f in fields(WorkerConfig) if f.name != "config_file"]
    single = [name.replace("_", "-") for name in (*names, "model")]
    file, table = config_file.read(argv, "worker", single)
    given = [*argv, *filter(None, (_LONG_NAMES.get(word.partition("=")[0]) for word in argv))]
    own, engine_argv = build_parser().parse_known_args([*config_file.to_argv(table, given), *argv])
    config = WorkerConfig(**{name: getattr(own, name) for name in names}, config_file=file)
    if config.preset is not None:
        given += [f"--{name}" for name in table]
        engine_argv = [*config_file.to_argv(read_preset(config.preset), given), *engine_argv]
    return config, own.model, engine_argv
