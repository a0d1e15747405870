"""Decode token ids with a tokenizer.json, as the official evaluator's transformers does."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from common.bounded_file import read_bounded
from common.json_document import entry, parse_json
from sut.benchmark import BENCHMARK

_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_MAX_BYTES = 256 << 20
"""The tokenizer.json of gpt-oss-120b has 27 MB."""


class TokenizerError(ValueError):
    """A tokenizer cannot be used; one line."""


class Detokenizer:
    """A tokenizer that only decodes, special tokens included."""

    def __init__(self, directory: Path) -> None:
        """Load the tokenizer.

        Raises:
            TokenizerError: The directory has no usable tokenizer.json.
        """
        content = _read(directory / _FILE)
        _check_config(directory / _CONFIG)
        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:
            # The library raises plain Exception.
            raise TokenizerError(f"{_FILE}: {str(error)[:200]}") from error
        _check_special_tokens(self._tokenizer)
        self.sha256 = hashlib.sha256(content).hexdigest()
        """Of tokenizer.json."""

    def decode(self, answers: Sequence[NDArray[np.int32]]) -> list[str]:
        """Decode answers, on all cores; an id that the vocabulary lacks decodes to nothing."""
        texts: list[str] = self._tokenizer.decode_batch(
            [token_ids.tolist() for token_ids in answers], skip_special_tokens=False
        )
        return texts


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, _MAX_BYTES)
    except OSError as error:
        raise TokenizerError(f"{path.name}: {error.strerror}") from error


def _check_special_tokens(tokenizer: Tokenizer) -> None:
    """Require the model's special tokens: without them no final message is found, and drafts are graded."""
    stops = {stop.token_id: stop.text for stop in BENCHMARK.stop_ids[:1]}
    for token_id, text in (BENCHMARK.message_tokens | stops).items():
        if tokenizer.decode([token_id], skip_special_tokens=False) != text:
            raise TokenizerError(f"{_FILE}: token {token_id} is not {text}: it is not the model's tokenizer")


def _check_config(path: Path) -> None:
    """Refuse what releases of transformers decode differently: spaces cleaned up after decoding."""
    if not path.exists():
        return
    try:
        config = parse_json(_read(path))
    except ValueError as error:
        raise TokenizerError(f"{path.name} is not JSON: {error}") from error
    if entry(config, "clean_up_tokenization_spaces"):
        raise TokenizerError(f"{path.name} sets clean_up_tokenization_spaces; gpt-oss-120b's does not")
