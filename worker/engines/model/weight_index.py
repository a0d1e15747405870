"""Compares a checkpoint's weight files with its index: an engine may load a part as if it were the whole."""

from collections.abc import Iterable
from pathlib import Path

from common.bounded_file import parse_json, read_bounded
from common.flags import FlagError

# An index has about 100 bytes for each tensor.
MAX_INDEX_BYTES = 64 << 20
_PATTERN = "*.safetensors.index.json"


def check_index(folder: Path, tensors: Iterable[tuple[Path, str]]) -> None:
    """Check that every tensor of an index is in the file that it names.

    vLLM 0.32.0 does not check by default that each parameter of a quantized model was loaded. An index of
    which no file is there belongs to another format of the same weights.

    Args:
        folder: Directory of the weight files and of the index.
        tensors: File and name of each tensor.

    Raises:
        FlagError: A file or a tensor is missing, or an index cannot be read.
    """
    found = {(path.name, name) for path, name in tensors}
    files = {name for name, _ in found}
    for index in sorted(folder.glob(_PATTERN)):
        listed = _read_index(index)
        if files.isdisjoint(file for file, _ in listed):
            continue
        if missing := sorted(listed - found):
            file, name = missing[0]
            what = f"{len(missing)} of {len(listed)} tensors that {index.name} lists, first {name} in {file}"
            raise FlagError("--model", f"{folder} lacks {what}: download it again")


def _read_index(path: Path) -> set[tuple[str, str]]:
    """Return file and name of each tensor of an index.

    Raises:
        FlagError: It cannot be read, or is none.
    """
    try:
        content = parse_json(read_bounded(path, MAX_INDEX_BYTES))
    except OSError as error:
        raise FlagError("--model", f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise FlagError("--model", f"{path} is not JSON: {error}") from error
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise FlagError("--model", f"{path} has no weight_map")
    return {(str(file), str(name)) for name, file in weights.items()}
