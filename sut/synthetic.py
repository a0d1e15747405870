"""Write stand-ins for what may not be redistributed or is too large: a data set, a checkpoint.

    python -m sut.synthetic dataset --output perf.parquet --num-samples 6396
    python -m sut.synthetic checkpoint --output tiny-gpt-oss

The data set has the columns of the reference that a run and its evaluation read: `tok_input` (int32 list),
`dataset` and `ground_truth` (strings). A prompt's FIRST token is the length of its answer in tokens, the stop
id included, at least 2; the answer counts upward from the prompt's last token. That is the convention of the
counting engine: the prompt [4, 9, 17] asks it for 18, 19, 20 and the stop id. The other tokens are uniform.

The lengths are not official data. Known are the longest prompt, 15,330 tokens, and the mean answer, 1,278.20
tokens (reference of TEST09 in mlcommons/inference); the log-normal shape and the mean prompt are ours.

The checkpoint is gpt-oss with every dimension small: vLLM serves it on a CPU, at tensor parallel size 1 or 2.
Its weights are random; its greedy answers differ from prompt to prompt, and some end with a stop id.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import save

# Names that the reference's accuracy script knows (eval_mlperf_accuracy.py).
DATASETS = ("aime25", "gpqa_diamond", "livecodebench_v6")
STOP_TOKEN_IDS = (4002, 3999, 4012)

_MIN_LEN = 2
# gpt-oss's special tokens begin here; none of them occurs in a prompt.
_FIRST_SPECIAL_ID = 199_998
_LOG_NORMAL_SIGMA = 1.0
# From this many samples on the longest prompt occurs for certain.
_NUM_SAMPLES_WITH_LONGEST = 1_000

_STANDARD_DEVIATION = 0.15
# With it about a fifth of the greedy answers end before 64 tokens.
_STOP_GAIN = 1.15
# gpt-oss-120b's config.json, unquantised, with smaller sizes; heads and key-value heads divide by 2.
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
class DatasetSpec:
    """What a synthetic data set is like; lengths are in tokens."""

    num_samples: int
    """Rows; at the longest they must stay below 2**31 tokens."""
    seed: int = 0
    """Equal seeds give equal rows."""
    vocab_size: int = 201_088
    """Ids lie below it; gpt-oss's by default."""
    mean_prompt_len: float = 1_500.0
    """Mean of the prompt lengths, nearly met."""
    max_prompt_len: int = 15_330
    """Longest prompt (inference_policies, benchmark appendix)."""
    mean_answer_len: float = 1_278.2
    """Mean of the answer lengths, nearly met (TEST09 reference)."""
    max_answer_len: int = 10_240
    """Longest answer, below `vocab_size` because the first token carries it."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: A number out of its bounds; the message names flag, value and bound.
        """
        _check_bounds("num-samples", self.num_samples, 1, 2**31 // max(self.max_prompt_len, 1))
        _check_bounds("seed", self.seed, 0, 2**63)
        _check_bounds("vocab-size", self.vocab_size, _MIN_LEN + 1, 2**31)
        _check_bounds("max-prompt-len", self.max_prompt_len, _MIN_LEN, 2**31)
        _check_bounds("mean-prompt-len", self.mean_prompt_len, _MIN_LEN, self.max_prompt_len)
        _check_bounds("max-answer-len", self.max_answer_len, _MIN_LEN, self.vocab_size - 1)
        _check_bounds("mean-answer-len", self.mean_answer_len, _MIN_LEN, self.max_answer_len)


def _check_bounds(flag: str, value: float, low: int, high: int) -> None:
    # Written so that NaN fails.
    if not low <= value <= high:
        raise ValueError(f"--{flag}: {value} is outside {low} .. {high}")


def write_dataset(output: Path, spec: DatasetSpec, *, overwrite: bool = False) -> None:
    """Write a data set, all of it or nothing.

    Args:
        output: A .parquet, .pkl or .pickle file.
        spec: Size and shape.
        overwrite: Replace an existing file.

    Raises:
        ValueError: The suffix is another, or `output` exists.
        OSError: The file cannot be written.
    """
    if output.suffix not in (".parquet", ".pkl", ".pickle"):
        raise ValueError(f"--output {output}: suffix {output.suffix!r} is none of .parquet, .pkl, .pickle")
    if output.is_dir() or (output.exists() and not overwrite):
        kind = "a directory" if output.is_dir() else "--overwrite replaces it"
        raise ValueError(f"--output {output} exists: {kind}")
    offsets, tokens = _draw_prompts(spec)
    names = [DATASETS[row % len(DATASETS)] for row in range(spec.num_samples)]
    truths = [_ground_truth(row) for row in range(spec.num_samples)]
    with _temporary(output) as path:
        if output.suffix == ".parquet":
            lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(tokens))
            table = pa.table({"tok_input": lists, "dataset": names, "ground_truth": truths})
            pq.write_table(table, path)
        else:
            cells = np.split(tokens, offsets[1:-1])
            pd.DataFrame({"tok_input": cells, "dataset": names, "ground_truth": truths}).to_pickle(path)
        path.replace(output)


