"""Parse answers with openai-harmony, where the package and its vocabulary file are at hand."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.bounded_file import read_bounded

FinalMessage = Callable[[NDArray[np.int32]], str | None]
"""Returns the last final message of an answer; None without one or if the answer cannot be parsed."""

VOCABULARY = "o200k_base.tiktoken"
_MAX_BYTES = 16 << 20
# Built into openai-harmony, which downloads another file.
_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


class HarmonyError(ValueError):
    """The parser cannot be used; one line."""


def load_harmony(directory: Path) -> FinalMessage:
    """Load the parser; it never uses the network.

    Args:
        directory: Holds the vocabulary file.

    Raises:
        HarmonyError: The package or its vocabulary file is missing.
    """
    try:
        sha256 = hashlib.sha256(read_bounded(directory / VOCABULARY, _MAX_BYTES)).hexdigest()
    except OSError as error:
        raise HarmonyError(f"{VOCABULARY}: {error.strerror}") from error
    if sha256 != _SHA256:
        raise HarmonyError(f"{VOCABULARY} has SHA-256 {sha256}, not {_SHA256}")
    # The library reads the variable when it loads an encoding.
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(directory.absolute())
    try:
        from openai_harmony import HarmonyError as ParseError
        from openai_harmony import Role, load_harmony_encoding
    except ImportError as error:
        raise HarmonyError(f"the package openai-harmony is missing: {error}") from error
    encoding = load_harmony_encoding("HarmonyGptOss")

    def final_message(token_ids: NDArray[np.int32]) -> str | None:
        try:
            messages = encoding.parse_messages_from_completion_tokens(
                token_ids.tolist(), Role.ASSISTANT, strict=False
            )
        except ParseError:
            return None
        finals = [message for message in messages if message.channel == "final"]
        return "".join(part.text for part in finals[-1].content).strip() if finals else None

    return final_message
