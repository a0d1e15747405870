"""Render the effective flags as TOML (--print-config): all of the daemon's, and the engine's given ones."""

import argparse
import json

from common.config_file import Table, to_table, to_text, to_toml
from common.flags import Parser
from worker.config import EngineKind, parse
from worker.engines.vllm.engine_core import check_installed

# Not printed, because printed text is copied into files and tickets.
_SECRET = "hf-token"


def resolved(argv: list[str]) -> str:
    """Render the flags that a command line and its files of flags give.

    Raises:
        ValueError: A flag that neither daemon nor engine knows, or a bad value.
    """
    config, model, engine_argv = parse(argv)
    own = to_table(config) | ({} if model is None else {"model": model})
    engine = given_flags(_check_engine_flags(config.engine, engine_argv), engine_argv)
    return to_toml("worker", own | {name: value for name, value in engine.items() if name != _SECRET})


def given_flags(parser: argparse.ArgumentParser, argv: list[str]) -> Table:
    """Read the flags that a command line gives, by their long names; of equal ones the last counts.

    Args:
        parser: Has all flags; this call removes its types and defaults, so it cannot be used afterwards.
        argv: Checked before.
    """
    names = {}
    for action in parser._actions:
        action.type, action.choices, action.default = None, None, argparse.SUPPRESS
        names[action.dest] = next(
            (name[2:] for name in action.option_strings if name.startswith("--")), action.dest
        )
    given = vars(parser.parse_args(argv))
    return {names[dest]: _typed(value) for dest, value in given.items()}


def _typed(value: object) -> object:
    """Turn text into a number or a table if to_text gives the same text again; TOML has no null."""
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
    """Check the engine's flags; returns a parser of them.

    Raises:
        ValueError: An unknown flag or a bad value, or no vLLM to ask.
    """
    if kind is EngineKind.VLLM:
        check_installed()
        from worker.engines.vllm import engine_args

        engine_args.parse_args(argv)
        return engine_args.build_parser()
    if kind is EngineKind.SIMULATED:
        from worker.engines.scripted import simulated

        simulated.parse_engine_flags(argv)
        return simulated.build_parser()
    from worker.engines.scripted import counting

    counting.parse_engine_flags(argv)
    return counting.build_parser()
