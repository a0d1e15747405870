"""Replaces files: each whole or not at all, and of several the last only if the others are there."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def replace_files(directory: Path, texts: Mapping[str, str | None]) -> None:
    """Replace files; a disk that is full changes nothing.

    A process that is killed leaves one file as it was or new, and of several files no last one. Two processes
    write one after the other.

    Args:
        directory: Where the files are.
        texts: Content by name; None removes the file.

    Raises:
        OSError: A file cannot be written; it is named.
    """
    written: dict[str, Path] = {}
    with _locked(directory), contextlib.ExitStack() as partials:
        for name, text in texts.items():
            if text is not None:
                written[name] = partials.enter_context(_partial_file(directory / name))
                _write(written[name], text)
        if len(texts) > 1:
            for name in reversed(list(texts)):
                (directory / name).unlink(missing_ok=True)
        for name, partial in written.items():
            os.replace(partial, directory / name)


def partial_path(path: Path) -> Path:
    """Return the path under which a file is written before it gets its name."""
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield another path; the file written there gets its name if the block ends without an error.

    Raises:
        OSError: The block's; see `named_errors`.
    """
    with _partial_file(path) as partial:
        yield partial
        os.replace(partial, path)


@contextlib.contextmanager
def named_errors(path: Path, temporary: Path) -> Iterator[None]:
    """Let an OSError of the `with` block name a path that its user knows.

    Args:
        path: File or directory that is written.
        temporary: Path under which it is written before it gets its name.

    Raises:
        OSError: The block's. It names the path where it named the temporary one, or nothing, as that of a
            full disk does.
    """
    try:
        yield
    except OSError as error:
        # The error of a copy or a move has two names.
        names = [Path(name) for name in (error.filename2, error.filename) if name is not None] or [temporary]
        own = [path / name.relative_to(temporary) for name in names if name.is_relative_to(temporary)]
        if error.errno is None or not own:
            raise
        raise OSError(error.errno, error.strerror, str(own[0])) from error


@contextlib.contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    """Yield the path under which a file is written; at the end nothing is left there."""
    partial = partial_path(path)
    with named_errors(path, partial):
        try:
            # A killed process's file, or a link or a FIFO under its name, is not written to.
            partial.unlink(missing_ok=True)
            yield partial
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory; not every network file system has locks on directories."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
