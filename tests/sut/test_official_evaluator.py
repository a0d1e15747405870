"""The verdicts equal those of the official evaluator, on thousands of generated answers.

Needs a checkout of mlcommons/inference, which MLPERF_INFERENCE names, and the packages transformers and tqdm.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sut.results.accuracy.answer_reading import AnswerReader
from sut.results.accuracy.detokenizer import Detokenizer
from sut.results.accuracy.extraction import aime_integer, choice_letter, python_source
from sut.results.accuracy.log_entries import AnswerLog
from sut.results.accuracy.reference_data import read_reference
from sut.results.accuracy.score import Score, exact_match_line
from tests.forked import completed_command
from tests.sut.accuracy_files import (
    ANALYSIS,
    FINAL,
    encode,
    entry,
    write_log,
    write_reference,
    write_tokenizer,
)

CHECKOUT = os.environ.get("MLPERF_INFERENCE")
EVALUATOR = Path(CHECKOUT or "absent") / "language" / "gpt-oss-120b"
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHECKOUT is None, reason="MLPERF_INFERENCE names no checkout of mlcommons/inference"),
]
NUM_TEXTS = 100_000
NUM_ROWS = 6_000
TIMEOUT_S = 600
# What the evaluator looks for, and what comes close to it.
PIECES = [
    *(ANALYSIS, FINAL, FINAL, "<|channel|>final", "<|channel|>final 537<|message|>", "<|message|>"),
    *("<|return|>", "<|return|>", "<|end|>", "<|start|>assistant", "<", "<|", "final"),
    *(r"\boxed{70}", r"\boxed{ 12 }", r"\boxed{\text{70}}", r"\boxed{C}", r"\boxed{", "}"),
    *("Answer: 70", "Answer: 70.", "answer: 007 ", "ANSWER: 1000", "Answer:\n5", "Answer: 5x", "Answer: 12 "),
    *("\u0663", "Answer: \u0663\u0664", "Answer: " + "9" * 5000 + " "),
    *("A careful look", "The answer is C.", "Answer: C", r"Answer: \boxed{C}", "Answer C", "ANSWER. D"),
    *("**Answer: B**", "**A**", "**B)**", "(C)", "C", "D", "a", "b ", "['A']", '["B"]', "['", "']"),
    *(
        r"\n",
        r"\'",
        "Final Answer: D",
        "FINALANSWER = (c )",
        "FINAL ANSWER",
        "FINAL  ",
        "ANSWER",
        "answer (b)",
    ),
    *(
        "Answer: A word",
        "ANSWER: Bx",
        " ",
        "\n",
        "\n\n",
        "\u017f",
        "an\u017fwer: C",
        "\u212a",
        "**",
        "*",
        "1.",
    ),
    *(
        "```python\nprint(1)\n```",
        "```python",
        "```py\nx=2\n```",
        "```\ny=3\n```",
        "```",
        "```Python\nz=4\n```",
    ),
    *("```python3\nq\n```", "python\n", "PY  \n\n", "`", "\t", "\x0b", "\x1c", "\u00a0", "\u2028", "\x85"),
    *(":", "=", "(", ")", "Answer", "Answer:", "answer\n\n:\n C"),
]
SINGLE = "ABCDEabcd<|>`*{}\\ \n:=().[]'\"70123"


def generated(draw: random.Random) -> str:
    """Draw a text of pieces; change some characters of every third one."""
    chars = list("".join(draw.choices(PIECES, k=draw.choice((1, 2, 3, 4, 6, 9, 14)))))
    for _ in range(draw.choice((0, 0, draw.randint(1, 4)))):
        at = draw.randrange(len(chars) + 1)
        chars[at : at + draw.randint(0, 1)] = draw.choice(("", draw.choice(SINGLE)))
    return "".join(chars)


def test_answers_are_extracted_officially() -> None:
    """Letter, integer and program of 100,000 texts."""
    draw = random.Random(0)
    texts = [generated(draw) for _ in range(NUM_TEXTS)]
    script = Path(__file__).with_name("official_answers.py")
    done = subprocess.run(
        [sys.executable, script, EVALUATOR],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    for text, expected in zip(texts, json.loads(done.stdout), strict=True):
        assert expected == [choice_letter(text), aime_integer(text), python_source(text)], repr(text)


def test_a_log_is_scored_officially(tmp_path: Path) -> None:
    """Every row's verdict, and the score, of a log with both data sets without programs."""
    draw = random.Random(1)
    truths = {
        "aime25": ["70", "12", " 7 ", "7.0", "034", "x"],
        "gpqa_diamond": ["A", "b", "C", "D", "AB", ""],
    }
    names = [draw.choice(list(truths)) for _ in range(NUM_ROWS)]
    data = write_reference(tmp_path / "acc.parquet", [(name, draw.choice(truths[name])) for name in names])
    entries = [entry(row, encode(generated(draw))) for row in range(NUM_ROWS)]
    draw.shuffle(entries)
    log = write_log(tmp_path / "mlperf_log_accuracy.json", entries)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    words = ["--mlperf-log", log, "--reference-data", data, "--tokenizer", tokenizer]
    output = tmp_path / "official.json"
    done = completed_command(
        [sys.executable, "eval_mlperf_accuracy.py", *words, "--verbose", "--output-file", output],
        TIMEOUT_S,
        cwd=EVALUATOR,
    )
    assert done.returncode == 0, done.stderr
    expected: list[dict[str, Any]] = json.loads(output.read_text())["detailed_results"]
    reader = AnswerReader(read_reference(data), Detokenizer(tokenizer), None, 32_768)
    rows = [answer.graded() for answer in reader.read(AnswerLog(log))]
    found = {row.row: (row.official.shown, row.official.is_right) for row in rows}
    assert found == {row["qsl_idx"]: (row["extracted_answer"], row["is_correct"]) for row in expected}
    assert sum(row["is_correct"] for row in expected) > 100
    assert done.stdout.endswith(f"\n{exact_match_line(Score.of(rows).percent)}\n")
