"""Flags declared once: each is a field of a frozen dataclass, with its type, default, bound and help.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class PortConfig(Flags):
        port: Annotated[int, Flag("TCP port", ge=1, le=65535)] = 50051

The parser, the check of the bound, the key in the TOML file, --print-config and the tables of
docs/configuration.md are derived from the field. Defining a class with a number that has no bound raises
TypeError.
"""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from common.text import one_line

_Choice = TypeVar("_Choice", bound=str)
_Flags = TypeVar("_Flags", bound="Flags")


class FlagError(ValueError):
    """A flag, or a file that it names, cannot be used; one line for the user, exit code 2."""

    def __init__(self, flag: str, reason: str, value: object = None, *, names: Sequence[str] = ()) -> None:
        """Compose the line.

        Args:
            flag: With its dashes, e.g. --workers.
            reason: Names the value and the bound.
            value: The flag's value, usually a path; None: the reason contains it.
            names: All names of the flag, with dashes; default `flag` alone.
        """
        super().__init__(one_line(f"{flag}: {reason}" if value is None else f"{flag} {value}: {reason}"))
        self.flag = flag
        self.reason = reason
        self.value = value
        self.names = frozenset(names or (flag,))

    @property
    def value_and_reason(self) -> str:
        """The line without the flag."""
        return one_line(self.reason if self.value is None else f"{self.value}: {self.reason}")


class UnknownFlagsError(ValueError):
    """A command line has words that no flag accepts."""

    def __init__(self, words: Sequence[str]) -> None:
        """Compose the line."""
        super().__init__(one_line(f"unrecognized arguments: {' '.join(words)}"))
        self.words = tuple(words)


