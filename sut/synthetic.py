"""Write synthetic data sets, answers to them or a tiny checkpoint, in place of licensed or large files.

    python -m sut.synthetic dataset --output perf.parquet --num-samples 1000
    python -m sut.synthetic answers --output answers.parquet --input-file perf.parquet
    python -m sut.synthetic benchmark --output rehearsal
    python -m sut.synthetic checkpoint --output tiny-gpt-oss

The data set has the reference's columns that a run and its evaluation read: `tok_input` (int32 list),
`dataset` and `ground_truth` (strings). The first token of a prompt is the length of its answer in tokens,
including the stop id, at least 2; the answer counts upward from the prompt's last token. The counting engine
follows this convention: it answers the prompt [4, 9, 17] with 18, 19, 20 and the stop id. The other tokens of
a prompt are uniformly distributed.

The lengths are synthetic, because the official data is not public. The longest prompt and the mean answer
length are official values; the log-normal distribution and the mean prompt length are assumptions.

The checkpoint is a gpt-oss model with small dimensions, which vLLM can serve on a CPU at tensor parallel size
1 or 2. Its weights are random; greedy answers differ between prompts, and some end with a stop id.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save

from common.command_exit import BAD_INPUT
from common.flags import Flag, FlagError, Flags, add_flags, build
from common.named_refusals import naming_output
from common.standard_streams import open_standard_streams
from common.text import print_table
from sut.benchmark import BENCHMARK
from sut.synthetic_answers import AnswersSpec, write_answers
from sut.synthetic_benchmark import BenchmarkSpec, write_benchmark
from sut.synthetic_files import EXISTS, MAX_SEED, MIN_LEN, check_bounds, draw_lens, temporary, write_table

# The tiny vocabulary (4,096 ids) has the benchmark's stop ids minus this shift: 4002, 3999 and 4012.
_STOP_ID_SHIFT = 196_000
STOP_TOKEN_IDS = tuple(stop.token_id - _STOP_ID_SHIFT for stop in BENCHMARK.stop_ids)

# A data set with at least this many samples always contains a prompt of maximum length.
_NUM_SAMPLES_WITH_LONGEST = 1_000

_STANDARD_DEVIATION = 0.15
# With this gain about a fifth of the greedy answers end before 64 tokens.
_STOP_GAIN = 1.15
# gpt-oss-120b's config.json, unquantized, with smaller sizes; the numbers of heads are divisible by 2.
_CONFIG = json.loads("""{
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "torch_dtype": "float32",
    "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 4096,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "num_local_experts": 4, "num_experts_per_tok": 2, "experts_per_token": 2,
    "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 128,
    "attention_bias": true, "attention_dropout": 0.0, "hidden_act": "silu", "swiglu_limit": 7.0,
    "initial_context_length": 4096, "max_position_embeddings": 131072, "rope_theta": 150000,
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                     "original_max_position_embeddings": 4096, "truncate": false},
    "rms_norm_eps": 1e-05, "initializer_range": 0.02, "output_router_logits": false,
    "router_aux_loss_coef": 0.9, "tie_word_embeddings": false, "use_cache": true,
    "eos_token_id": 4002, "pad_token_id": 3999
}""")
_GENERATION_CONFIG = {"do_sample": True, "eos_token_id": STOP_TOKEN_IDS, "pad_token_id": 3999}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec(Flags):
    """Size and length distributions of a synthetic data set; lengths are in tokens."""

    num_samples: Annotated[int, Flag("number of rows; with the longest prompt at most 2**31 tokens", ge=1)]
    seed: Annotated[int, Flag("random seed; equal seeds give equal rows", ge=0, le=MAX_SEED)] = 0
    vocab_size: Annotated[int, Flag("token ids are less than this", ge=MIN_LEN + 1, le=2**31)] = (
        BENCHMARK.vocab_size
    )
    mean_prompt_len: Annotated[float, Flag("mean length of the prompts, approximately", ge=MIN_LEN)] = 1_500.0
    max_prompt_len: Annotated[int, Flag("length of the longest prompt", ge=MIN_LEN, le=2**31)] = (
        BENCHMARK.max_prompt_len
    )
    mean_answer_len: Annotated[float, Flag("mean length of the answers, approximately", ge=MIN_LEN)] = (
        BENCHMARK.mean_answer_len
    )
    max_answer_len: Annotated[
        int, Flag("longest answer; below the vocabulary size, as a prompt's first token names it", ge=MIN_LEN)
    ] = BENCHMARK.performance_max_new_tokens.value

    def _check_together(self) -> None:
        check_bounds("num-samples", self.num_samples, 1, 2**31 // self.max_prompt_len)
        check_bounds("mean-prompt-len", self.mean_prompt_len, MIN_LEN, self.max_prompt_len)
        check_bounds("max-answer-len", self.max_answer_len, MIN_LEN, self.vocab_size - 1)
        check_bounds("mean-answer-len", self.mean_answer_len, MIN_LEN, self.max_answer_len)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec(Flags):
    """Weights of a tiny checkpoint."""

    seed: Annotated[int, Flag("random seed; equal seeds give equal bytes", ge=0, le=MAX_SEED)] = 0


def write_dataset(output: Path, spec: DatasetSpec, *, overwrite: bool = False) -> None:
    """Write a data set; if that fails, `output` is unchanged.

    Args:
        output: A .parquet, .pkl or .pickle file.
        spec: Size and length distributions.
        overwrite: Replace an existing file.

    Raises:
        FlagError: `output` has another suffix or exists.
        OSError: The file cannot be written.
    """
    if output.suffix not in (".parquet", ".pkl", ".pickle"):
        raise FlagError("--output", f"suffix {output.suffix!r} is not one of .parquet, .pkl, .pickle", output)
    if output.is_dir() or (output.exists() and not overwrite):
        raise FlagError("--output", "is a directory" if output.is_dir() else EXISTS, output)
    offsets, tokens = _draw_prompts(spec)
    names = [BENCHMARK.dataset_names[row % len(BENCHMARK.dataset_names)] for row in range(spec.num_samples)]
    truths = [_ground_truth(row) for row in range(spec.num_samples)]
    with temporary(output) as path:
        if output.suffix == ".parquet":
            lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(tokens))
            table = pa.table({"tok_input": lists, "dataset": names, "ground_truth": truths})
            write_table(path, table)
        else:
            cells = np.split(tokens, offsets[1:-1])
            pd.DataFrame({"tok_input": cells, "dataset": names, "ground_truth": truths}).to_pickle(path)
        path.replace(output)


def _draw_prompts(spec: DatasetSpec) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Draw all prompts; returns their offsets (N+1,) and concatenated tokens (offsets[N],)."""
    rng = np.random.default_rng(spec.seed)
    prompt_lens = draw_lens(rng, spec.num_samples, spec.mean_prompt_len, spec.max_prompt_len)
    if spec.num_samples >= _NUM_SAMPLES_WITH_LONGEST:
        prompt_lens[prompt_lens.argmax()] = spec.max_prompt_len
    offsets = np.concatenate([np.zeros(1, np.int64), prompt_lens.cumsum()])
    tokens = rng.integers(min(spec.vocab_size, BENCHMARK.first_special_id), size=offsets[-1], dtype=np.int32)
    tokens[offsets[:-1]] = draw_lens(rng, spec.num_samples, spec.mean_answer_len, spec.max_answer_len)
    return offsets, tokens


