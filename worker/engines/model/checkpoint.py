"""A checkpoint's directory, stop ids and limits, from its JSON files."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from common.flags import FlagError
from common.host_facts import nearest
from common.json_document import read_object

# owner/name or a bare name, as Hugging Face accepts them; excludes paths that begin or end with a slash.
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

_SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_local_experts", "num_experts_per_tok")
MODEL_SIZES = "model_sizes"
"""Fact with the result of read_sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Sizes from config.json that limit token ids, lengths and tensor parallel size."""

    vocab_size: int
    """Token ids are 0 <= id < vocab_size."""
    max_position_embeddings: int
    """Longest prompt and answer together, in tokens."""
    num_attention_heads: int
    num_key_value_heads: int


class Source(NamedTuple):
    """Where vLLM finds a model; fields as the arguments of find_checkpoint."""

    model: str
    revision: str | None
    cache_dir: str | None

    def find(self) -> tuple[Path, Path] | None:
        """Return the directories of the JSON files and of the weights; None before they are downloaded."""
        checkpoint, weights = find_checkpoint(*self), find_weights(*self)
        return None if checkpoint is None or weights is None else (checkpoint, weights)


def find_checkpoint(model: str, revision: str | None = None, cache_dir: str | None = None) -> Path | None:
    """Return the directory of a model's JSON files: the model itself or its Hugging Face snapshot.

    Args:
        model: A directory, or a Hugging Face name.
        revision: Branch, tag or commit of a Hugging Face name; None is the main branch.
        cache_dir: Searched before Hugging Face's default cache; vLLM downloads only weights to it.

    Returns:
        None for a Hugging Face name that is in neither cache; vLLM downloads the model.

    Raises:
        FlagError: Neither a directory nor a Hugging Face name.
    """
    if model and Path(model).is_dir():
        return Path(model)
    if not _REPO_ID.fullmatch(model) or model.startswith("."):
        raise FlagError("--model", f"no directory {model}")
    for folder in dict.fromkeys((cache_dir, None)):
        snapshot = _find_snapshot(model, revision, folder)
        if snapshot is not None and (snapshot / "config.json").exists():
            return snapshot
    return None


def find_weights(model: str, revision: str | None = None, cache_dir: str | None = None) -> Path | None:
    """Return the directory from which vLLM loads a model's weights; arguments as for find_checkpoint.

    Returns:
        None for a Hugging Face name whose weights are not cached; vLLM downloads them.
    """
    from huggingface_hub import constants

    if Path(model).is_dir():
        return Path(model)
    # With HF_HUB_OFFLINE vLLM replaces the name by the default cache's snapshot and ignores cache_dir.
    return _find_snapshot(model, revision, None if constants.HF_HUB_OFFLINE else cache_dir)


def _find_snapshot(model: str, revision: str | None, cache_dir: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, cache_dir=cache_dir, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def check_download(model: str, cache_dir: str | None = None) -> None:
    """Check that a model that is not cached can be downloaded.

    Raises:
        FlagError: Downloads are disabled, or the cache is not writable.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise FlagError("--model", f"{model} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set")
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    existing = nearest(cache)
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise FlagError("--model", f"{model} must be downloaded, and its cache {cache} cannot be written")


def read_sizes(checkpoint: Path) -> dict[str, int]:
    """Read the sizes that tell one model from another of its kind, as far as config.json has them.

    Raises:
        FlagError: config.json is missing or is not JSON.
    """
    config = _read_config(checkpoint)
    return {name: config[name] for name in _SIZES if type(config.get(name)) is int}


def read_limits(checkpoint: Path) -> ModelLimits:
    """Read the model's sizes from config.json.

    Raises:
        FlagError: config.json is missing, is not JSON or lacks a size.
    """
    config = _read_config(checkpoint)
    # Models without grouped-query attention omit num_key_value_heads: one per attention head.
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    return ModelLimits(**{field.name: _size(config, field.name, checkpoint) for field in fields(ModelLimits)})


def stop_token_ids(checkpoint: Path, generation_config_path: Path | None = None) -> tuple[int, ...]:
    """Join the end-of-sequence ids of generation_config.json and config.json, ascending.

    gpt-oss names 200002 (<|return|>), 199999 (<|endoftext|>) and 200012 (<|call|>) in the first file and
    only 200002 in the second.

    Args:
        checkpoint: The model's directory.
        generation_config_path: Replaces the checkpoint's own file; must exist.

    Raises:
        FlagError: A file cannot be read, an id is not in the vocabulary, or neither file has an id.
    """
    own = checkpoint / "generation_config.json"
    path = generation_config_path or own
    generation_config = read_object(path, "--model") if path != own or own.exists() else {}
    config = _read_config(checkpoint)
    vocab_size = _size(config, "vocab_size", checkpoint)
    ids = {
        *_ids(generation_config.get("eos_token_id"), path, vocab_size),
        *_ids(config.get("eos_token_id"), checkpoint / "config.json", vocab_size),
    }
    if not ids:
        raise FlagError(
            "--model",
            f"no stop ids: neither {path} nor {checkpoint / 'config.json'} names an eos_token_id; "
            "a vLLM engine without tokenizer would never stop",
        )
    return tuple(sorted(ids))


def _read_config(checkpoint: Path) -> dict[str, Any]:
    return read_object(checkpoint / "config.json", "--model")


def _size(config: dict[str, Any], name: str, checkpoint: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise FlagError("--model", f"{checkpoint / 'config.json'}: {name} is {value}, not 1 or more")
    return value


def _ids(value: object, path: Path, vocab_size: int) -> list[int]:
    """Return the ids of an eos_token_id as transformers writes it: an id, a list of ids, or null."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    ids = [token_id for token_id in found if type(token_id) is int and 0 <= token_id < vocab_size]
    if len(ids) < len(found):
        reason = f"{path}: eos_token_id is {value}, not token ids below the vocab_size {vocab_size}"
        raise FlagError("--model", reason)
    return ids
