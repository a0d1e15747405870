"""A tokenizer whose ids are the bytes of UTF-8 text, with gpt-oss's special tokens at their official ids.

It stands in for the model's tokenizer in rehearsals: the text "A" is the id 65, and `<|return|>` the
official stop id.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sut.benchmark import BENCHMARK

CHANNEL, START, END, MESSAGE = BENCHMARK.message_tokens
RETURN = BENCHMARK.stop_ids[0].token_id
SPECIAL_TOKENS = {
    BENCHMARK.first_special_id: "<|startoftext|>",
    **BENCHMARK.message_tokens,
    **{stop.token_id: stop.text for stop in BENCHMARK.stop_ids},
}


def encode(*parts: str | int) -> NDArray[np.int32]:
    """Return the tokens of texts and special tokens, (T,)."""
    tokens = [np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else [part] for part in parts]
    return np.concatenate(tokens).astype(np.int32)


def write_tokenizer(directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into an existing directory.

    Raises:
        OSError: A file cannot be written.
    """
    special = [
        {"id": token_id, "content": text, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for token_id, text in SPECIAL_TOKENS.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": _byte_characters() | {text: token_id for token_id, text in SPECIAL_TOKENS.items()},
            "merges": [],
        },
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, content in {"tokenizer.json": tokenizer, "tokenizer_config.json": config}.items():
        (directory / name).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _byte_characters() -> dict[str, int]:
    """Return the character that stands for each byte in byte-level BPE.

    Source: the tokenizer of GPT-2: printable bytes of Latin-1 stand for themselves, the others for the
    characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    codes = {byte: byte for byte in printable} | {byte: 0x100 + rank for rank, byte in enumerate(others)}
    return {chr(codes[byte]): byte for byte in range(0x100)}
