"""Render the effective flags as TOML (--print-config): all daemon flags, and engine flags that were given."""

import argparse
import json

from common.config_file import Table, to_table, to_text, to_toml, unset_flags
from common.flags import Parser
from worker.config import EngineKind, ModelConfig, WorkerConfig, parse, used_preset
from worker.engines.sglang.scheduler_link import check_sglang_installed
from worker.engines.vllm.engine_core import check_installed

# Not printed, because printed text is copied into files and tickets.
_SECRET = "hf-token"


def resolved(argv: list[str]) -> str:
    """Render the flags of a command line, its configuration file and its preset.

    Raises:
        ValueError: A flag unknown to daemon and engine, or a bad value.
    """
    config, model, engine_argv = parse(argv)
    own = to_table(config) | ({} if model is None else {"model": model})
    engine = given_flags(_check_engine_flags(config.engine, engine_argv), engine_argv)
    table = own | {name: value for name, value in engine.items() if name != _SECRET}
    return to_toml("worker", table, unset_flags([WorkerConfig, ModelConfig], table), _preset_comment(argv))


def _preset_comment(argv: list[str]) -> list[str]:
    """Name the flags that come from the preset; no line without any."""
    preset = used_preset(argv)
    flags = [] if preset is None else [*preset.own, *preset.engine]
    return [f"from the preset: {', '.join(flags)}"] if flags else []


def given_flags(parser: argparse.ArgumentParser, argv: list[str]) -> Table:
    """Return the flags that a command line gives, by long name; the last value of a repeated flag counts.

    Args:
        parser: Parser of all flags; this call removes its types and defaults, so it cannot be reused.
        argv: Command line that has already been checked.
    """
    names = {}
    for action in parser._actions:
        action.type, action.choices, action.default, action.required = None, None, argparse.SUPPRESS, False
        names[action.dest] = next(
            (name[2:] for name in action.option_strings if name.startswith("--")), action.dest
        )
    given = vars(parser.parse_args(argv))
    return {names[dest]: _typed(value) for dest, value in given.items()}


def _typed(value: object) -> object:
    """Convert text to a number or table if to_text restores the text; TOML has no null."""
    if isinstance(value, list):
        return [_typed(element) for element in value]
    if not isinstance(value, str) or "null" in value:
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return read if isinstance(read, int | float | dict) and to_text(read) == value else value


def _check_engine_flags(kind: EngineKind, argv: list[str]) -> Parser:
    """Check the engine's flags and return their parser.

    Raises:
        ValueError: An unknown flag, a bad value, or the engine is not installed.
    """
    if kind is EngineKind.VLLM:
        check_installed()
        from worker.engines.vllm import engine_args

        engine_args.parse_args(argv)
        return engine_args.build_parser()
    if kind is EngineKind.SGLANG:
        check_sglang_installed()
        from worker.engines.sglang import server_flags

        server_flags.parse_args(argv, "model")
        return server_flags.build_parser()
    if kind is EngineKind.SIMULATED:
        from worker.engines.scripted import simulated

        simulated.parse_engine_flags(argv)
        return simulated.build_parser()
    if kind is EngineKind.REPLAY:
        from worker.engines.scripted import replay

        replay.parse_engine_flags(argv)
        return replay.build_parser()
    from worker.engines.scripted import counting

    counting.parse_engine_flags(argv)
    return counting.build_parser()
