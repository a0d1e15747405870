"""Synthetic answers, and the files of a whole submission: rows, scores and text are as promised."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from common.flags import FlagError
from sut import dataset, synthetic
from sut.byte_tokenizer import END, RETURN, encode, write_tokenizer
from sut.synthetic import DatasetSpec
from sut.synthetic_answers import AnswersSpec, write_answers
from sut.synthetic_questions import code_tests, question


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files of a submission with 90 % right answers."""
    path = tmp_path_factory.mktemp("rehearsal") / "files"
    assert synthetic.main(["benchmark", "--output", str(path), "--mean-accuracy-answer-len", "200"]) == 0
    return path


def test_the_three_data_files_have_the_official_rows(rehearsal: Path) -> None:
    """6,396, 4,395 and 990 rows; the accuracy data has 30 x 8, 198 x 5 and 1,055 x 3 rows by data set."""
    performance = dataset.load(rehearsal / "perf_eval_ref.parquet")
    accuracy = dataset.load(rehearsal / "acc_eval_ref.parquet")
    compliance = dataset.load(rehearsal / "acc_eval_compliance_gpqa.parquet")
    assert (performance.num_samples, accuracy.num_samples, compliance.num_samples) == (6396, 4395, 990)
    assert accuracy.rows_by_dataset == {"aime25": 240, "gpqa_diamond": 990, "livecodebench_v6": 3165}
    assert {"dataset", "ground_truth"} <= {*accuracy.column_names} & {*compliance.column_names}


def test_every_prompt_has_one_answer_of_the_official_mean_length(rehearsal: Path) -> None:
    """No prompt occurs twice among 6,396 + 4,395 rows; TEST09 accepts the mean of the performance answers."""
    table = pq.read_table(rehearsal / "answers.parquet")
    assert table.num_rows == 10_791
    assert len(set(map(tuple, table["input_tokens"].to_pylist()))) == 10_791
    answers = table["output_tokens"].to_pylist()
    assert 1_277 <= np.mean([len(answer) for answer in answers[:6396]]) <= 1_279
    assert {answer[-1] for answer in answers} == {RETURN}


def test_the_expected_scores_are_those_of_the_official_formula(rehearsal: Path) -> None:
    """216/8 + 891/5 + 2848/3 = 1,154.533 of 1,283 questions is 89.987 %; 891 of 990 GPQA rows is 90 %."""
    assert json.loads((rehearsal / "expected.json").read_text()) == {
        "right": {"aime25": 216, "gpqa_diamond": 891, "livecodebench_v6": 2848},
        "accuracy_percent": 89.987,
        "TEST07_percent": 90.0,
    }


def test_the_tokenizer_decodes_answers_to_text_with_special_tokens(rehearsal: Path) -> None:
    """The first AIME answer decodes to harmony's two channels; its final message has the answer boxed."""
    tokenizer = Tokenizer.from_file(str(rehearsal / "tokenizer" / "tokenizer.json"))
    answer = pq.read_table(rehearsal / "answers.parquet")["output_tokens"][6396].as_py()
    text = tokenizer.decode(answer, skip_special_tokens=False)
    assert text.startswith("<|channel|>analysis<|message|>")
    assert "<|end|><|start|>assistant<|channel|>final<|message|>The answer is \\boxed{" in text
    assert text.endswith("}.<|return|>")


def test_a_token_is_a_byte_of_the_text(tmp_path: Path) -> None:
    """A is 65, the euro sign its three bytes of UTF-8; the tokenizer agrees both ways."""
    tokens = [65, 0xE2, 0x82, 0xAC, 10, 200_007]
    assert encode("A\u20ac\n", END).tolist() == tokens
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("A\u20ac\n<|end|>").ids == tokens
    assert tokenizer.decode(tokens, skip_special_tokens=False) == "A\u20ac\n<|end|>"


def test_questions_have_the_ground_truth_of_their_text() -> None:
    """41 times 37 is 1,517, modulo 1,000 it is 517; letter 2 of ABCD is C; question 5 multiplies by 7."""
    aime, gpqa, code = question("aime25", 41), question("gpqa_diamond", 2), question("livecodebench_v6", 5)
    assert (aime.ground_truth, aime.right, aime.wrong) == (
        "517",
        "The answer is \\boxed{517}.",
        "The answer is \\boxed{518}.",
    )
    assert (gpqa.ground_truth, gpqa.right, gpqa.wrong) == ("C", "Answer: C", "Answer: D")
    assert code.right == "```python\nprint(int(input()) * 7)\n```"
    assert json.loads(code_tests(5)) == {
        "question_id": code.ground_truth,
        "fn_name": None,
        "tests": [
            {"input": "1\n", "output": "7\n"},
            {"input": "7\n", "output": "49\n"},
            {"input": "-3\n", "output": "-21\n"},
        ],
    }


def test_synthetic_answers_have_the_prompts_of_the_data_set(tmp_path: Path) -> None:
    """Row by row the prompt is the data set's; answers have the asked mean and end with the stop id only."""
    data, output = tmp_path / "set.parquet", tmp_path / "answers.parquet"
    synthetic.write_dataset(data, DatasetSpec(num_samples=600, mean_prompt_len=20, max_prompt_len=64))
    write_answers(output, AnswersSpec(input_file=data, mean_answer_len=50, max_answer_len=200))
    loaded, table = dataset.load(data), pq.read_table(output)
    assert table["input_tokens"].to_pylist() == [loaded.prompt(row).tolist() for row in range(600)]
    answers = table["output_tokens"].to_pylist()
    assert 49 <= np.mean([len(answer) for answer in answers]) <= 51
    assert all(answer.index(RETURN) == len(answer) - 1 <= 199 for answer in answers)
    with pytest.raises(FlagError, match="exists; --overwrite replaces it"):
        write_answers(output, AnswersSpec(input_file=data))


def test_only_a_synthetic_benchmark_is_overwritten(tmp_path: Path) -> None:
    """A directory with another file stays as it is: one line, exit 2."""
    (tmp_path / "mine.txt").write_text("kept")
    assert synthetic.main(["benchmark", "--output", str(tmp_path), "--overwrite"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
