"""SHA-256 of complete weight files, kept in a file beside them with the size and time of each."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from common.atomic_files import replace_files
from common.bounded_file import read_bounded
from common.flags import FlagError
from worker.engines.model.weight_files import find_weight_files

SUMS_FILE = "weights.sha256.json"
COMMAND = "tokenfleet checkpoint-hash"
NUM_THREADS = 4
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSum:
    """Hash of one weight file, and what tells that the file has not changed since."""

    size: int
    mtime_ns: int
    sha256: str
    """Empty: not computed."""


def weights_sha256(sums: dict[str, FileSum]) -> str:
    """Return the hash of all weight files: of their names and hashes, by name."""
    text = "".join(f"{item.sha256}  {name}\n" for name, item in sorted(sums.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def read_weights_sha256(weights: Path, load_format: str) -> str:
    """Return the hash that write_sums has stored, if the weight files are still the same.

    Args:
        weights: Directory of the weight files.
        load_format: vLLM's; determines which files are weights.

    Returns:
        Empty if there is no stored hash.

    Raises:
        FlagError: The stored hash is not that of these files, or cannot be read.
    """
    path = weights / SUMS_FILE
    if not path.exists():
        return ""
    try:
        content = json.loads(read_bounded(path))
        stored = {name: FileSum(**item) for name, item in content["files"].items()}
        found = {item.name: _stat(item) for item in find_weight_files(weights, load_format)}
    except OSError as error:
        raise FlagError("--model", f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, FlagError):
            raise
        raise FlagError("--model", f"{path} was not written by {COMMAND}: {error!r}") from error
    for name in sorted(stored.keys() | found.keys()):
        if why := _difference(stored.get(name), found.get(name)):
            raise FlagError(
                "--model",
                f"{path} is stale: {name} {why}; run `{COMMAND} --model {weights}` again or remove the file",
            )
    return weights_sha256(stored)


def write_sums(weights: Path, load_format: str) -> dict[str, FileSum]:
    """Read the weight files completely and store their hashes beside them.

    Raises:
        FlagError: A file cannot be read or changes meanwhile, or the directory cannot be written.
    """
    paths = find_weight_files(weights, load_format)
    try:
        with ThreadPoolExecutor(NUM_THREADS, "weights-sha256") as pool:
            sums = {path.name: item for path, item in zip(paths, pool.map(_sum, paths), strict=True)}
        content = {"files": {name: asdict(item) for name, item in sums.items()}}
        replace_files(weights, {SUMS_FILE: json.dumps(content, indent=1) + "\n"})
    except OSError as error:
        raise FlagError("--model", f"{error.filename or weights}: {error.strerror}") from error
    return sums


def _sum(path: Path) -> FileSum:
    before, found = _stat(path), hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            found.update(block)
    if _stat(path) != before:
        raise FlagError("--model", f"{path} changed while it was read")
    return FileSum(size=before.size, mtime_ns=before.mtime_ns, sha256=found.hexdigest())


def _stat(path: Path) -> FileSum:
    found = path.stat()
    return FileSum(size=found.st_size, mtime_ns=found.st_mtime_ns, sha256="")


def _difference(stored: FileSum | None, found: FileSum | None) -> str:
    """Describe how a file differs from when it was hashed; empty if it does not."""
    if stored is None:
        return "was added"
    if found is None:
        return "is gone"
    if stored.size != found.size:
        return f"has {found.size} bytes, not {stored.size}"
    if stored.mtime_ns != found.mtime_ns:
        return f"was modified at {found.mtime_ns} ns, not at {stored.mtime_ns}"
    return ""
