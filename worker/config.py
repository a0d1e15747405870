"""The worker daemon's own flags; each engine declares its own."""

import argparse
import dataclasses
import json
import textwrap
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple

from common import config_file
from common.config_file import ConfigFile, Table
from common.exposure import refuse_exposed
from common.flags import (
    Flag,
    FlagError,
    Flags,
    Parser,
    add_flags,
    build,
    changed_flags,
    declared,
    default_values,
    names,
)
from common.tls import SecurityFiles
from worker.engines.model.preset import preset_engine, preset_names, read_preset
from worker.engines.scripted.cost_model import CostModel
from worker.engines.scripted.counting import CountingConfig
from worker.engines.scripted.replay import ReplayConfig
from worker.engines.scripted.simulated import SimulatedConfig
from worker.machine.cores import parse_cores

# No node has more accelerators; each replica needs a port.
MAX_REPLICAS = 64
# vLLM's short names of flags with fields; on the command line they override the fields in a file.
_LONG_NAMES = {
    "-ac": "--attention-config",
    "-cc": "--compilation-config",
    "-dc": "--diffusion-config",
    "-sc": "--speculative-config",
}
# The daemon's flags that a preset may set. The others belong to a deployment: addresses, files, timeouts.
PRESET_FLAGS = ("frame-hold-ms", "prefill-group-tokens", "prefill-hold-ms")
_PROJECTS = {"vllm": "vLLM", "sglang": "SGLang"}


class BadInput(Exception):
    """The flags or the machine do not allow the worker to serve; the message is one line for the user."""

    def __init__(self, refusal: Exception | str) -> None:
        """Create the error.

        Args:
            refusal: A FlagError if one flag is at fault; the report then names the file that sets the flag.
        """
        super().__init__(str(refusal))
        self.refusal = refusal if isinstance(refusal, Exception) else ValueError(refusal)