def _ground_truth(row: int) -> str:
    """Return a ground truth in the format of the row's data set: an integer, a letter or a question id."""
    return (str(row % 1000), "ABCD"[row % 4], f"synthetic_{row}")[row % len(BENCHMARK.dataset_names)]


def write_checkpoint(output: Path, seed: int = 0, *, overwrite: bool = False) -> None:
    """Write a tiny gpt-oss checkpoint; if that fails, `output` is unchanged. Equal seeds give equal bytes.

    Args:
        output: The model's directory.
        seed: Seed of the weights.
        overwrite: Replace an existing directory if it contains only a checkpoint of this function.

    Raises:
        FlagError: `output` exists or contains other files, or the seed is negative.
        OSError: The directory cannot be written.
    """
    check_bounds("seed", seed, 0, MAX_SEED)
    documents = {"config.json": _CONFIG, "generation_config.json": _GENERATION_CONFIG}
    names = {*documents, "model.safetensors"}
    if output.exists() and not overwrite:
        raise FlagError("--output", EXISTS, output)
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= names):
        raise FlagError("--output", "holds more than a synthetic checkpoint", output)
    with temporary(output) as path:
        path.mkdir()
        for name, document in documents.items():
            (path / name).write_text(json.dumps(document, indent=2) + "\n")
        weights = save(_draw_weights(seed), metadata={"format": "pt"})
        # save_file would create a file that only its owner can read.
        (path / "model.safetensors").write_bytes(weights)
        if output.exists():
            shutil.rmtree(output)
        path.rename(output)


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors except norms, by their names in transformers' GptOssForCausalLM."""
    hidden, inner, num_experts = (
        _CONFIG[key] for key in ("hidden_size", "intermediate_size", "num_local_experts")
    )
    num_heads = _CONFIG["num_attention_heads"]
    q_size, kv_size = (_CONFIG["head_dim"] * num for num in (num_heads, _CONFIG["num_key_value_heads"]))
    layer = {
        "self_attn.q_proj.weight": (q_size, hidden),
        "self_attn.q_proj.bias": (q_size,),
        "self_attn.k_proj.weight": (kv_size, hidden),
        "self_attn.k_proj.bias": (kv_size,),
        "self_attn.v_proj.weight": (kv_size, hidden),
        "self_attn.v_proj.bias": (kv_size,),
        "self_attn.o_proj.weight": (hidden, q_size),
        "self_attn.o_proj.bias": (hidden,),
        "self_attn.sinks": (num_heads,),
        "mlp.router.weight": (num_experts, hidden),
        "mlp.router.bias": (num_experts,),
        "mlp.experts.gate_up_proj": (num_experts, hidden, 2 * inner),
        "mlp.experts.gate_up_proj_bias": (num_experts, 2 * inner),
        "mlp.experts.down_proj": (num_experts, inner, hidden),
        "mlp.experts.down_proj_bias": (num_experts, hidden),
    }
    layers = {
        f"model.layers.{i}.{name}": shape
        for i in range(_CONFIG["num_hidden_layers"])
        for name, shape in layer.items()
    }
    head = (_CONFIG["vocab_size"], hidden)
    return {"model.embed_tokens.weight": head, **layers, "lm_head.weight": head}


