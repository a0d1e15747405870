"""`python -m bench.gpu.model DIR`: write gpt-oss-120b without weights, for vLLM's `--load-format dummy`."""

import json
import sys
from pathlib import Path

from bench.command import installed, say
from bench.flag_help import FlagFormatter
from common.flags import FlagError, Parser

# Source: config.json and generation_config.json of openai/gpt-oss-120b.
_NUM_LAYERS = 36
_CONFIG: dict[str, object] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "torch_dtype": "bfloat16",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": _NUM_LAYERS,
    "vocab_size": 201_088,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "experts_per_token": 4,
    "layer_types": ["sliding_attention", "full_attention"] * (_NUM_LAYERS // 2),
    "sliding_window": 128,
    "attention_bias": True,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "swiglu_limit": 7.0,
    "initial_context_length": 4096,
    "max_position_embeddings": 131_072,
    "rope_theta": 150_000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "rms_norm_eps": 1e-05,
    "initializer_range": 0.02,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.9,
    "tie_word_embeddings": False,
    "use_cache": True,
    "eos_token_id": 200_002,
    "pad_token_id": 199_999,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
_GENERATION_CONFIG = {
    "bos_token_id": 199_998,
    "do_sample": True,
    "eos_token_id": [200_002, 199_999, 200_012],
    "pad_token_id": 199_999,
}


def check_place(name: str, model: Path | None, *, is_on_gpu: bool) -> None:
    """Check that a command without GPUs has a small model, and a vLLM that uses no GPU.

    Args:
        name: Flag that names the GPUs.
        model: Checkpoint; None: gpt-oss-120b.
        is_on_gpu: Whether the flag is given.

    Raises:
        FlagError: A flag is missing.
    """
    if is_on_gpu:
        return
    if model is None:
        raise FlagError("--model", f"required without {name}: gpt-oss-120b does not run on the CPU")
    build = installed("vllm")
    if build[0].isdigit() and "cpu" not in build:
        raise FlagError(name, f"required: vLLM {build} is not a build for CPUs")


def write_full_size(output: Path) -> None:
    """Write both files into a new directory.

    Raises:
        OSError: The directory exists or cannot be written.
    """
    output.mkdir()
    for name, document in (("config.json", _CONFIG), ("generation_config.json", _GENERATION_CONFIG)):
        (output / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main(argv: list[str]) -> int:
    """Write the model. Return 0: done, 2: bad input."""
    parser = Parser(
        formatter_class=FlagFormatter,
        prog="python -m bench.gpu.model",
        allow_abbrev=False,
        description=__doc__,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory to create")
    try:
        write_full_size(parser.parse_args(argv).directory)
    except (ValueError, OSError) as error:
        say(f"bench.gpu.model: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
