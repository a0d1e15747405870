"""Hash of a checkpoint by content: its configuration files, and the headers and pages of its weights."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.bounded_file import read_bounded
from common.flags import FlagError
from worker.engines.model.weight_files import SAFETENSORS, Extent, OpenFiles, find_weight_files, read_extents
from worker.engines.model.weight_index import MAX_INDEX_BYTES, check_index

logger = logging.getLogger(__name__)

# Reads are short; over a network each waits for a round trip.
NUM_THREADS = 32
DUMMY = "dummy"
"""vLLM's load format for random weights."""
# Files beside the weights that change what vLLM loads. *.py: --trust-remote-code.
_CONFIG_PATTERNS = (
    "config.json",
    "generation_config.json",
    "params.json",
    "*quant*_config.json",
    "quantize_config.json",
    "adapter_config.json",
    "kv_cache_scales.json",
    "*.safetensors.index.json",
    "*.py",
)

# The largest of them is an index.
MAX_CONFIG_BYTES = MAX_INDEX_BYTES


class Stopped(Exception):
    """Hashing was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHash:
    """Hashes of one checkpoint, SHA-256 in hex."""

    config_files: str
    """Configuration files by content."""
    weight_headers: str
    """Names, shapes, data types and positions of all tensors, and the files they are in; empty: not read."""
    weight_content: str
    """Pages of every tensor; empty: not read."""
    draft_model: str = ""
    """Model hash of the draft model of speculative decoding; empty: there is none."""

    @property
    def model_hash(self) -> str:
        """Hash of all of it."""
        return _sha256([self.config_files, self.weight_headers, self.weight_content])

    @property
    def facts(self) -> dict[str, str]:
        """The parts by name, values as JSON, to name the part that differs."""
        parts = {
            "config_files_hash": self.config_files,
            "weight_headers_hash": self.weight_headers,
            "weight_content_hash": self.weight_content,
            "draft_model_hash": self.draft_model,
        }
        return {name: json.dumps(value) for name, value in parts.items() if value}


def hash_model(checkpoint: Path, weights: Path, load_format: str, stop: threading.Event) -> ModelHash:
    """Hash a checkpoint; weights that are not loaded (load format "dummy") are not read.

    Args:
        checkpoint: Directory of the JSON files.
        weights: Directory of the weight files, usually the same.
        load_format: vLLM's.
        stop: Ends the work early.

    Raises:
        FlagError: A file is missing, cannot be read or is malformed.
        Stopped: `stop` was set.
    """
    begun_s = time.monotonic()
    config_files = _hash_config_files(checkpoint)
    if load_format == DUMMY:
        return ModelHash(config_files=config_files, weight_headers="", weight_content="")
    extents = [item for path in find_weight_files(weights, load_format) for item in read_extents(path)]
    if all(item.path.suffix == SAFETENSORS for item in extents):
        check_index(weights, ((item.path, item.name) for item in extents))
    headers = _sha256([[item.path.name, item.name, item.description] for item in extents])
    content = _hash_content(extents, stop)
    logger.info("hashed %d tensors of %s in %.1f s", len(extents), weights, time.monotonic() - begun_s)
    return ModelHash(config_files=config_files, weight_headers=headers, weight_content=content)


def _hash_config_files(folder: Path) -> str:
    paths = {path for pattern in _CONFIG_PATTERNS for path in folder.glob(pattern)}
    return _sha256([[path.name, _digest_file(path)] for path in sorted(paths)])


def _digest_file(path: Path) -> str:
    try:
        return hashlib.sha256(read_bounded(path, MAX_CONFIG_BYTES)).hexdigest()
    except OSError as error:
        raise FlagError("--model", f"cannot read {path}: {error.strerror}") from error


def _hash_content(extents: list[Extent], stop: threading.Event) -> str:
    with OpenFiles() as files:

        def digest(extent: Extent) -> str:
            found = hashlib.sha256()
            for start, length in extent.reads():
                if stop.is_set():
                    raise Stopped
                found.update(files.read(extent.path, start, length))
            return found.hexdigest()

        try:
            for path in sorted({extent.path for extent in extents}):
                files.open(path)
            with ThreadPoolExecutor(NUM_THREADS, "checkpoint-hash") as pool:
                return _sha256(list(pool.map(digest, extents)))
        except OSError as error:
            raise FlagError(
                "--model", f"cannot read the weights {extents[0].path.parent}: {error}"
            ) from error


def _sha256(parts: Iterable[object]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
