"""Help texts of the benchmark programs: the sentence of each flag, with its default or `required`."""

import argparse
import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.command import flag, say


class FlagFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows the program's docstring as it is, and the default of each flag behind its sentence."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not action.option_strings or action.default is argparse.SUPPRESS or "(default" in text:
            return text
        if action.required:
            return f"{text} (required)"
        return text + _default(action.default).replace("%", "%%")


def _default(default: object) -> str:
    if default is None or default in ([], ""):
        return ""
    if isinstance(default, bool):
        return f" (default {'on' if default else 'off'})"
    shown = " ".join(map(str, default)) if isinstance(default, tuple | list) else default
    return f" (default {shown})"


_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def add_fields(parser: argparse.ArgumentParser, plan: type, num_values: dict[str, int] | None = None) -> None:
    """Add a flag for each field of a dataclass; its help text is the field's docstring.

    Args:
        parser: Parser to extend.
        plan: Each field has a default, whose type is that of the flag; None stands for a path.
        num_values: Number of values of a tuple, by field; without a number it is one or more.
    """
    for field in dataclasses.fields(plan):
        default, text = field.default, sentences(plan)[field.name]
        reads: dict[str, Any] = {"type": Path if default is None else type(default)}
        if isinstance(default, bool):
            reads = {"action": "store_true"}
        elif isinstance(default, tuple):
            reads = {"type": type(default[0]), "nargs": (num_values or {}).get(field.name, "+")}
        if "type" in reads:
            reads["metavar"] = _METAVARS[reads["type"]]
        parser.add_argument(flag(field.name), default=default, help=text.replace("%", "%%"), **reads)


@functools.cache
def sentences(plan: type) -> dict[str, str]:
    """Return the docstring of each field of a class and of its bases, in one line without the full stop."""
    found: dict[str, str] = {}
    for base in reversed(plan.__mro__[:-1]):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                shown = str(text.value.value) if is_text else ""  # type: ignore[attr-defined]  # is_text
                # A field that only changes the default keeps its sentence.
                found[field.target.id] = " ".join(shown.split()).rstrip(".") or found.get(field.target.id, "")
    return found


def prints_usage(argv: Sequence[str], doc: str | None) -> bool:
    """Print the usage of a program without flags of its own, if its first word asks for it.

    Args:
        argv: The command line.
        doc: Docstring of the module; its first words in backticks after "python -m" are the command line.
    """
    if not {"-h", "--help"} & set(argv[:1]):
        return False
    command = re.search(r"`(python -m [^`]+)`", doc or "")
    assert command is not None
    say(f"usage: {command[1]}\n\n{doc}")
    return True
