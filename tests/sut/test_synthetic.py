"""Synthetic files: their contents, their seed, and that nothing is overwritten without --overwrite."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from sut import dataset, synthetic
from sut.synthetic import DatasetSpec
from tests.forked import completed_command

ROOT = Path(__file__).parents[2]
SMALL = DatasetSpec(
    num_samples=7, mean_prompt_len=20, max_prompt_len=64, mean_answer_len=8, max_answer_len=32
)


@pytest.mark.parametrize("name", ["set.parquet", "set.pkl"])
def test_both_formats_hold_the_same_rows(tmp_path: Path, name: str) -> None:
    """Both files have the reference's three columns; the names of the data sets alternate."""
    path = tmp_path / name
    synthetic.write_dataset(path, SMALL)
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_pickle(path)
    assert list(frame.columns) == ["tok_input", "dataset", "ground_truth"]
    names = ["aime25", "gpqa_diamond", "livecodebench_v6"]
    assert frame["dataset"].tolist() == [*names, *names, "aime25"]
    # Row 0: 0 mod 1000. Row 4: letter 4 mod 4 of ABCD. Row 5: its own name.
    assert frame["ground_truth"][[0, 4, 5]].tolist() == ["0", "A", "synthetic_5"]
    assert {cell.dtype for cell in frame["tok_input"]} == {np.dtype(np.int32)}
    synthetic.write_dataset(tmp_path / "other.parquet", SMALL)
    other = dataset.load(tmp_path / "other.parquet")
    assert dataset.load(path).tokens.tolist() == other.tokens.tolist()
    assert dataset.load(path).offsets.tolist() == other.offsets.tolist()


def test_lengths_are_those_of_the_benchmark(tmp_path: Path) -> None:
    """With 1,000 rows the longest prompt occurs and means are met; first tokens are answer lengths."""
    path = tmp_path / "set.parquet"
    synthetic.write_dataset(path, DatasetSpec(num_samples=1_000))
    loaded = dataset.load(path)
    answer_lens = loaded.tokens[loaded.offsets[:-1]]
    assert loaded.prompt_lens.max() == 15_330
    assert loaded.prompt_lens.min() >= 2
    # The row made longest adds at most 15,330 / 1,000 tokens to the mean.
    assert 1_499 <= loaded.prompt_lens.mean() <= 1_516
    assert 1_277 <= answer_lens.mean() <= 1_279
    assert answer_lens.min() >= 2
    assert answer_lens.max() <= 10_240
    # 199,998 is gpt-oss's first special id.
    assert 199_000 < loaded.tokens.max() < 199_998
    loaded.check(vocab_size=201_088, max_model_len=15_330 + 10_240, max_new_tokens=10_240)


def test_small_bounds_hold(tmp_path: Path) -> None:
    """At the smallest limits no length exceeds its limit and no id the vocabulary."""
    spec = DatasetSpec(
        num_samples=50,
        vocab_size=3,
        mean_prompt_len=2,
        max_prompt_len=2,
        mean_answer_len=2,
        max_answer_len=2,
    )
    synthetic.write_dataset(tmp_path / "set.pkl", spec)
    loaded = dataset.load(tmp_path / "set.pkl")
    assert loaded.prompt_lens.tolist() == [2] * 50
    assert loaded.tokens[::2].tolist() == [2] * 50
    assert set(loaded.tokens[1::2].tolist()) == {0, 1, 2}


def test_a_seed_fixes_the_bytes(tmp_path: Path) -> None:
    """Equal seeds give equal files of either kind, another seed another file."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        numbers = ["--num-samples", "7", "--seed", str(seed)]
        assert synthetic.main(["dataset", "--output", str(tmp_path / f"{name}.parquet"), *numbers]) == 0
        assert synthetic.main(["checkpoint", "--output", str(tmp_path / name), *numbers[2:]]) == 0
    files = ["{}.parquet", "{}/model.safetensors", "{}/config.json", "{}/generation_config.json"]
    a, b, c = ([(tmp_path / file.format(name)).read_bytes() for file in files] for name in "abc")
    assert a == b
    assert [left == right for left, right in zip(a, c, strict=True)] == [False, False, True, True]


@pytest.mark.parametrize("command", ["dataset --num-samples 3", "checkpoint"])
def test_nothing_is_overwritten_unasked(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An existing output stays unless --overwrite is given, with one line and exit code 2."""
    output = tmp_path / "out.pkl"
    argv = [*command.split(), "--output", str(output), "--seed", "1"]
    assert synthetic.main(argv) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    changed = output / "config.json" if output.is_dir() else output
    changed.write_text("mine")
    assert synthetic.main(argv) == 2
    assert capsys.readouterr().err == f"--output {output}: exists; --overwrite replaces it\n"
    assert changed.read_text() == "mine"
    assert synthetic.main([*argv, "--overwrite"]) == 0
    assert changed.read_bytes() != b"mine"
    assert os.listdir(tmp_path) == ["out.pkl"]