class Parser(argparse.ArgumentParser):
    """Raises a one-line exception for a bad flag, where argparse would print its usage and exit."""

    _unknown: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line; returns the values and the unrecognized words.

        Raises:
            FlagError: A flag has no value or a bad one.
        """
        self._unknown = ()
        # argparse would turn its error into text and call error().
        self.exit_on_error = False
        try:
            values, unknown = super().parse_known_args(args, namespace)
        except argparse.ArgumentError as error:
            raise self._to_flag_error(error) from error
        finally:
            self.exit_on_error = True
        # If there are any, parse_args calls error().
        self._unknown = unknown
        return values, unknown

    def error(self, message: str) -> NoReturn:
        """Raise the exception for an error that argparse found in the whole command line.

        Raises:
            UnknownFlagsError: No flag accepts some of the words.
            ValueError: A required flag is missing.
        """
        if self._unknown:
            raise UnknownFlagsError(self._unknown)
        raise ValueError(message)

    def _to_flag_error(self, error: argparse.ArgumentError) -> ValueError:
        if error.argument_name is None:
            return ValueError(error.message)
        lists = (action.option_strings for action in self._actions)
        names = next((names for names in lists if "/".join(names) == error.argument_name), ())
        return FlagError(error.argument_name, error.message, names=names)


def one_of(choices: Iterable[_Choice]) -> Callable[[str], _Choice]:
    """Return an argparse type that accepts these choices; its ArgumentTypeError names them."""
    known = {str(choice): choice for choice in choices}

    def read(text: str) -> _Choice:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
        return known[text]

    return read


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """Declaration of a flag, as metadata of `Annotated`; the field gives its type and default."""

    help: str
    """One sentence, with the unit."""
    _: dataclasses.KW_ONLY
    ge: float | None = None
    """Smallest value of a number. A number has either `ge` or `gt`."""
    gt: float | None = None
    """Exclusive lower bound of a number."""
    le: float | None = None
    """Largest value of a number; requires `ge`."""
    finite: bool = True
    """Whether infinity is refused."""
    metavar: str = ""
    """Placeholder of the value in --help; empty: derived from the type."""
    choices: Callable[[], Sequence[str]] | None = None
    """Returns the accepted values of a string; a StrEnum defines its own."""
    default_text: str = ""
    """Description of the default for --help and the docs; empty: the default value."""

    @property
    def bound(self) -> str:
        """The bound as text for the docs; empty without a bound."""
        if self.le is not None:
            return f"{self.ge}..{self.le}"
        return f"above {self.gt}" if self.gt is not None else "" if self.ge is None else f"{self.ge} or more"

    def admits(self, value: float) -> bool:
        """Return whether a number is within the bound; False for NaN."""
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and not (self.finite and abs(value) == math.inf)
        )

    def refusal(self, value: float) -> str:
        """Explain why a number is outside the bound."""
        if self.le is not None:
            return f"{value} is not in {self.bound}"
        if self.gt is not None:
            return f"{value} is not {self.bound}" + (" and finite" if self.finite else "")
        return f"{value} is below {self.ge}" + (
            " or not finite" if self.finite and isinstance(value, float) else ""
        )


class Declared(NamedTuple):
    """One flag of a configuration."""

    field: str
    """Name of the field."""
    kind: type
    """Type of the value; a tuple is a list of strings, separated by commas on the command line."""
    flag: Flag

    @property
    def name(self) -> str:
        """Name in a TOML file."""
        return self.field.replace("_", "-")

    @property
    def option(self) -> str:
        """Name on the command line."""
        return f"--{self.name}"

    @property
    def choices(self) -> Sequence[str]:
        """Values that the flag accepts; empty: any value of its type."""
        if self.flag.choices is not None:
            return self.flag.choices()
        return tuple(self.kind) if issubclass(self.kind, StrEnum) else ()

    @property
    def metavar(self) -> str:
        """Placeholder of the value."""
        return self.flag.metavar or "|".join(self.choices) or _METAVARS[self.kind]

    def check(self, value: object) -> None:
        """Check the bound.

        Raises:
            FlagError: Names flag, value and bound.
        """
        if isinstance(value, int | float) and not self.flag.admits(value):
            raise FlagError(self.option, self.flag.refusal(value))
        if isinstance(value, Path) and "\0" in str(value):
            raise FlagError(self.option, f"{str(value)!a} contains a NUL character")

    def facts(self, default: object = dataclasses.MISSING) -> str:
        """Return requirement, default and bound as text in parentheses, with a space before; empty: no facts.

        Args:
            default: Value of a flag that is not given; without one the flag is required.
        """
        facts = ["required"] * (default is dataclasses.MISSING)
        text = self.flag.default_text or self._default_text(default)
        facts += [f"default {text}"] * bool(text) + [self.flag.bound] * bool(self.flag.bound)
        return f" ({'; '.join(facts)})" if facts else ""

    def _default_text(self, default: object) -> str:
        if default is None or default is dataclasses.MISSING or default == ():
            return ""
        if isinstance(default, bool):
            return "on" if default else "off"
        return str(default)


class Flags:
    """Base of a frozen dataclass whose annotated fields are flags.

    A field without a `Flag` is not a flag and cannot be set on the command line.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """Check the declarations.

        Raises:
            TypeError: A number has no bound, another type has one, or a value has no Flag.
        """
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            if (mistake := _mistake(hint)) is not None:
                raise TypeError(f"{cls.__name__}.{name}: {mistake}")

    def __post_init__(self) -> None:
        """Check every bound, then the combination of flags.

        Raises:
            FlagError: Names flag, value and bound.
        """
        for flag in declared(type(self)):
            flag.check(getattr(self, flag.field))
        self._check_together()

    def _check_together(self) -> None:
        """Check the combination of flags; a configuration overrides this method.

        Raises:
            FlagError: Names flag, value and bound.
        """


_METAVARS: dict[type, str] = {bool: "", int: "N", float: "X", str: "TEXT", Path: "FILE", tuple: "A[,B...]"}