class EngineKind(StrEnum):
    """The engine to serve."""

    VLLM = "vllm"
    SGLANG = "sglang"
    COUNTING = "counting"
    SIMULATED = "simulated"
    REPLAY = "replay"

    @property
    def has_model(self) -> bool:
        """Whether the engine loads a checkpoint, and runs on accelerators where there are any."""
        return self in (EngineKind.VLLM, EngineKind.SGLANG)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig(Flags):
    """Flags of the worker daemon."""

    engine: Annotated[
        EngineKind,
        Flag("engine; counting, simulated and replay return known answers, for tests and rehearsals"),
    ] = EngineKind.VLLM
    host: Annotated[
        str,
        Flag("address to listen on; an address other than loopback needs TLS or --insecure", metavar="HOST"),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Flag(
            "TCP port; with several replicas, replica i listens on port + 1 + i",
            ge=1,
            le=65535,
            metavar="PORT",
        ),
    ] = 50051
    replicas: Annotated[
        int,
        Flag(
            "engines on this node; with 2 or more, each is a process that the node supervises",
            ge=1,
            le=MAX_REPLICAS,
        ),
    ] = 1
    cores: Annotated[
        str,
        Flag(
            "CPU cores that this worker may use, in the format of taskset -c",
            metavar="0-3,8",
            default_text="the process's current CPU affinity",
        ),
    ] = ""
    frame_hold_ms: Annotated[
        float,
        Flag(
            "longest delay of tokens that are neither the first nor the last of a request, in ms",
            ge=0,
            le=1000,
            metavar="MS",
        ),
    ] = 20.0
    prefill_group_tokens: Annotated[
        int,
        Flag(
            "give prompts to the engine in groups of up to this many tokens, so that fewer steps have "
            "prefill; 0: each prompt at once",
            ge=0,
            le=1 << 20,
            metavar="TOKENS",
        ),
    ] = 0
    prefill_hold_ms: Annotated[
        float,
        Flag(
            "a step after this time with a free slot ends the wait of an incomplete group, in ms",
            ge=0,
            le=10_000,
            metavar="MS",
        ),
    ] = 1000.0
    drain_timeout_s: Annotated[
        float,
        Flag(
            "longest time that the current run continues after SIGTERM, in seconds",
            ge=0,
            finite=False,
            metavar="S",
        ),
    ] = 30.0
    insecure: Annotated[bool, Flag("listen in plaintext on an address that is not loopback")] = False
    tls_cert: Annotated[Path | None, Flag("use TLS, with this certificate (PEM); needs --tls-key")] = None
    tls_key: Annotated[Path | None, Flag("private key of --tls-cert (PEM, not encrypted)")] = None
    tls_ca: Annotated[
        Path | None, Flag("require client certificates that this CA signed (PEM): mutual TLS")
    ] = None
    run_token_file: Annotated[Path | None, Flag("file with the run token that a run must present")] = None
    metrics_port: Annotated[
        int | None,
        Flag(
            "serve Prometheus metrics at this TCP port, with the TLS flags of --port; a node serves those of "
            "its replicas too",
            ge=1,
            le=65535,
            metavar="PORT",
            default_text="no metrics",
        ),
    ] = None
    metrics_host: Annotated[
        str,
        Flag(
            "address of --metrics-port; an address other than loopback needs TLS or --insecure",
            metavar="HOST",
        ),
    ] = "127.0.0.1"
    coordinator_timeout_s: Annotated[
        float,
        Flag(
            "a run ends if its coordinator sends or reads nothing for this long, in seconds; coordinators "
            "ping once a second",
            ge=2,
            le=86_400,
            metavar="S",
        ),
    ] = 15.0
    preset: Annotated[
        str | None,
        Flag(
            f"named set of flags of the engine and of --{', --'.join(PRESET_FLAGS)}; a file or the command "
            "line overrides it",
            choices=preset_names,
        ),
    ] = None
    config_file: ConfigFile | None = None
    """File of --config, the source of flags that the command line does not give."""

    def _check_together(self) -> None:
        if self.preset is not None and self.engine != (engine := preset_engine(self.preset)):
            reason = f"{self.preset} is a set of {_PROJECTS[engine]}'s flags, but the engine is {self.engine}"
            raise FlagError("--preset", reason)
        if self.replicas > 1 and self.port + self.replicas > 65535:
            reason = f"{self.port} leaves no ports up to 65535 for {self.replicas} replicas"
            raise FlagError("--port", reason)
        own_ports = range(self.port, self.port + (1 if self.replicas == 1 else 1 + self.replicas))
        if self.metrics_port in own_ports:
            reason = f"{self.metrics_port} is one of the ports of --port {self.port}"
            raise FlagError("--metrics-port", reason)
        if self.cores:
            parse_cores(self.cores)
        self._check_exposure()

    def _check_exposure(self) -> None:
        if self.insecure and any((self.tls_cert, self.tls_key, self.tls_ca)):
            raise FlagError("--insecure", "means plaintext, but a --tls flag is given")
        if not self.insecure and self.tls_cert is None:
            refuse_exposed(self.host, "--tls-cert and --tls-key")
            refuse_exposed(self.metrics_host, "--tls-cert and --tls-key", flag="--metrics-host")

    @property
    def reported(self) -> dict[str, str]:
        """What a run records beside the engine's arguments, as JSON: PRESET_FLAGS, and where flags come from.

        Flags with their default are left out.
        """
        found: dict[str, object] = {
            name: getattr(self, name)
            for name in changed_flags(self)
            if name.replace("_", "-") in PRESET_FLAGS
        }
        if self.preset is not None:
            found["preset"] = self.preset
        if self.config_file is not None:
            found["config_file"] = dataclasses.asdict(self.config_file)
        return {name: json.dumps(value, default=str) for name, value in found.items()}

    @property
    def security_files(self) -> SecurityFiles:
        """Files that AuthInterceptor reads."""
        return SecurityFiles(self.tls_ca, self.tls_cert, self.tls_key, self.run_token_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Flags):
    """Flag of engines with a model."""

    model: Annotated[
        str | None,
        Flag("checkpoint directory or Hugging Face name; required by vllm, sglang", metavar="MODEL"),
    ] = None


# The parsers of vLLM and SGLang check their own flags.
_SCRIPTED_FLAGS: dict[EngineKind, tuple[type[Flags], ...]] = {
    EngineKind.COUNTING: (CountingConfig,),
    EngineKind.SIMULATED: (SimulatedConfig, CostModel),
    EngineKind.REPLAY: (ReplayConfig,),
}


