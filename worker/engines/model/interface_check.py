"""Checks that an engine's package has the internal interfaces that a worker uses."""

import pkgutil
from collections.abc import Callable, Iterable

from common.flags import FlagError


def check_names(names: Iterable[str], unsupported: Callable[[str], str]) -> None:
    """Resolve each name, as module:attribute.

    Args:
        names: What the worker uses.
        unsupported: Composes the message with the engine's version and what it lacks.

    Raises:
        FlagError: Names the interface that is missing.
    """
    for name in names:
        try:
            pkgutil.resolve_name(name)
        except AttributeError as error:
            raise FlagError("--engine", unsupported(f"has no {name}")) from error
        except ImportError as error:
            raise FlagError("--engine", unsupported(f"has no {name} ({error})")) from error
