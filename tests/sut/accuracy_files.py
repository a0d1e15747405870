"""Files for the accuracy evaluation, made by hand: a byte-level tokenizer, a log, reference data."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sut.benchmark import BENCHMARK

CHANNEL, MESSAGE, END, START, RETURN = 200_005, 200_008, 200_007, 200_006, 200_002
SPECIAL = {
    "<|channel|>": CHANNEL,
    "<|message|>": MESSAGE,
    "<|end|>": END,
    "<|start|>": START,
    "<|return|>": RETURN,
}
FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"


def final(text: str, draft: str = "") -> str:
    """Write an answer with a draft and a final message, as the model does."""
    return f"{ANALYSIS}{draft}<|end|><|start|>assistant{FINAL}{text}<|return|>"


def byte_alphabet() -> list[str]:
    """List the characters by which a byte-level vocabulary writes the bytes 0 to 255 (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def write_tokenizer(directory: Path) -> Path:
    """Write a tokenizer.json whose token 0 to 255 is that byte, with gpt-oss's ids of special tokens."""
    directory.mkdir(exist_ok=True)
    vocab = {char: byte for byte, char in enumerate(byte_alphabet())} | SPECIAL
    added = [
        {
            **{"id": token_id, "content": text, "single_word": False, "lstrip": False, "rstrip": False},
            **{"normalized": False, "special": True},
        }
        for text, token_id in SPECIAL.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    content = {
        **{"version": "1.0", "truncation": None, "padding": None, "normalizer": None},
        **{"added_tokens": added, "pre_tokenizer": byte_level, "post_processor": None},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


def encode(text: str) -> list[int]:
    """Encode a text for that tokenizer."""
    token_ids: list[int] = []
    while text:
        special = next((name for name in SPECIAL if text.startswith(name)), None)
        token_ids += [SPECIAL[special]] if special else list(text[0].encode())
        text = text[len(special or text[0]) :]
    return token_ids


def entry(sample: int, token_ids: list[int]) -> str:
    """Write one entry as LoadGen does."""
    data = b"".join(token_id.to_bytes(4, "little") for token_id in token_ids).hex().upper()
    count = len(token_ids)
    return f'{{ "seq_id" : {sample}, "qsl_idx" : {sample}, "data" : "{data}", "token_count" : {count} }}'


def write_log(path: Path, entries: list[str]) -> Path:
    """Write an accuracy log as LoadGen does."""
    path.write_text("[" + ",".join(f"\n{text}" for text in entries) + "\n]\n")
    return path


def write_reference(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write reference data: name and ground truth of each row."""
    names, truths = zip(*rows, strict=True)
    columns = dict(zip(BENCHMARK.grading_columns, (list(names), list(truths)), strict=True))
    pq.write_table(pa.table(columns), path)
    return path


def write_case(directory: Path, rows: list[tuple[str, str, str]]) -> list[str]:
    """Write all files for rows of data set, ground truth and answer; returns the flags that name them."""
    log = [entry(sample, encode(answer)) for sample, (_, _, answer) in enumerate(rows)]
    return [
        f"--mlperf-log={write_log(directory / 'mlperf_log_accuracy.json', log)}",
        f"--reference-data={write_reference(directory / 'acc.parquet', [row[:2] for row in rows])}",
        f"--tokenizer={write_tokenizer(directory / 'tokenizer')}",
    ]
