"""TOML files of flags (--config), with one table each for coordinator and worker.

A flag on the command line takes precedence over the file.
"""

import argparse
import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from common.bounded_file import read_bounded
from common.flags import FlagError, Flags, Parser, UnknownFlagsError, declared

TABLES = ("coordinator", "worker")
PRINT_FLAG = "--print-config"
MAX_CONFIG_BYTES = 64 * 1024
MAX_LINE_CHARS = 4096
"""tomllib's time grows with the square of the parts of a dotted key: 0.2 s for a line of this length."""
# Flags that cannot be set in a file: they select where the configuration is read or printed.
_COMMAND_LINE_ONLY = ("config", "print-config", "help")

Table = dict[str, object]
"""Values with their TOML types, by flag name without leading dashes."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration file that has been read."""

    path: Path
    sha256: str
    """SHA-256 of the file's bytes, in hex."""


def add_flags(parser: argparse.ArgumentParser, *, prints: bool = True) -> None:
    """Add --config, which `read` reads, and --print-config.

    Args:
        parser: Parser to extend.
        prints: Whether the program prints its flags; one that does not calls `refuse_printing`.
    """
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of flags; the command line overrides it"
    )
    text = "print the effective flags as TOML, start nothing" if prints else argparse.SUPPRESS
    parser.add_argument(PRINT_FLAG, action="store_true", help=text)


def refuse_printing(argv: Collection[str], programs: str) -> None:
    """Refuse --print-config in a program that has the flags of other programs.

    Args:
        argv: The command line.
        programs: Those that print their flags.

    Raises:
        FlagError: The flag is given.
    """
    if PRINT_FLAG in argv:
        raise FlagError(PRINT_FLAG, f"use {programs}")


