"""Checks that an engine's package has the internal interfaces that a worker uses, and refuses an engine."""

import pkgutil
from collections.abc import Callable, Iterable

from common.flags import FlagError


class EngineUnavailable(FlagError):
    """This machine cannot run the engine.

    The line names the engine: it is chosen by --engine, by --backend, by a variable or by default.
    """

    def __init__(self, engine: str, reason: str) -> None:
        """Compose the line."""
        super().__init__(f"engine {engine}", reason, names=("--engine",))


def check_names(engine: str, names: Iterable[str], unsupported: Callable[[str], str]) -> None:
    """Resolve each name, as module:attribute.

    Args:
        engine: The engine.
        names: What the worker uses.
        unsupported: Composes the message with the engine's version and what it lacks.

    Raises:
        EngineUnavailable: Names the interface that is missing.
    """
    for name in names:
        try:
            pkgutil.resolve_name(name)
        except AttributeError as error:
            raise EngineUnavailable(engine, unsupported(f"has no {name}")) from error
        except ImportError as error:
            raise EngineUnavailable(engine, unsupported(f"has no {name} ({error})")) from error