def test_foreign_directories_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--overwrite removes neither a directory of other files nor a directory named like the data set."""
    folder = tmp_path / "set.parquet"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    dataset_argv = ["dataset", "--output", str(folder), "--num-samples", "3", "--overwrite"]
    assert synthetic.main(dataset_argv) == 2
    assert synthetic.main(["checkpoint", "--output", str(folder), "--overwrite"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"--output {folder}: is a directory",
        f"--output {folder}: holds more than a synthetic checkpoint",
    ]
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--num-samples 0", "--num-samples: 0 is below 1"),  # 2**31 / 15,330 = 140,083.7
        ("--num-samples 140084", "--num-samples: 140084 is outside 1 .. 140083"),
        ("--seed -1", "--seed: -1 is not in 0..9223372036854775808"),
        ("--max-prompt-len 1", "--max-prompt-len: 1 is not in 2..2147483648"),
        ("--mean-prompt-len 20000", "--mean-prompt-len: 20000.0 is outside 2 .. 15330"),
        ("--mean-prompt-len nan", "--mean-prompt-len: nan is below 2 or not finite"),
        ("--mean-answer-len 1", "--mean-answer-len: 1.0 is below 2 or not finite"),
        ("--vocab-size 2", "--vocab-size: 2 is not in 3..2147483648"),
        ("--vocab-size 4096", "--max-answer-len: 10240 is outside 2 .. 4095"),
        ("--output no/set.parquet", "--output no/set.parquet: the directory no does not exist"),
        ("--output set.csv", "--output set.csv: suffix '.csv' is not one of .parquet, .pkl, .pickle"),
    ],
)
def test_bad_arguments_are_refused(
    tmp_path: Path,
    flags: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A number out of bounds or an impossible output gives one line with flag and bound, and exit code 2."""
    monkeypatch.chdir(tmp_path)
    assert synthetic.main(["dataset", "--output", "set.parquet", "--num-samples", "3", *flags.split()]) == 2
    assert capsys.readouterr().err == f"{reason}\n"
    assert os.listdir(tmp_path) == []


def test_the_checkpoint_is_a_small_gpt_oss(tmp_path: Path) -> None:
    """Tensors are gpt-oss's, stop ids are in the vocabulary, and all users can read the files."""
    synthetic.write_checkpoint(tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny/config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["GptOssForCausalLM"], "gpt_oss")
    assert config["max_position_embeddings"] == 131_072
    assert "quantization_config" not in config
    assert config["num_attention_heads"] % 2 == config["num_key_value_heads"] % 2 == 0
    generation = json.loads((tmp_path / "tiny/generation_config.json").read_text())
    assert generation["eos_token_id"] == [4002, 3999, 4012] == list(synthetic.STOP_TOKEN_IDS)
    weights = load_file(tmp_path / "tiny/model.safetensors")
    # A layer: 9 of attention, 2 of the router, 4 of the experts, 2 norms; embedding, head and last norm.
    assert len(weights) == 2 * 17 + 3
    # Embedding and head 2 * 4,096 * 128; a layer 297,864: queries 33,024, keys and values 33,024, output
    # 32,896, sinks 4, router 516, gate and up 132,096, down 66,048, norms 256; the last norm 128.
    assert sum(weight.size for weight in weights.values()) == 1_048_576 + 2 * 297_864 + 128
    assert {weight.dtype for weight in weights.values()} == {np.dtype(np.float32)}
    assert weights["model.layers.1.mlp.experts.gate_up_proj"].shape == (4, 128, 256)
    assert (weights["model.norm.weight"] == 1).all()
    assert weights["model.embed_tokens.weight"].std() == pytest.approx(0.15, rel=0.01)
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tiny").iterdir()} == {0o666 & ~umask}


def test_the_module_runs(tmp_path: Path) -> None:
    """`python -m sut.synthetic` writes a file, prints one line and exits 0; without a command it exits 2."""
    command = [sys.executable, "-m", "sut.synthetic"]
    argv = ["dataset", "--output", str(tmp_path / "set.parquet"), "--num-samples", "3"]
    done = completed_command([*command, *argv])
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 'set.parquet'}\n")
    assert dataset.load(tmp_path / "set.parquet").num_samples == 3
    done = completed_command(command)
    assert done.returncode == 2