def _draw_prompts(spec: DatasetSpec) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Draw all prompts end to end: their offsets (N+1,) and tokens (offsets[N],)."""
    rng = np.random.default_rng(spec.seed)
    prompt_lens = _draw_lens(rng, spec.num_samples, spec.mean_prompt_len, spec.max_prompt_len)
    if spec.num_samples >= _NUM_SAMPLES_WITH_LONGEST:
        prompt_lens[prompt_lens.argmax()] = spec.max_prompt_len
    offsets = np.concatenate([np.zeros(1, np.int64), prompt_lens.cumsum()])
    tokens = rng.integers(min(spec.vocab_size, _FIRST_SPECIAL_ID), size=offsets[-1], dtype=np.int32)
    tokens[offsets[:-1]] = _draw_lens(rng, spec.num_samples, spec.mean_answer_len, spec.max_answer_len)
    return offsets, tokens


def _draw_lens(rng: np.random.Generator, num_lens: int, mean: float, longest: int) -> NDArray[np.int64]:
    """Draw log-normal lengths, clipped: (num_lens,)."""
    shape = rng.lognormal(0.0, _LOG_NORMAL_SIGMA, num_lens)
    scale = mean
    # Clipping and a small sample move the mean; a few corrections bring it back.
    for _ in range(20):
        scale *= mean / np.clip(shape * scale, _MIN_LEN, longest).mean()
    return np.clip(np.rint(shape * scale), _MIN_LEN, longest).astype(np.int64)


def _ground_truth(row: int) -> str:
    """Write a truth in the form of the row's data set: an integer, a letter, a question's name."""
    return (str(row % 1000), "ABCD"[row % 4], f"synthetic_{row}")[row % len(DATASETS)]


def write_checkpoint(output: Path, seed: int = 0, *, overwrite: bool = False) -> None:
    """Write a tiny gpt-oss, all of it or nothing; equal seeds give equal bytes.

    Args:
        output: The model's directory.
        seed: Of the weights.
        overwrite: Replace an existing directory that holds a checkpoint of this function and nothing else.

    Raises:
        ValueError: `output` exists, or holds something else, or the seed is negative.
        OSError: The directory cannot be written.
    """
    _check_bounds("seed", seed, 0, 2**63)
    documents = {"config.json": _CONFIG, "generation_config.json": _GENERATION_CONFIG}
    names = {*documents, "model.safetensors"}
    if output.exists() and not overwrite:
        raise ValueError(f"--output {output} exists: --overwrite replaces it")
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= names):
        raise ValueError(f"--output {output} holds more than a synthetic checkpoint")
    with _temporary(output) as path:
        path.mkdir()
        for name, document in documents.items():
            (path / name).write_text(json.dumps(document, indent=2) + "\n")
        weights = save(_draw_weights(seed), metadata={"format": "pt"})
        # Not save_file, whose file only its owner may read.
        (path / "model.safetensors").write_bytes(weights)
        if output.exists():
            shutil.rmtree(output)
        path.rename(output)


@contextmanager
def _temporary(output: Path) -> Iterator[Path]:
    """Name a path beside `output`; whatever is still there afterwards is removed."""
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no directory {output.parent}")
    path = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)


def _shapes() -> dict[str, tuple[int, ...]]:
    """List the tensors, named as in transformers' GptOssForCausalLM, less the norms."""
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
    # A longer row wins the arg max more often: some answers end before their limit.
    weights["lm_head.weight"][list(STOP_TOKEN_IDS)] *= np.float32(_STOP_GAIN)
    norms = ["input_layernorm", "post_attention_layernorm"]
    names = [f"model.layers.{i}.{norm}.weight" for i in range(_CONFIG["num_hidden_layers"]) for norm in norms]
    return weights | {
        name: np.ones(_CONFIG["hidden_size"], np.float32) for name in [*names, "model.norm.weight"]
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 2 and one line for a bad argument."""
    flags = _parser().parse_args(argv)
    try:
        if flags.command == "dataset":
            spec = DatasetSpec(**{field.name: getattr(flags, field.name) for field in fields(DatasetSpec)})
            write_dataset(flags.output, spec, overwrite=flags.overwrite)
        else:
            write_checkpoint(flags.output, flags.seed, overwrite=flags.overwrite)
    except OSError as error:
        sys.stderr.write(f"--output {flags.output}: {error.strerror or error}\n")
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the result
        return 2
    print(f"wrote {flags.output}")  # noqa: T201  # the result
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sut.synthetic", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    dataset = commands.add_parser("dataset", help="a data set of random prompts")
    checkpoint = commands.add_parser("checkpoint", help="a tiny gpt-oss of random weights")
    for command in (dataset, checkpoint):
        command.add_argument("--output", type=Path, required=True, help="file or directory to write")
        command.add_argument("--overwrite", action="store_true", help="replace what stands there")
    checkpoint.add_argument("--seed", type=int, default=0)
    for field in fields(DatasetSpec):
        flag, required = f"--{field.name.replace('_', '-')}", field.default is MISSING
        dataset.add_argument(
            flag, type=field.type, required=required, default=None if required else field.default
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
