"""The race file: configurations of an engine, as TOML.

    [flags]                         # of every configuration, as in a preset
    moe-backend = "marlin"

    [[configuration]]
    name = "marlin-fp8"
    rows = [1024, 640]              # requests that run at a time, one window each
    flags = { kv-cache-dtype = "fp8" }
    environment = { VLLM_X = "1" }
    prefill-group-tokens = [0, 7040]  # prompts in groups of so many tokens, for each window; default: none

A configuration's flags take precedence over the common ones.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.bounded_file import read_bounded
from common.config_file import MAX_CONFIG_BYTES, Table, parse_toml, to_argv
from common.flags import FlagError

FLAG = "--configs"
MAX_ROWS = 1 << 16
_NAME = re.compile(r"[\w.-]{1,60}")
_GROUPS = "prefill-group-tokens"
_KEYS = {"name", "rows", "flags", "environment", _GROUPS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One entry of the file."""

    name: str
    rows: list[int]
    """Requests that run at a time in each window, not ascending."""
    flags: Table
    """vLLM's flags, with the common ones."""
    environment: dict[str, str]
    prefill_group_tokens: list[int]
    """Prompt tokens of a group in each window; 0: each request follows the one that ended at once."""

    def argv(self, max_model_len: int) -> list[str]:
        """Return vLLM's command line, with the flags that the race needs unless the file sets them."""
        needed: Table = {
            "max-num-seqs": self.rows[0],
            "max-model-len": max_model_len,
            "enable-prefix-caching": True,
        }
        return to_argv(needed | self.flags)

    def definition(self) -> dict[str, Any]:
        """Return what makes runs of one name comparable."""
        groups = {_GROUPS: self.prefill_group_tokens} if any(self.prefill_group_tokens) else {}
        return {"rows": self.rows, "flags": self.flags, "environment": self.environment, **groups}


def read_race_file(path: Path) -> list[Configuration]:
    """Read a race file.

    Raises:
        FlagError: Names the file and the entry: not readable, not TOML, or a wrong value.
    """
    try:
        document = parse_toml(read_bounded(path, MAX_CONFIG_BYTES).decode())
    except OSError as error:
        raise FlagError(FLAG, str(error.strerror), path) from error
    except ValueError as error:
        raise FlagError(FLAG, f"not TOML: {error}", path) from error
    common, entries = document.pop("flags", {}), document.pop("configuration", [])
    if document or not isinstance(common, dict) or not _is_list_of(entries, dict):
        raise FlagError(FLAG, "expected a table [flags] and entries [[configuration]] alone", path)
    found = [_read_entry(path, entry, common) for entry in entries]
    names = [one.name for one in found]
    if not names or len(set(names)) < len(names):
        raise FlagError(FLAG, f"{len(names)} configurations with {len(set(names))} names", path)
    return found


def choose(configurations: Sequence[Configuration], names: str, flag: str) -> list[Configuration]:
    """Return the configurations of a list of names with commas, in its order; all of them if it is empty.

    Args:
        configurations: All of the file.
        names: The list.
        flag: Flag that gives the list.

    Raises:
        FlagError: A name is unknown or given twice.
    """
    by_name = {one.name: one for one in configurations}
    asked = names.split(",") if names else [*by_name]
    for name in asked:
        if name not in by_name:
            raise FlagError(flag, f"{name!r} is not one of {', '.join(by_name)}")
        if asked.count(name) > 1:
            raise FlagError(flag, f"{name} is given {asked.count(name)} times")
    return [by_name[name] for name in asked]


def _read_entry(path: Path, entry: dict[str, Any], common: Table) -> Configuration:
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise FlagError(FLAG, f"name {name!r} is not 1 to 60 letters, digits, dots and dashes", path)
    for key in entry:
        if key not in _KEYS:
            raise FlagError(FLAG, f"{name}: {key} is not one of {', '.join(sorted(_KEYS))}", path)
    rows, flags, environment = entry.get("rows"), entry.get("flags", {}), entry.get("environment", {})
    if not _is_list_of(rows, int) or not rows or not all(1 <= row <= MAX_ROWS for row in rows):
        raise FlagError(FLAG, f"{name}: rows {rows} is not a list of numbers within 1 .. {MAX_ROWS}", path)
    if rows != sorted(rows, reverse=True):
        raise FlagError(FLAG, f"{name}: rows {rows} ascend; requests are only removed", path)
    if not isinstance(flags, dict) or not isinstance(environment, dict):
        raise FlagError(FLAG, f"{name}: flags and environment must be tables", path)
    groups = entry.get(_GROUPS, [0] * len(rows))
    if not _is_list_of(groups, int) or len(groups) != len(rows) or min(groups) < 0:
        reason = f"{name}: {_GROUPS} {groups} is not a number from 0 for each of {len(rows)} windows"
        raise FlagError(FLAG, reason, path)
    return Configuration(
        name=name,
        rows=rows,
        flags=common | flags,
        environment={str(key): str(value) for key, value in environment.items()},
        prefill_group_tokens=groups,
    )


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(type(element) is kind for element in value)
