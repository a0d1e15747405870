"""The TOML file of flags: coordinator and worker read their own table of one file; the command line wins."""

import argparse
import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Collection
from pathlib import Path

import tomli_w

from common.flags import FlagError, Flags, Parser, UnknownFlagsError, declared

TABLES = ("coordinator", "worker")
PRINT_FLAG = "--print-config"
# They decide where configuration is read and written, and are not part of it.
_NEVER_IN_A_FILE = ("config", "print-config", "help")

Table = dict[str, object]
"""Flags without their dashes in front, and values as TOML types them."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that was read."""

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
        side: Whose table, one of TABLES; a file without it gives an empty table.
        single: Flags that take one value, not a list.
        known: All flags; None: the parser refuses unknown ones.

    Raises:
        FlagError: Names file, table and key: not readable, not TOML, or a key that a file cannot have.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    add_flags(parser)
    path: Path | None = parser.parse_known_args(argv)[0].config
    if path is None:
        return None, {}
    file, table = read_table(path, side)
    for name, value in table.items():
        where = f"{path}: [{side}] {name}"
        if name in _NEVER_IN_A_FILE or (known is not None and name not in known):
            nearest = difflib.get_close_matches(name, known or (), n=1, cutoff=0.0)
            hint = "".join(f"; nearest: {near}" for near in nearest)
            raise FlagError("--config", f"{where}: no flag for a file{hint}")
        if name in single and isinstance(value, list):
            raise FlagError("--config", f"{where}: a list, where one value is expected")
    return file, table


def read_table(path: Path, side: str) -> tuple[ConfigFile, Table]:
    """Read one table of a file; names may be written with dashes or underscores.

    Raises:
        FlagError: Names the file: not readable, not TOML, an unknown table, or a name twice.
    """
    try:
        content = path.read_bytes()
        tables = tomllib.loads(content.decode())
    except OSError as error:
        raise FlagError("--config", f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FlagError("--config", f"{path} is no TOML: {error}") from error
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            reason = f"{path}: {name!r} is none of the tables [coordinator] and [worker]"
            raise FlagError("--config", reason)
    found: Table = {}
    for key, value in tables.get(side, {}).items():
        name = _dashed(key)
        if name in found:
            raise FlagError("--config", f"{path}: [{side}] {key}: given twice")
        found[name] = value
    return ConfigFile(path, hashlib.sha256(content).hexdigest()), found


def to_argv(table: Table, argv: Collection[str] = ()) -> list[str]:
    """Write a table as flags to put before a command line, without the flags that it gives."""
    given = _flags(argv)
    flags = []
    for name, value in table.items():
        yes, no = f"--{name}", f"--no-{name}"
        # vLLM merges fields into their flag, after the flag's own value.
        if {yes, yes.partition(".")[0]} & given or (isinstance(value, bool) and no in given):
            continue
        if isinstance(value, bool):
            flags.append(yes if value else no)
        elif isinstance(value, list):
            flags += [yes, *map(to_text, value)]
        else:
            # One word, because a value may begin with a dash.
            flags.append(f"{yes}={to_text(value)}")
    return flags


def to_text(value: object) -> str:
    """Write one value as on a command line, a table as JSON."""
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def to_table(config: Flags) -> Table:
    """Write the flags of a configuration as a table, without those that are None: TOML has no null."""
    values = ((flag.name, getattr(config, flag.field)) for flag in declared(type(config)))
    return {name: _to_toml_value(value) for name, value in values if value is not None}


def _to_toml_value(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, bool | int | float) else str(value)


def join_lists(config: type[Flags], table: Table) -> Table:
    """Write each list of texts as its flag takes it on the command line: separated by commas."""
    lists = {flag.name for flag in declared(config) if flag.kind is tuple}
    return {
        name: ",".join(map(str, value)) if name in lists and isinstance(value, list) else value
        for name, value in table.items()
    }


def to_toml(side: str, table: Table) -> str:
    """Write one side's table as a file."""
    return tomli_w.dumps({side: table})


def name_source(error: Exception, argv: list[str], side: str) -> str:
    """Write an error as one line that names the file, if the flag at fault comes from the file.

    Args:
        error: What was raised for the command line.
        argv: The command line; a flag that it gives does not come from the file.
        side: Whose table of the file.
    """
    try:
        file, table = read(argv, side)
    except FlagError:
        # The error is about the file itself.
        return str(error)
    if file is not None and isinstance(error, FlagError) and _is_given(error.names, table, argv):
        return f"{file.path}: {error}"
    if file is not None and isinstance(error, UnknownFlagsError):
        if _is_given(_flags(error.words), table, argv):
            return f"{file.path}: {error}"
        if (name := _list_of(error.words, table, argv)) is not None:
            return f"{file.path}: --{name}: {error}"
    return str(error)


def _is_given(names: Collection[str], table: Table, argv: list[str]) -> bool:
    """Whether a table has one of the flags, and the command line does not have it."""
    forms = [{f"--{name}", f"--no-{name}"} for name in table]
    return any(form & set(names) and not form & _flags(argv) for form in forms)


def _list_of(words: Collection[str], table: Table, argv: list[str]) -> str | None:
    """Find the list of the table, for a flag that takes one value, whose other values no flag takes."""
    stray = set(words)
    if not stray.isdisjoint(argv):
        return None
    lists = {name: value for name, value in table.items() if isinstance(value, list)}
    return next((name for name, value in lists.items() if stray <= set(map(to_text, value))), None)


def _flags(argv: Collection[str]) -> set[str]:
    """List the flags of a command line, with dashes."""
    return {_dashed(word.partition("=")[0]) for word in argv if word.startswith("--")}


def _dashed(name: str) -> str:
    """Write a flag's name with dashes; after a dot follows a field of its value, whose name is kept."""
    flag, dot, field = name.partition(".")
    return flag.replace("_", "-") + dot + field
