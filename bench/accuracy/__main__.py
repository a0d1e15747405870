"""`python -m bench.accuracy`: time and peak memory of `tokenfleet accuracy` on a log of official size.

The answers are random tokens of a stand-in vocabulary, without programs; each ends with a final message. The
real tokenizer.json is not needed: decoding looks up each token in a table of the same size.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.command import check_output, describe_commit, describe_machine, run_command, say, write_record
from bench.flag_help import FlagFormatter
from bench.processes import Processes, tail
from common.flags import FlagError
from sut.benchmark import BENCHMARK
from sut.byte_tokenizer import CHANNEL, MESSAGE, RETURN, SPECIAL_TOKENS

NAMES = ("aime25", "gpqa_diamond")
GOALS = {"seconds": 180.0, "peak_mib": 1024.0}
TIMEOUT_S = 1800.0
NUM_ORDINARY = BENCHMARK.first_special_id


def main(argv: list[str]) -> int:
    """Make the files, score the log, and print both figures; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.accuracy", description=__doc__
    )
    parser.add_argument(
        "--num-samples", type=int, default=BENCHMARK.accuracy_sample_count, help="answers, 2 or more"
    )
    parser.add_argument("--answer-len", type=int, default=10_000, help="tokens of each answer, 32 or more")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for the figures")
    args = parser.parse_args(argv)
    try:
        if args.num_samples < 2 or args.answer_len < 32:
            raise FlagError("--num-samples, --answer-len", "must be at least 2 and 32")
        check_output(args.output)
    except ValueError as error:
        print(f"bench.accuracy: {error}", file=sys.stderr)
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), args.num_samples, args.answer_len)
    for name, value in figures.items():
        say(f"{name:<22}{value:>14,.1f}" + (f"  goal: at most {GOALS[name]:,.0f}" if name in GOALS else ""))
    flags = {"num_samples": args.num_samples, "answer_len": args.answer_len}
    write_record(args.output, {"machine": machine, "flags": flags, "figures": figures})
    return int(any(figures[name] > goal for name, goal in GOALS.items()))


def measure(directory: Path, num_samples: int, answer_len: int) -> dict[str, float]:
    """Score a log once in a process of its own.

    Raises:
        RuntimeError: No score, or not the expected one.
    """
    started_s = time.monotonic()
    write_tokenizer(directory)
    write_reference(directory / "acc.parquet", num_samples)
    log = directory / "mlperf_log_accuracy.json"
    write_log(log, num_samples, answer_len)
    say(f"made the files in {time.monotonic() - started_s:.0f} s; {log.stat().st_size / 1e6:,.0f} MB of log")
    argv = [
        f"--mlperf-log={log}",
        f"--reference-data={directory / 'acc.parquet'}",
        f"--tokenizer={directory}",
    ]
    output = directory / "output.txt"
    started_s = time.monotonic()
    with Processes() as processes:
        ended = processes.run(["sut.results.accuracy", *argv], output, TIMEOUT_S)
    seconds = time.monotonic() - started_s
    # The score misses the target: every third answer is wrong.
    if ended.exit_code != 3:
        raise RuntimeError(f"tokenfleet accuracy: exit code {ended.exit_code} instead of 3: {tail(output)}")
    report = json.loads((directory / "accuracy.json").read_text())
    expected = sum(row % 3 != 0 for row in range(num_samples))
    num_correct = sum(counts["correct"] for counts in report["per_dataset"].values())
    if num_correct != expected:
        raise RuntimeError(f"{num_correct} correct answers instead of {expected}: {tail(output)}")
    return {
        "seconds": seconds,
        "cpu_seconds": ended.cpu_s,
        "peak_mib": ended.peak_mib,
        "million_tokens": num_samples * answer_len / 1e6,
        "million_tokens_per_s": num_samples * answer_len / 1e6 / seconds,
    }


def write_tokenizer(directory: Path) -> None:
    """Write a byte-level BPE of the real size: 95 characters, then distinct random words."""
    draw = random.Random(0)
    vocab = {chr(code): code - 32 for code in range(33, 127)} | {"\u0120": 0}
    while len(vocab) < NUM_ORDINARY:
        letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
        vocab.setdefault(draw.choice(("", "\u0120")) + letters, len(vocab))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": token_id, "content": text, "special": True, **flags}
        for token_id, text in SPECIAL_TOKENS.items()
    ]
    special_ids = {text: token_id for token_id, text in SPECIAL_TOKENS.items()}
    content = {
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        **{"version": "1.0", "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level},
        "model": {"type": "BPE", "vocab": vocab | special_ids, "merges": []},
    }
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def write_reference(path: Path, num_samples: int) -> None:
    """Write rows of both data sets in turn; the answers are 7 and C."""
    columns = {
        "dataset": [NAMES[row % 2] for row in range(num_samples)],
        "ground_truth": [("7", "C")[row % 2] for row in range(num_samples)],
    }
    pq.write_table(pa.table(columns), path)


def write_log(path: Path, num_samples: int, answer_len: int) -> None:
    """Write the log as LoadGen does."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="ascii") as file:
        file.write("[")
        for row in range(num_samples):
            data = _answer(rng, row, answer_len).astype("<i4").tobytes().hex().upper()
            comma = "," if row else ""
            start = f'{{ "seq_id" : {row}, "qsl_idx" : {row}'
            file.write(f'{comma}\n{start}, "data" : "{data}", "token_count" : {answer_len} }}')
        file.write("\n]\n")


def _answer(rng: np.random.Generator, row: int, answer_len: int) -> NDArray[np.int64]:
    end = [CHANNEL, *_encode("final"), MESSAGE, *_encode(_final_text(row)), RETURN]
    draft = rng.integers(len(range(32, 127)), NUM_ORDINARY, answer_len - len(end))
    return np.concatenate([draft, np.array(end)])


def _final_text(row: int) -> str:
    is_wrong = row % 3 == 0
    return ("Answer: 8" if is_wrong else "Answer: 7", "D" if is_wrong else "C")[row % 2]


def _encode(text: str) -> Iterator[int]:
    return (ord(char) - 32 for char in text)


if __name__ == "__main__":
    run_command(main)
