"""Name a program's own flags in the refusals of code that knows them by other names, or not at all."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.flags import FlagError


@contextlib.contextmanager
def naming_flags(own: Mapping[str, str]) -> Iterator[None]:
    """Name a program's own flags in the refusals of a `with` block.

    Args:
        own: The program's flags by the names that the code in the block has for them, with dashes.

    Raises:
        FlagError: That of the block, with the name of the program's flag.
    """
    try:
        yield
    except FlagError as error:
        if error.flag not in own:
            raise
        raise FlagError(own[error.flag], error.reason, error.value) from error


@contextlib.contextmanager
def naming_output(flag: str, path: Path) -> Iterator[None]:
    """Name the flag of an output in an error of the `with` block that writes it.

    Args:
        flag: With its dashes.
        path: The flag's value.

    Raises:
        FlagError: For each OSError.
    """
    try:
        yield
    except OSError as error:
        raise FlagError(flag, str(error.strerror or error), path) from error