def _engine_flags(engine: EngineKind, *configs: type[Flags]) -> str:
    options = ", ".join(
        flag.option + flag.facts(default_values(config).get(flag.field, dataclasses.MISSING))
        for config in configs
        for flag in declared(config)
    )
    return textwrap.fill(f"  {engine}: {options}", 88, subsequent_indent="    ", break_on_hyphens=False)


# Printed at the end of --help.
ENGINE_FLAGS = "\n".join(
    [
        "All other flags are the engine's:",
        "  vllm: those of vLLM's engine, under its own names (vllm serve --help=all)",
        "  sglang: those of SGLang's engine, under its own names (python -m sglang.launch_server --help)",
        *(_engine_flags(engine, *configs) for engine, configs in _SCRIPTED_FLAGS.items()),
    ]
)


def build_parser() -> Parser:
    """Build the parser of the daemon's own flags."""
    parser = Parser(
        allow_abbrev=False,
        description="Serve one replica of the model, or a node of several, to a tokenfleet coordinator.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=ENGINE_FLAGS,
    )
    add_flags(parser, ModelConfig)
    add_flags(parser, WorkerConfig)
    config_file.add_flags(parser)
    return parser


class UsedPreset(NamedTuple):
    """A preset and the flags that a command line takes from it."""

    name: str
    own: Table
    """The daemon's flags."""
    engine: Table


def used_preset(argv: list[str]) -> UsedPreset | None:
    """Return the preset of a command line and its file; None without one.

    Raises:
        ValueError: A bad value of one of the daemon's own flags, a file that cannot be read, or a preset that
            sets a flag of the daemon other than PRESET_FLAGS.
    """
    _, table = config_file.read(argv, "worker", [WorkerConfig, ModelConfig])
    return _preset_of(_with_table(table, argv))


def _preset_of(words: list[str]) -> UsedPreset | None:
    """Return the preset of a command line that has the flags of a file, as used_preset does."""
    preset: str | None = build_parser().parse_known_args(words)[0].preset
    if preset is None:
        return None
    table = config_file.without_given(read_preset(preset), _with_long_names(words))
    for name in table:
        if name in (*names(WorkerConfig), *names(ModelConfig)) and name not in PRESET_FLAGS:
            raise FlagError("--preset", f"{preset}: sets --{name}, which no preset may set")
    own = {name: value for name, value in table.items() if name in PRESET_FLAGS}
    return UsedPreset(preset, own, {name: value for name, value in table.items() if name not in own})


def _with_table(table: Table, argv: list[str]) -> list[str]:
    """Put the flags of the file of --config before those of the command line, which override them."""
    return [*config_file.to_argv(table, _with_long_names(argv)), *argv]


def _with_long_names(argv: list[str]) -> list[str]:
    return [*argv, *filter(None, (_LONG_NAMES.get(word.partition("=")[0]) for word in argv))]


def parse(argv: list[str]) -> tuple[WorkerConfig, str | None, list[str]]:
    """Split a command line into the daemon's configuration, the model and the engine's flags.

    Precedence, lowest first: preset, the file of --config, the command line.

    Raises:
        ValueError: A bad value of one of the daemon's own flags, or a file or preset that cannot be used.
    """
    file, table = config_file.read(argv, "worker", [WorkerConfig, ModelConfig])
    words = _with_table(table, argv)
    preset = _preset_of(words) or UsedPreset("", {}, {})
    own, rest = build_parser().parse_known_args([*config_file.to_argv(preset.own), *words])
    config = build(WorkerConfig, own, config_file=file)
    if file is not None:
        config_file.check_types(file, "worker", table, _SCRIPTED_FLAGS.get(config.engine, ()))
    return config, own.model, [*config_file.to_argv(preset.engine), *rest]


def name_source(error: Exception, argv: list[str]) -> str:
    """Return an error as one line, which names the file or the preset if the faulty flag comes from it."""
    try:
        preset = used_preset(argv)
    except ValueError:
        # The error is about the preset itself, the file, or one of the daemon's flags.
        preset = None
    if preset is not None:
        line = config_file.explain(error, f"--preset {preset.name}", preset.own | preset.engine, ())
        if line is not None:
            return line
    return config_file.name_source(error, argv, "worker")
