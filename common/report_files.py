"""Replaces the files of one report together: the last one is there only if the others are."""

import os
from collections.abc import Mapping
from pathlib import Path


def replace_files(directory: Path, texts: Mapping[str, str | None]) -> None:
    """Replace files; a disk that is full changes nothing, and a process that is killed leaves no last file.

    Args:
        directory: Where the files are.
        texts: Content by name; None removes the file.

    Raises:
        OSError: A file cannot be written.
    """
    partials = {name: directory / f"{name}.partial" for name, text in texts.items() if text is not None}
    try:
        for name, partial in partials.items():
            partial.write_text(str(texts[name]), encoding="utf-8")
        for name in reversed(list(texts)):
            (directory / name).unlink(missing_ok=True)
        for name, partial in partials.items():
            os.replace(partial, directory / name)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
