"""Values of arguments as JSON, for the facts that a worker reports: equal values give equal texts."""

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping

from worker.engines.model.redaction import redact

_QUIET_WORDS = (
    *("LOG", "LOGGING", "LOGO", "STATS", "PORT", "HOST", "PATH", "ROOT", "TIMEOUT", "DIR", "KVCACHE", "BIND"),
    *("LOOPBACK", "KEY", "SECRET", "PASSWORD", "PASSWD"),
)
MAX_VALUE_LEN = 400
"""Longer values are replaced by their hash."""


def encode(value: object) -> str:
    """Return a value as JSON that is equal for equal values in every process."""
    return json.dumps(value, sort_keys=True, default=_plain)


def encode_public(name: str, value: object) -> str:
    """Return an argument's value as `encode` does, without secrets."""
    return encode(redact(name, json.loads(encode(value))))


def reported_variables(names: Iterable[str]) -> dict[str, str]:
    """Return the set variables among these names that can change what an engine computes, without secrets."""
    found = {name: os.environ[name] for name in sorted(names) if name in os.environ and not _is_quiet(name)}
    return {
        name: encode(value) if value.isdecimal() else encode_public(name, value)
        for name, value in found.items()
    }


def _is_quiet(name: str) -> bool:
    """Whether a variable places, limits or logs something, by the words of its name, or is a credential."""
    ends = ("_CACHE", "_RUN_ID", "_TOKEN", "_TOKENS")
    is_place = name.endswith(ends) and not name.endswith("_KV_CACHE")
    return is_place or any(word in _QUIET_WORDS for word in name.split("_"))


def _plain(value: object) -> object:
    """Reduce an object that JSON cannot hold, without addresses of memory."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, set | frozenset):
        return sorted(map(encode, value))
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    text = str(value)
    return type(value).__qualname__ if " at 0x" in text else text


def bounded(facts: Mapping[str, str]) -> dict[str, str]:
    """Replace values that are longer than MAX_VALUE_LEN by their hash."""
    return {
        name: value if len(value) <= MAX_VALUE_LEN else json.dumps(f"sha256:{sha256_of(value)}")
        for name, value in facts.items()
    }


def sha256_of(value: object) -> str:
    """Return the SHA-256 of a value's JSON, in hex."""
    return hashlib.sha256(encode(value).encode()).hexdigest()


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
