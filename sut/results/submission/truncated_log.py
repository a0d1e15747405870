"""Accuracy logs in a submission: the hash of the whole log, its beginning and end, and the kept original."""

import hashlib
import os
from pathlib import Path

# Source: tools/submission/truncate_accuracy_log.py; the checker refuses more than 10 KiB.
VIEWABLE_BYTES = 4096
_GAP = b"\n\n...\n\n"
_CHUNK_BYTES = 1 << 20


def copy_and_truncate(log: Path, original: Path, truncated: Path) -> str:
    """Copy an accuracy log whole to one path and truncated to another; returns its SHA-256 in hex.

    A log that fits into beginning and end is not truncated.

    Raises:
        OSError: A file cannot be read or written.
    """
    digest = hashlib.sha256()
    with log.open("rb") as source, original.open("xb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            copy.write(chunk)
        size = source.tell()
        source.seek(0)
        text = source.read(2 * VIEWABLE_BYTES)
        if size > len(text):
            source.seek(-VIEWABLE_BYTES, os.SEEK_END)
            text = text[:VIEWABLE_BYTES] + _GAP + source.read()
    truncated.write_bytes(text)
    return digest.hexdigest()
