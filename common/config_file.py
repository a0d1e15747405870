"""The TOML file of flags: one for both ends, each reads its own table; flags of the command line win.

It stands in this room because two processes read one file: both must agree on what it may hold.
"""

import argparse
import dataclasses
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Collection
from pathlib import Path

import tomli_w

TABLES = ("coordinator", "worker")
PRINT_FLAG = "--print-config"
# They say where configuration comes from or goes, and are none.
_NEVER_IN_A_FILE = ("config", "print-config", "help")

Table = dict[str, object]
"""Flags without their dashes in front, and values as TOML types them."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file as it was when it was read."""

    path: Path
    sha256: str
    """In hex, of its bytes."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config, which `read` reads, and --print-config."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="flags in TOML; the command line's win")
    parser.add_argument(
        PRINT_FLAG, action="store_true", help="print the configuration as such a file, start nothing"
    )


def read(
    argv: list[str], side: str, single: Collection[str] = (), known: Collection[str] | None = None
) -> tuple[ConfigFile | None, Table]:
    """Read the file that a command line names with --config.

    Args:
        argv: The command line.
        side: Whose table, one of TABLES; empty where the file has none.
        single: Flags that take no list.
        known: All flags there are; None: whoever parses them says.

    Raises:
        ValueError: Names file, table and key: not readable, no TOML, or a key that cannot stand there.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_flags(parser)
    try:
        path: Path | None = parser.parse_known_args(argv)[0].config
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    if path is None:
        return None, {}
    file, table = read_table(path, side)
    for name, value in table.items():
        where = f"--config: {path}: [{side}] {name}"
        if name in _NEVER_IN_A_FILE or (known is not None and name not in known):
            nearest = difflib.get_close_matches(name, known or (), n=1, cutoff=0.0)
            raise ValueError(
                f"{where}: no flag for a file" + "".join(f"; nearest: {near}" for near in nearest)
            )
        if name in single and isinstance(value, list):
            raise ValueError(f"{where}: a list, where one value is expected")
    return file, table


def read_table(path: Path, side: str) -> tuple[ConfigFile, Table]:
    """Read one table of a file; names may be written with dashes or underscores.

    Raises:
        ValueError: Names the file: not readable, no TOML, something beside the tables, or a name twice.
    """
    try:
        content = path.read_bytes()
        tables = tomllib.loads(content.decode())
    except OSError as error:
        raise ValueError(f"--config: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--config: {path} is no TOML: {error}") from error
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            raise ValueError(f"--config: {path}: {name!r} is none of the tables [coordinator] and [worker]")
    found: Table = {}
    for key, value in tables.get(side, {}).items():
        name = _dashed(key)
        if name in found:
            raise ValueError(f"--config: {path}: [{side}] {key}: given twice")
        found[name] = value
    return ConfigFile(path, hashlib.sha256(content).hexdigest()), found


def to_argv(table: Table, argv: Collection[str] = ()) -> list[str]:
    """Write a table as flags to stand before a command line, less those that it gives itself."""
    given = _flags(argv)
    flags = []
    for name, value in table.items():
        yes, no = f"--{name}", f"--no-{name}"
        # vLLM folds fields into their flag, and takes them last.
        if {yes, yes.partition(".")[0]} & given or (isinstance(value, bool) and no in given):
            continue
        if isinstance(value, bool):
            flags.append(yes if value else no)
        elif isinstance(value, list):
            flags += [yes, *map(to_text, value)]
        else:
            # With its value in the same word: a value may begin with a dash.
            flags.append(f"{yes}={to_text(value)}")
    return flags


def to_text(value: object) -> str:
    """Write one value as it stands on a command line, a table as JSON."""
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def to_table(config: object) -> Table:
    """Write a configuration, a dataclass of flags, as a table; what is None has no place in one."""
    assert dataclasses.is_dataclass(config)
    table: Table = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None or isinstance(value, ConfigFile):
            continue
        if isinstance(value, tuple):
            value = list(value)
        elif not isinstance(value, bool | int | float):
            value = str(value)
        table[field.name.replace("_", "-")] = value
    return table


def to_toml(side: str, table: Table) -> str:
    """Write one side's table as a file."""
    return tomli_w.dumps({side: table})


def name_source(message: str, argv: list[str], side: str) -> str:
    """Put the file in front of a message about a flag that the file gives and the command line does not."""
    try:
        file, table = read(argv, side)
    except ValueError:
        # The message is about the file itself.
        return message
    if file is None:
        return message
    given, named = _flags(argv), set(re.findall(r"--[a-z0-9][a-z0-9-]*", message))
    stray = set(message.removeprefix("unrecognized arguments:").split())
    for name, value in table.items():
        forms = {f"--{name}", f"--no-{name}"}
        if forms & named and not forms & given:
            return f"{file.path}: {message}"
        # Its flag takes one value, and the parser names only the others.
        if isinstance(value, list) and stray.isdisjoint(argv) and stray <= set(map(to_text, value)):
            return f"{file.path}: --{name}: {message}"
    return message


def _flags(argv: Collection[str]) -> set[str]:
    """List the flags of a command line, with dashes."""
    return {_dashed(word.partition("=")[0]) for word in argv if word.startswith("--")}


def _dashed(name: str) -> str:
    """Write a flag's name with dashes; behind a dot stands a field of its value, under its own name."""
    flag, dot, field = name.partition(".")
    return flag.replace("_", "-") + dot + field
