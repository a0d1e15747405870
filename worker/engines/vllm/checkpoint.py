"""What a checkpoint's JSON files say: stop ids, limits, identity. Weights are never read."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.host_facts import nearest

# owner/name, or a bare name: what Hugging Face accepts and a path with a slash at either end is not.
_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """Sizes from config.json that bound what an engine may be asked for."""

    vocab_size: int
    """Token ids are 0 <= id < vocab_size."""
    max_position_embeddings: int
    """Longest prompt and answer together, in tokens."""
    num_attention_heads: int
    num_key_value_heads: int


def find_checkpoint(model: str, revision: str | None = None, cache_dir: str | None = None) -> Path | None:
    """Find the directory of a model's JSON files: itself, or its snapshot in the local Hugging Face cache.

    Args:
        model: A directory, or a Hugging Face name.
        revision: Branch, tag or commit of a Hugging Face name; None is its main branch.
        cache_dir: Looked at before Hugging Face's default: vLLM puts no more than weights there itself.

    Returns:
        None for a Hugging Face name that neither holds; vLLM downloads such a model.

    Raises:
        ValueError: Neither a directory nor a Hugging Face name.
    """
    if model and Path(model).is_dir():
        return Path(model)
    if not _REPO_ID.fullmatch(model) or model.startswith("."):
        raise ValueError(f"--model: no directory {model}")
    for folder in dict.fromkeys((cache_dir, None)):
        snapshot = _find_snapshot(model, revision, folder)
        if snapshot is not None and (snapshot / "config.json").exists():
            return snapshot
    return None


def find_weights(model: str, revision: str | None = None, cache_dir: str | None = None) -> Path | None:
    """Find the directory of a model's weights, where vLLM looks for them; arguments as of find_checkpoint.

    Returns:
        None for a Hugging Face name whose weights are not there; vLLM downloads them.
    """
    from huggingface_hub import constants

    if Path(model).is_dir():
        return Path(model)
    # Offline, vLLM takes the default cache's snapshot for a directory given to --model.
    return _find_snapshot(model, revision, None if constants.HF_HUB_OFFLINE else cache_dir)


def _find_snapshot(model: str, revision: str | None, cache_dir: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, cache_dir=cache_dir, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def check_download(model: str, cache_dir: str | None = None) -> None:
    """Check that a model that the cache does not hold may be put there.

    Raises:
        ValueError: Downloads are forbidden, or the cache cannot be written.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"--model: {model} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set")
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    there = nearest(cache)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"--model: {model} is to be downloaded, and its cache {cache} cannot be written")


def read_limits(checkpoint: Path) -> ModelLimits:
    """Read the sizes of the model.

    Raises:
        ValueError: config.json is missing, is not JSON or lacks a size.
    """
    config = _read_config(checkpoint)
    # A model without grouped-query attention names no key-value heads: each head has its own.
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    return ModelLimits(**{field.name: _size(config, field.name, checkpoint) for field in fields(ModelLimits)})


def stop_token_ids(checkpoint: Path, generation_config_path: Path | None = None) -> tuple[int, ...]:
    """Join the end-of-sequence ids of generation_config.json and config.json, ascending.

    gpt-oss names 200002 (<|return|>), 199999 (<|endoftext|>) and 200012 (<|call|>) in the first file and
    only 200002 in the second.

    Args:
        checkpoint: The model's directory.
        generation_config_path: Read instead of the checkpoint's own file, and must exist.

    Raises:
        ValueError: A file that cannot be read, an id that is no integer, or no id at all.
    """
    own = checkpoint / "generation_config.json"
    path = generation_config_path or own
    generation_config = _read_json(path) if path != own or own.exists() else {}
    ids = {
        *_ids(generation_config.get("eos_token_id"), path),
        *_ids(_read_config(checkpoint).get("eos_token_id"), checkpoint / "config.json"),
    }
    if not ids:
        raise ValueError(
            f"--model: no stop ids: neither {path} nor {checkpoint / 'config.json'} names an eos_token_id; "
            "a vLLM engine without tokenizer would never stop"
        )
    return tuple(sorted(ids))


def model_hash(checkpoint: Path, weights: Path) -> str:
    """Hash config.json, generation_config.json and the names and sizes of the weight files.

    Two models with equal hashes are the same unless weights were changed in place.

    Args:
        checkpoint: Directory of the JSON files.
        weights: Directory of the weight files, mostly the same.

    Returns:
        SHA-256 in hex.

    Raises:
        ValueError: config.json is missing.
    """
    _read_config(checkpoint)
    facts: dict[str, str | int | None] = {}
    for name in ("config.json", "generation_config.json"):
        path = checkpoint / name
        facts[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    # stat follows the links that a Hugging Face snapshot is made of.
    facts.update({path.name: path.stat().st_size for path in weights.glob("*.safetensors")})
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_config(checkpoint: Path) -> dict[str, Any]:
    return _read_json(checkpoint / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--model: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--model: {path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--model: {path} holds no JSON object")
    return content


def _size(config: dict[str, Any], name: str, checkpoint: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"--model: {checkpoint / 'config.json'}: {name} is {value}, not 1 or more")
    return value


def _ids(value: object, path: Path) -> list[int]:
    """Take what transformers writes: an id, a list of ids, or null."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    ids = [token_id for token_id in found if type(token_id) is int and token_id >= 0]
    if len(ids) < len(found):
        raise ValueError(f"--model: {path}: eos_token_id is {value}, not token ids of 0 or more")
    return ids
