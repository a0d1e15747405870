"""Write the data files of a whole submission, the answers to them, a tokenizer and tests of programs.

    perf_eval_ref.parquet              performance and TEST09: 6,396 rows
    acc_eval_ref.parquet               accuracy: 4,395 rows, each question as often as officially
    acc_eval_compliance_gpqa.parquet   TEST07: the 990 GPQA rows of the accuracy data
    answers.parquet                    for --engine replay: an answer to each prompt of the three
    lcb_tests.jsonl                    tests of the LiveCodeBench questions
    tokenizer/                         the tokenizer of sut.byte_tokenizer
    expected.json                      the scores that the answers have

A share of the answers is right, the same in each data set. No two rows have the same prompt, so that each
answer is known whatever worker gives it: the text of a repeated question names the attempt.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.flags import Flag, FlagError, Flags
from sut.benchmark import BENCHMARK
from sut.byte_tokenizer import CHANNEL, END, MESSAGE, RETURN, START, encode, write_tokenizer
from sut.synthetic_files import EXISTS, MAX_SEED, MIN_LEN, draw_lens, temporary, write_table
from sut.synthetic_questions import GPQA, LIVECODEBENCH, code_tests, question

PERFORMANCE_FILE = "perf_eval_ref.parquet"
ACCURACY_FILE = "acc_eval_ref.parquet"
COMPLIANCE_FILE = "acc_eval_compliance_gpqa.parquet"
ANSWERS_FILE = "answers.parquet"
TESTS_FILE = "lcb_tests.jsonl"
TOKENIZER_DIR = "tokenizer"
EXPECTED_FILE = "expected.json"
_NAMES = {
    *(PERFORMANCE_FILE, ACCURACY_FILE, COMPLIANCE_FILE),
    *(ANSWERS_FILE, TESTS_FILE, TOKENIZER_DIR, EXPECTED_FILE),
}
# Letters of texts without meaning.
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)
# Answers of the same text would count as degenerate.
_MIN_FILLER = 16
_REPEATS = BENCHMARK.accuracy_repeats
# Longest answer: one that a performance run allows.
_LONGEST = BENCHMARK.performance_max_new_tokens.value
Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSpec(Flags):
    """Lengths in tokens, and the share of right answers."""

    seed: Annotated[int, Flag("random seed; equal seeds give equal files", ge=0, le=MAX_SEED)] = 0
    share_right: Annotated[float, Flag("share of right answers in each data set", ge=0, le=1)] = 0.9
    mean_prompt_len: Annotated[
        float,
        Flag(
            "mean length of the performance prompts, approximately", ge=MIN_LEN, le=BENCHMARK.max_prompt_len
        ),
    ] = 300.0
    mean_answer_len: Annotated[
        float, Flag("mean length of the performance answers, approximately", ge=MIN_LEN, le=_LONGEST)
    ] = BENCHMARK.mean_answer_len
    mean_accuracy_answer_len: Annotated[
        float, Flag("mean length of the accuracy answers, approximately", ge=MIN_LEN, le=_LONGEST)
    ] = 1_000.0


class AccuracyRow(NamedTuple):
    """A row of the accuracy data and the answer to it."""

    dataset: str
    ground_truth: str
    is_right: bool
    prompt: Tokens
    answer: Tokens


def write_benchmark(output: Path, spec: BenchmarkSpec, *, overwrite: bool = False) -> None:
    """Write all files into a new directory; if that fails, `output` is unchanged.

    Args:
        output: The directory.
        spec: Lengths and share of right answers.
        overwrite: Replace an existing directory if it contains only files of this function.

    Raises:
        FlagError: `output` exists or contains other files.
        OSError: A file cannot be written.
    """
    if output.exists() and not overwrite:
        raise FlagError("--output", EXISTS, output)
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= _NAMES):
        raise FlagError("--output", "holds more than a synthetic benchmark", output)
    with temporary(output) as path:
        path.mkdir()
        _write_files(path, spec)
        if output.exists():
            shutil.rmtree(output)
        path.rename(output)


def _write_files(directory: Path, spec: BenchmarkSpec) -> None:
    rng = np.random.default_rng(spec.seed)
    prompts, answers = _draw_performance(rng, spec)
    rows = _draw_accuracy(rng, spec)
    write_table(directory / PERFORMANCE_FILE, pa.table({"input_tokens": _lists(prompts)}))
    _write_rows(directory / ACCURACY_FILE, rows)
    _write_rows(directory / COMPLIANCE_FILE, [row for row in rows if row.dataset == GPQA])
    all_prompts = [*prompts, *(row.prompt for row in rows)]
    all_answers = [*answers, *(row.answer for row in rows)]
    table = pa.table({"input_tokens": _lists(all_prompts), "output_tokens": _lists(all_answers)})
    write_table(directory / ANSWERS_FILE, table)
    tests = [f"{code_tests(number)}\n" for number in range(_num_questions(LIVECODEBENCH))]
    (directory / TESTS_FILE).write_text("".join(tests))
    (directory / TOKENIZER_DIR).mkdir()
    write_tokenizer(directory / TOKENIZER_DIR)
    (directory / EXPECTED_FILE).write_text(json.dumps(expected_scores(rows), indent=2) + "\n")


def expected_scores(rows: list[AccuracyRow]) -> dict[str, object]:
    """Compute the scores of an accuracy run and of TEST07, in percent.

    Source: eval_mlperf_accuracy.py: each data set counts by its right answers divided by its repeats.
    """
    right = {name: sum(row.is_right for row in rows if row.dataset == name) for name in _REPEATS}
    weighted = sum(right[name] / repeats for name, repeats in _REPEATS.items())
    num_questions = sum(map(_num_questions, _REPEATS))
    return {
        "right": right,
        "accuracy_percent": round(weighted / num_questions * 100, 3),
        "TEST07_percent": round(right[GPQA] / BENCHMARK.accuracy_rows[GPQA] * 100, 3),
    }


def _draw_performance(rng: np.random.Generator, spec: BenchmarkSpec) -> tuple[list[Tokens], list[Tokens]]:
    """Draw prompts and answers of the performance data."""
    num_samples, longest = BENCHMARK.performance_sample_count, BENCHMARK.performance_max_new_tokens.value
    prompt_lens = draw_lens(rng, num_samples, spec.mean_prompt_len, BENCHMARK.max_prompt_len)
    answer_lens = draw_lens(rng, num_samples, spec.mean_answer_len, longest)
    prompts = [_prompt(f"Sample {row}: ", rng, length) for row, length in enumerate(prompt_lens.tolist())]
    answers = [encode(_filler(rng, length - 1), RETURN) for length in answer_lens.tolist()]
    return prompts, answers


def _draw_accuracy(rng: np.random.Generator, spec: BenchmarkSpec) -> list[AccuracyRow]:
    """Draw the rows of all three data sets, each question in consecutive rows."""
    longest = BENCHMARK.performance_max_new_tokens.value
    answer_lens = draw_lens(rng, BENCHMARK.accuracy_sample_count, spec.mean_accuracy_answer_len, longest)
    lens = iter(answer_lens.tolist())
    rows = []
    for name, num_rows in BENCHMARK.accuracy_rows.items():
        is_right = rng.permutation(num_rows) < round(num_rows * spec.share_right)
        for row, right in enumerate(is_right.tolist()):
            number, attempt = divmod(row, _REPEATS[name])
            asked = question(name, number)
            prompt = _prompt(f"{name}, attempt {attempt}. {asked.text}", rng, MIN_LEN)
            answer = _answer(asked.right if right else asked.wrong, rng, next(lens))
            rows.append(AccuracyRow(name, asked.ground_truth, right, prompt, answer))
    return rows


def _prompt(text: str, rng: np.random.Generator, length: int) -> Tokens:
    """Compose a prompt with this text; letters fill it up to `length` tokens."""
    begin, end = encode(START, "user", MESSAGE, text), encode(END, START, "assistant")
    return np.concatenate([begin, encode(_filler(rng, length - len(begin) - len(end))), end])


def _answer(final: str, rng: np.random.Generator, length: int) -> Tokens:
    """Compose an answer with this final message; letters in its analysis fill it up to `length` tokens."""
    begin = encode(CHANNEL, "analysis", MESSAGE)
    end = encode(END, START, "assistant", CHANNEL, "final", MESSAGE, final, RETURN)
    return np.concatenate(
        [begin, encode(_filler(rng, max(length - len(begin) - len(end), _MIN_FILLER))), end]
    )


def _filler(rng: np.random.Generator, length: int) -> str:
    return _LETTERS[rng.integers(len(_LETTERS), size=max(length, 0))].tobytes().decode()


def _num_questions(dataset: str) -> int:
    return BENCHMARK.accuracy_rows[dataset] // _REPEATS[dataset]


def _write_rows(path: Path, rows: list[AccuracyRow]) -> None:
    columns = {
        "input_tokens": _lists([row.prompt for row in rows]),
        "dataset": [row.dataset for row in rows],
        "ground_truth": [row.ground_truth for row in rows],
    }
    write_table(path, pa.table(columns))


def _lists(rows: list[Tokens]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(rows)))