def _split(hint: object) -> tuple[type, Flag | None]:
    """Return the type of a field's value, with None removed, and its Flag."""
    flag = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Flag)), None)
    bare: Any = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        bare = next(part for part in typing.get_args(bare) if part is not type(None))
    return typing.get_origin(bare) or bare, flag


def _mistake(hint: object) -> str | None:
    """Return the mistake in a declaration, or None."""
    kind, flag = _split(hint)
    readable = kind in _METAVARS or issubclass(kind, StrEnum)
    if flag is None:
        return f"a value of type {kind.__name__} needs a Flag" if readable else None
    if not readable:
        return f"no flag has a value of type {kind.__name__}"
    has_bound = (flag.ge is None) != (flag.gt is None) and (flag.le is None or flag.ge is not None)
    if kind in (int, float) and not has_bound:
        return "a number needs a bound: ge, gt, or ge and le"
    has_any = any(bound is not None for bound in (flag.ge, flag.gt, flag.le))
    return "only a number has a bound" if kind not in (int, float) and has_any else None


def declared(config: type[Flags]) -> tuple[Declared, ...]:
    """List the flags of a configuration, in the order of its fields."""
    hints = typing.get_type_hints(config, include_extras=True)
    found = ((name, *_split(hint)) for name, hint in hints.items())
    return tuple(Declared(name, kind, flag) for name, kind, flag in found if flag is not None)


def names(config: type[Flags]) -> list[str]:
    """List the flags of a configuration by their names in a TOML file."""
    return [flag.name for flag in declared(config)]


def add_flags(
    parser: argparse._ActionsContainer,
    config: type[Flags],
    defaults: Mapping[str, object] | None = None,
    hidden: Collection[str] = (),
) -> None:
    """Add every flag of a configuration to a parser.

    Args:
        parser: Parser to extend.
        config: Class that declares the flags.
        defaults: Values by field that replace the declared defaults; their flags are not required.
        hidden: Fields whose flags --help does not list, because the program refuses them with its own reason.
    """
    own = default_values(config)
    used = own | dict(defaults or {})
    for flag in declared(config):
        # A default that only this program has stands for a value that it does not need.
        default = own.get(flag.field, None if flag.field in used else dataclasses.MISSING)
        text = (flag.flag.help + flag.facts(default)).replace("%", "%%")
        text = argparse.SUPPRESS if flag.field in hidden else text
        if flag.kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag.option, action=action, default=used[flag.field], help=text)
            continue
        parser.add_argument(
            flag.option,
            type=_reader(flag),
            metavar=flag.metavar,
            required=flag.field not in used,
            default=used.get(flag.field),
            help=text,
        )


def default_values(config: type[Flags]) -> dict[str, object]:
    """Return the declared defaults by field, without required flags."""
    assert dataclasses.is_dataclass(config)
    flags = {flag.field for flag in declared(config)}
    found = {field.name: field.default for field in dataclasses.fields(config) if field.name in flags}
    return {name: default for name, default in found.items() if default is not dataclasses.MISSING}


def changed_flags(config: Flags) -> list[str]:
    """List the fields of a configuration whose values differ from their defaults; required ones always do."""
    own = default_values(type(config))
    fields = [flag.field for flag in declared(type(config))]
    return [name for name in fields if name not in own or getattr(config, name) != own[name]]


def _reader(flag: Declared) -> Callable[[str], object]:
    if flag.flag.choices is not None:
        return one_of(flag.choices)
    if issubclass(flag.kind, StrEnum):
        return one_of(flag.kind)
    return _comma_separated if flag.kind is tuple else flag.kind


def _comma_separated(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def build(config: type[_Flags], values: argparse.Namespace, **others: object) -> _Flags:
    """Build a configuration from parsed values.

    Args:
        config: Class to build.
        values: Result of a parser with these flags.
        others: Values of the fields that are not flags.

    Raises:
        FlagError: Names flag, value and bound.
    """
    given = {flag.field: getattr(values, flag.field) for flag in declared(config)}
    return config(**given, **others)