def _draw_weights(seed: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.standard_normal(shape, np.float32) * np.float32(_STANDARD_DEVIATION)
        for name, shape in _shapes().items()
    }
    # Larger weights make the stop ids win the arg max more often, so that some answers end early.
    weights["lm_head.weight"][list(STOP_TOKEN_IDS)] *= np.float32(_STOP_GAIN)
    norms = ["input_layernorm", "post_attention_layernorm"]
    names = [f"model.layers.{i}.{norm}.weight" for i in range(_CONFIG["num_hidden_layers"]) for norm in norms]
    return weights | {
        name: np.ones(_CONFIG["hidden_size"], np.float32) for name in [*names, "model.norm.weight"]
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a bad argument is reported in one line with exit code 2."""
    open_standard_streams()
    flags = _parser().parse_args(argv)
    try:
        with naming_output("--output", flags.output):
            _write(flags)
    except FlagError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_INPUT
    print_table(f"wrote {flags.output}")
    return 0


def _write(flags: argparse.Namespace) -> None:
    if flags.command == "dataset":
        write_dataset(flags.output, build(DatasetSpec, flags), overwrite=flags.overwrite)
    elif flags.command == "answers":
        write_answers(flags.output, build(AnswersSpec, flags), overwrite=flags.overwrite)
    elif flags.command == "benchmark":
        write_benchmark(flags.output, build(BenchmarkSpec, flags), overwrite=flags.overwrite)
    else:
        write_checkpoint(flags.output, build(CheckpointSpec, flags).seed, overwrite=flags.overwrite)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (text, spec) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument(
            "--output", type=Path, required=True, metavar="PATH", help="file or directory to write (required)"
        )
        command.add_argument("--overwrite", action="store_true", help="replace an existing output")
        add_flags(command, spec)
    return parser


_COMMANDS: dict[str, tuple[str, type[Flags]]] = {
    "dataset": ("write a data set of random prompts", DatasetSpec),
    "answers": ("write random answers to a data set, for --engine replay", AnswersSpec),
    "checkpoint": ("write a tiny gpt-oss with random weights", CheckpointSpec),
    "benchmark": ("write data, answers and tokenizer of a whole submission", BenchmarkSpec),
}


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m sut.synthetic"
    sys.exit(main())
