"""Reads the tables of a plan; every refusal names file and entry."""

import difflib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from common.config_file import Table, type_mismatch
from common.flags import Declared, FlagError, Flags, declared, default_values

_Settings = TypeVar("_Settings", bound=Flags)


class PlanError(FlagError):
    """A plan cannot be carried out; the line names file, entry and reason."""

    def __init__(self, path: Path, entry: str, reason: str) -> None:
        """Compose the line.

        Args:
            path: The plan.
            entry: Table and key; empty: the file as a whole.
            reason: Names the value and the bound.
        """
        super().__init__(f"{path}: {entry}" if entry else str(path), reason)


class PlanReader:
    """Reads the tables of one file."""

    def __init__(self, path: Path, tables: dict[str, Any]) -> None:
        """Take the parsed file."""
        self.path = path
        self._tables = tables

    def error(self, entry: str, reason: str) -> PlanError:
        """Compose a refusal of one entry."""
        return PlanError(self.path, entry, reason)

    def check_tables(self, known: Iterable[str]) -> None:
        """Refuse tables that no plan has."""
        for name in self._tables:
            if name not in known:
                raise self.error(f"[{name}]", f"unknown table{nearest(name, known)}")

    def has(self, name: str) -> bool:
        """Return whether the plan has a table."""
        return name in self._tables

    def table(self, name: str) -> Table:
        """Return a table by its dashed keys; empty if the plan does not have it."""
        return self.dashed(f"[{name}]", self._tables.get(name, {}))

    def fields(self, name: str) -> dict[str, str]:
        """Return a table of values as text, by its keys as they are written."""
        found = self._tables.get(name, {})
        if not isinstance(found, dict):
            raise self.error(f"[{name}]", "is no table")
        return {key: str(value) for key, value in found.items()}

    def table_list(self, name: str) -> list[object]:
        """Return an array of tables; empty if the plan does not have it."""
        found = self._tables.get(name, [])
        if not isinstance(found, list):
            raise self.error(f"[{name}]", f"is no array of tables; write [[{name}]]")
        return found

    def dashed(self, entry: str, table: object) -> Table:
        """Return a table with dashes for underscores in its keys."""
        if not isinstance(table, dict):
            raise self.error(entry, "is no table")
        found: Table = {}
        for key, value in table.items():
            name, dot, field = key.partition(".")
            name = name.replace("_", "-") + dot + field
            if name in found:
                raise self.error(f"{entry} {key}", "given twice")
            found[name] = value
        return found

    def optional(self, settings: type[_Settings], name: str) -> _Settings | None:
        """Read a table that a plan may leave out."""
        return self.settings(settings, name) if self.has(name) else None

    def settings(self, settings: type[_Settings], name: str) -> _Settings:
        """Read a table.

        Raises:
            PlanError: An unknown or missing key, or a bad value.
        """
        table = self.table(name)
        flags = {flag.name: flag for flag in declared(settings)}
        for key in table:
            if key not in flags:
                raise self.error(f"[{name}] {key}", f"unknown key{nearest(key, flags)}")
        values = {
            flag.field: self._value(f"[{name}] {key}", flag, table[key])
            for key, flag in flags.items()
            if key in table
        }
        given = default_values(settings) | values
        for flag in flags.values():
            if flag.field not in given:
                raise self.error(f"[{name}] {flag.name}", "missing")
        try:
            return settings(**values)
        except FlagError as error:
            raise self.error(f"[{name}] {error.flag.removeprefix('--')}", error.value_and_reason) from error

    def _value(self, entry: str, flag: Declared, value: object) -> object:
        if (mismatch := type_mismatch(value, flag.kind)) is not None:
            raise self.error(entry, mismatch)
        if issubclass(flag.kind, StrEnum) and value not in flag.choices:
            raise self.error(entry, f"{value!r} is not one of {', '.join(flag.choices)}")
        if flag.kind is tuple and isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return flag.kind(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is most alike."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return "".join(f"; nearest: {near}" for near in found)
