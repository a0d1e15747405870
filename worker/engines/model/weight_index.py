"""Compares a checkpoint's weight files with its index: an engine may load a part as if it were the whole."""

from collections.abc import Iterable
from pathlib import Path

from common.flags import FlagError
from common.json_document import read_object

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
    weights = read_object(path, "--model", MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weights, dict):
        raise FlagError("--model", "has no weight_map", path)
    return {(str(file), str(name)) for name, file in weights.items()}
