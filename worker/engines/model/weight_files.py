"""The weight files of a checkpoint, and the parts of them that are read to compare checkpoints."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.flags import FlagError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz", ".tensors")
SAFETENSORS = ".safetensors"
# Load formats of vLLM that prefer files of other formats even if there are safetensors.
_OTHER_FORMATS = frozenset({"pt", "npcache", "gguf", "tensorizer"})
# Files of a training run with the suffix of weights.
# Source: vLLM, filter_files_not_needed_for_inference.
_TRAINING_FILES = frozenset(
    {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
)

PAGE_BYTES = 4096
WHOLE_BYTES = 2 << 20
"""Smaller tensors are read completely."""
PIECE_BYTES = 16 << 20
"""Longest piece of a tensor or file that contributes its own pages."""
MAX_SLICES = 1024
"""Slices of a tensor along its first axis: one per expert of a layer. Longer axes are grouped."""
RANDOM_PAGES = 2
"""Pages of each piece between its first and its last."""
# Source: safetensors, MAX_HEADER_SIZE.
MAX_HEADER_BYTES = 100_000_000


class Extent(NamedTuple):
    """A range of bytes of one file that is sampled as a unit: a tensor, or a file of unknown structure."""

    name: str
    """Name of the tensor, or of the file."""
    path: Path
    start: int
    end: int
    num_slices: int
    """Equal parts that each contribute pages of their own."""
    description: str
    """What the file says about it: data type and shape."""

    def reads(self) -> Iterator[tuple[int, int]]:
        """Yield the start and the length of each read, ascending and without overlap.

        Up to WHOLE_BYTES everything; of a longer extent the first, the last and RANDOM_PAGES other pages of
        each piece. The positions depend on the name only, so that all workers read the same pages.
        """
        length = self.end - self.start
        if length <= WHOLE_BYTES:
            yield from [(self.start, length)] if length else []
            return
        begun = reached = self.start
        for start, end in self._pages():
            if start > reached:
                yield begun, reached - begun
                begun = start
            reached = max(reached, end)
        yield begun, reached - begun

    def _pages(self) -> Iterator[tuple[int, int]]:
        """Yield pages as start and end, ascending; neighbouring ones may touch or overlap."""
        length = self.end - self.start
        # Each slice is cut into pieces of at most PIECE_BYTES.
        cuts = math.ceil(length / (self.num_slices * PIECE_BYTES))
        num_pieces = self.num_slices * cuts
        for piece in range(num_pieces):
            start = self.start + length * piece // num_pieces
            end = self.start + length * (piece + 1) // num_pieces
            yield start, min(start + PAGE_BYTES, end)
            yield from sorted(self._random_pages(piece, start, end))
            yield max(end - PAGE_BYTES, start), end

    def _random_pages(self, piece: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        key = hashlib.sha256(f"{self.name}/{piece}".encode()).digest()
        for index in range(RANDOM_PAGES):
            number = int.from_bytes(key[8 * index : 8 * index + 8], "little")
            # Aligned to the file's pages: another alignment would read two pages from the disk for one.
            page = (start + number % (end - start)) // PAGE_BYTES * PAGE_BYTES
            page = max(min(page, end - PAGE_BYTES), start)
            yield page, min(page + PAGE_BYTES, end)


def find_weight_files(folder: Path, load_format: str) -> list[Path]:
    """List the weight files of a directory, by name.

    Raises:
        FlagError: There is none: weights whose content is unknown cannot be compared.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in WEIGHT_SUFFIXES and path.name not in _TRAINING_FILES
    )
    safe = [path for path in found if path.suffix == SAFETENSORS]
    chosen = safe if safe and load_format not in _OTHER_FORMATS else found
    if not chosen:
        raise FlagError("--model", f"no weights in {folder}: no file ends in {', '.join(WEIGHT_SUFFIXES)}")
    return chosen


def read_extents(path: Path) -> list[Extent]:
    """Return the parts of a weight file to sample: its tensors, or the whole file if it is no safetensors.

    Raises:
        FlagError: The file cannot be read, or its header is malformed.
    """
    try:
        size = path.stat().st_size
        if path.suffix != SAFETENSORS:
            return [Extent(path.name, path, 0, size, 1, f"{size} bytes")]
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= min(size - 8, MAX_HEADER_BYTES):
                raise _malformed(path, f"its header has {header_bytes} bytes, the file {size}")
            header = file.read(header_bytes)
    except OSError as error:
        raise FlagError("--model", f"cannot read {path}: {error.strerror}") from error
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        return [_tensor(path, 8 + header_bytes, size, *item) for item in sorted(tensors.items())]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        if isinstance(error, FlagError):
            raise
        raise _malformed(path, f"its header is not understood: {error!r}") from error


def _tensor(path: Path, data_start: int, size: int, name: str, entry: dict[str, Any]) -> Extent:
    start, end = entry["data_offsets"]
    shape = [int(length) for length in entry["shape"]]
    if not 0 <= start <= end <= size - data_start:
        raise _malformed(path, f"tensor {name[:80]} ends at byte {end} of {size - data_start}")
    # In a tensor of three or more dimensions the first axis counts experts; [1, experts, ...] the second.
    slices = next((length for length in shape[:-2] if length > 1), 1)
    description = json.dumps([entry["dtype"], shape, start, end])
    return Extent(
        name, path, data_start + start, data_start + end, max(1, min(slices, MAX_SLICES)), description
    )


def _malformed(path: Path, why: str) -> FlagError:
    return FlagError("--model", f"{path} is no complete safetensors file: {why}")


class OpenFiles:
    """Weight files opened for reads of single pages from several threads; a context manager."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> "OpenFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def open(self, path: Path) -> None:
        """Open a file; to be called before the threads start."""
        descriptor = self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # No read-ahead: it would read many times the bytes that are asked for.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, path: Path, start: int, length: int) -> bytes:
        """Read a range.

        Raises:
            OSError: The file cannot be read, or has become shorter.
        """
        found = os.pread(self._descriptors[path], length, start)
        if len(found) < length:
            raise OSError(0, f"ends before byte {start + length}")
        return found
