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
    partials = {name: partial_path(directory / name) for name, text in texts.items() if text is not None}
    with _locked(directory):
        try:
            for name, partial in partials.items():
                _write(partial, str(texts[name]))
            if len(texts) > 1:
                for name in reversed(list(texts)):
                    (directory / name).unlink(missing_ok=True)
            for name, partial in partials.items():
                os.replace(partial, directory / name)
        finally:
            for partial in partials.values():
                partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Return the path under which a file is written before it gets its name."""
    return path.with_name(f"{path.name}.partial")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield another path; the file written there gets its name if the block ends without an error.

    Raises:
        OSError: The block's; one without a name, as that of a full disk, gets the file's.
    """
    partial = partial_path(path)
    try:
        # A killed process's file, or a link or a FIFO under its name, is not written to.
        partial.unlink(missing_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
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
    try:
        # A killed process's file, or a link or a FIFO under its name, is not written to.
        path.unlink(missing_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