def read(
    argv: list[str], side: str, configs: Sequence[type[Flags]] = (), *, is_complete: bool = False
) -> tuple[ConfigFile | None, Table]:
    """Read the file that a command line names with --config.

    Args:
        argv: The command line.
        side: Name of the table to read, one of TABLES; a missing table is read as empty.
        configs: Configurations whose flags are checked for the type of their value.
        is_complete: No other flags exist; otherwise the caller's parser checks the names.

    Raises:
        FlagError: Names file, table and key: not readable, not TOML, a key that cannot be set in a file, or a
            value of the wrong type.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    add_flags(parser)
    path: Path | None = parser.parse_known_args(argv)[0].config
    if path is None:
        return None, {}
    file, table = read_table(path, side)
    known = [flag.name for config in configs for flag in declared(config)]
    for name in table:
        where = f"{path}: [{side}] {name}"
        if name in _COMMAND_LINE_ONLY or (is_complete and name not in known):
            nearest = difflib.get_close_matches(name, known if is_complete else (), n=1, cutoff=0.0)
            hint = "".join(f"; nearest: {near}" for near in nearest)
            raise FlagError("--config", f"{where}: cannot be set in a file{hint}")
    check_types(file, side, table, configs)
    return file, table


def check_types(file: ConfigFile, side: str, table: Table, configs: Sequence[type[Flags]]) -> None:
    """Check the types of the values of some configurations' flags.

    Raises:
        FlagError: Names file, table and key, the type of the value and the type of the flag.
    """
    known = {flag.name: flag.kind for config in configs for flag in declared(config)}
    for name, value in table.items():
        if name in known and (reason := type_mismatch(value, known[name])) is not None:
            raise FlagError("--config", f"{file.path}: [{side}] {name}: {reason}")


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list of strings"}


def type_mismatch(value: object, kind: type) -> str | None:
    """Return the type of a TOML value and the type of its flag as text; None if the value fits."""
    if _has_type(value, kind):
        return None
    return f"is {_describe(value)}, expected {_EXPECTED.get(kind, 'a string')}"


def _has_type(value: object, kind: type) -> bool:
    """Return whether a TOML value has the type of a flag; a list may also be one string with commas."""
    if kind in (bool, int):
        return type(value) is kind
    if kind is float:
        return type(value) in (int, float)
    if kind is tuple and isinstance(value, list):
        return all(isinstance(element, str) for element in value)
    return isinstance(value, str)


def _describe(value: object) -> str:
    """Return the type of a TOML value in TOML's terms."""
    names: dict[type, str] = {
        str: "a string",
        bool: "a boolean",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


def read_table(path: Path, side: str) -> tuple[ConfigFile, Table]:
    """Read one table of a file; names may be written with dashes or underscores.

    Raises:
        FlagError: Names the file: not readable, not TOML, an unknown table, or a duplicate name.
    """
    try:
        content = read_bounded(path, MAX_CONFIG_BYTES)
        tables = parse_toml(content.decode())
    except OSError as error:
        raise FlagError("--config", f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FlagError("--config", f"{path} is not TOML: {error}") from error
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            reason = f"{path}: {name!r} is not one of the tables [coordinator] and [worker]"
            raise FlagError("--config", reason)
    found: Table = {}
    for key, value in tables.get(side, {}).items():
        name = _dashed(key)
        if name in found:
            raise FlagError("--config", f"{path}: [{side}] {key}: given twice")
        found[name] = value
    return ConfigFile(path, hashlib.sha256(content).hexdigest()), found


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: It is not TOML, has a line that is too long, or is nested too deeply.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE_CHARS:
            raise ValueError(f"line {number} has {len(line):,} characters, more than {MAX_LINE_CHARS:,}")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def without_given(table: Table, argv: Collection[str]) -> Table:
    """Return a table without the flags that a command line gives."""
    given = _flags(argv)
    return {
        name: value
        for name, value in table.items()
        # vLLM would merge a field from the table (--flag.field) into the value of --flag on the command line.
        if not {f"--{name}", f"--{name}".partition(".")[0]} & given
        and not (isinstance(value, bool) and f"--no-{name}" in given)
    }


def to_argv(table: Table, argv: Collection[str] = ()) -> list[str]:
    """Convert a table to command-line flags, without the flags that `argv` gives."""
    flags = []
    for name, value in without_given(table, argv).items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            flags += [f"--{name}", *map(to_text, value)]
        else:
            # One argument, because the value may begin with a dash.
            flags.append(f"--{name}={to_text(value)}")
    return flags


def to_text(value: object) -> str:
    """Format a value for the command line; a table becomes JSON."""
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def to_table(config: Flags) -> Table:
    """Convert a configuration to a table; flags that are None are left out, because TOML has no null."""
    values = ((flag.name, getattr(config, flag.field)) for flag in declared(type(config)))
    return {name: _to_toml_value(value) for name, value in values if value is not None}


def _to_toml_value(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float) else str(value)


def join_lists(config: type[Flags], table: Table) -> Table:
    """Join each list of strings with commas, the format of its flag on the command line."""
    lists = {flag.name for flag in declared(config) if flag.kind is tuple}
    return {
        name: ",".join(map(str, value)) if name in lists and isinstance(value, list) else value
        for name, value in table.items()
    }


def unset_flags(configs: Sequence[type[Flags]], table: Table) -> dict[str, str]:
    """Return the flags that a table does not set, and the placeholders of their values."""
    flags = [flag for config in configs for flag in declared(config)]
    return {flag.name: flag.metavar for flag in flags if flag.name not in table}


def to_toml(
    side: str, table: Table, unset: Mapping[str, str] | None = None, comments: Sequence[str] = ()
) -> str:
    """Render one side's table as TOML.

    Args:
        side: Name of the table.
        table: Flags and their values.
        unset: Flags without a value and the placeholders of their values, which become comments.
        comments: Further comments, one line each.
    """
    lines = [*comments, *(f"{name} = {placeholder}" for name, placeholder in (unset or {}).items())]
    header = f"[{side}]\n"
    shown = "".join(f"# {line}\n" for line in lines)
    return f"{header}{shown}{tomli_w.dumps({side: table}).removeprefix(header)}"


def name_source(error: Exception, argv: list[str], *sides: str) -> str:
    """Return an error as one line, which names the file if the faulty flag comes from the file.

    Args:
        error: Exception raised for the command line.
        argv: The command line; flags given there do not come from the file.
        sides: Names of the file's tables whose flags the program has, of TABLES.
    """
    try:
        parts = [read(argv, side) for side in sides]
    except FlagError:
        # The error is about the file itself.
        return str(error)
    file = parts[0][0]
    table = {name: value for _, part in parts for name, value in part.items()}
    return (file and explain(error, str(file.path), table, argv)) or str(error)


def explain(error: Exception, source: str, table: Table, argv: Collection[str]) -> str | None:
    """Return an error as one line that begins with the source of the faulty flag.

    Args:
        error: Exception raised for a command line.
        source: Name of the table.
        table: Flags and their values.
        argv: Words that take precedence over the table.

    Returns:
        None if the faulty flag does not come from the table.
    """
    if isinstance(error, FlagError) and _is_given(error.names, table, argv):
        return f"{source}: {error}"
    if isinstance(error, UnknownFlagsError):
        if _is_given(_flags(error.words), table, argv):
            return f"{source}: {error}"
        if (name := _list_of(error.words, table, argv)) is not None:
            return f"{source}: --{name}: {error}"
    return None


def _is_given(names: Collection[str], table: Table, argv: Collection[str]) -> bool:
    """Return whether one of the flags comes from the table and not from the command line."""
    forms = [{f"--{name}", f"--no-{name}"} for name in table]
    return any(form & set(names) and not form & _flags(argv) for form in forms)


def _list_of(words: Collection[str], table: Table, argv: Collection[str]) -> str | None:
    """Return the flag whose list in the table holds all unrecognized words, or None.

    The list of a flag that takes one value leaves its other values unrecognized.
    """
    stray = set(words)
    if not stray.isdisjoint(argv):
        return None
    lists = {name: value for name, value in table.items() if isinstance(value, list)}
    return next((name for name, value in lists.items() if stray <= set(map(to_text, value))), None)


def _flags(argv: Collection[str]) -> set[str]:
    """Collect the flags of a command line, with leading dashes."""
    return {_dashed(word.partition("=")[0]) for word in argv if word.startswith("--")}


def _dashed(name: str) -> str:
    """Replace underscores in a flag's name by dashes; a field name after a dot is kept."""
    flag, dot, field = name.partition(".")
    return flag.replace("_", "-") + dot + field
