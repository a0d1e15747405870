"""`python -m bench.gpu.draft_model DIR`: write a draft model without weights; print the flag that runs it.

It has the shape of gpt-oss-120b's EAGLE3 head, to time speculative decoding.

With random weights no draft token would be accepted. vLLM's synthetic rejection sampling accepts draft tokens
at a given rate instead (vllm/config/speculative.py, 0.25.1): only the time of a step is real.
Figures with it are a proxy for those of the real head, and must be labelled as such.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.command import new_directory, say
from bench.flag_help import FlagFormatter
from common.flags import FlagError, Parser

# Source: inference_rules.adoc: Interactive may use EAGLE3 with 3 steps and top-k 1, which is vLLM's chain.
NUM_STEPS = 3
# Source: NVIDIA's model card of the head.
ACCEPTANCE_LENGTH = 2.72
"""Mean tokens per step, with the target model's own token."""

# Source: published training configurations of nvidia/gpt-oss-120b-Eagle3-long-context: one Llama layer of the
# target's width and heads, 17,280 hidden units, three of the target's layers as input, the whole vocabulary.
# The numbers of RoPE do not change the time of a step.
_CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "hidden_size": 2880,
    "intermediate_size": 17_280,
    "num_hidden_layers": 1,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201_088,
    "draft_vocab_size": 201_088,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "rms_norm_eps": 1e-05,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_cache": True,
    "eos_token_id": 200_002,
    "pad_token_id": 199_999,
    "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 17, 32]},
}

# Values that another target's draft has in common with its target.
_SHARED = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")


def write_draft(output: Path, target: Mapping[str, Any] | None = None) -> None:
    """Write the configuration into a directory.

    Args:
        output: Directory.
        target: Configuration of another target model, whose width, heads and vocabulary the draft gets; None:
            gpt-oss-120b.

    Raises:
        OSError: The directory cannot be written.
    """
    output.mkdir(exist_ok=True)
    config = _CONFIG if target is None else _CONFIG | draft_shape(target)
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def draft_shape(target: Mapping[str, Any]) -> dict[str, object]:
    """Return what a draft's configuration takes from the target's; its width ratio is that of the head."""
    num_layers, hidden_size = int(target["num_hidden_layers"]), int(target["hidden_size"])
    shape = {name: target[name] for name in _SHARED}
    # The layers behind the first, in the middle and before the last, as near as a small model has them.
    layers = sorted({min(1, num_layers - 1), num_layers // 2, max(num_layers - 4, 0)})
    return shape | {
        "draft_vocab_size": target["vocab_size"],
        "intermediate_size": 6 * hidden_size,
        "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": layers},
    }


def read_target(checkpoint: Path) -> Mapping[str, Any]:
    """Read a target model's configuration.

    Raises:
        FlagError: The directory has none, or it lacks a value that a draft needs.
    """
    try:
        config: dict[str, Any] = json.loads((checkpoint / "config.json").read_bytes())
        draft_shape(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FlagError("--target", f"is not a checkpoint directory: {error!r}", checkpoint) from error
    return config


def speculative_flags(draft: Path, acceptance_length: float = ACCEPTANCE_LENGTH) -> list[str]:
    """Return the worker's flags; the draft is loaded as the target is: `--load-format dummy`."""
    config = {
        "method": "eagle3",
        "model": str(draft),
        "num_speculative_tokens": NUM_STEPS,
        "rejection_sample_method": "synthetic",
        "synthetic_acceptance_length": acceptance_length,
    }
    return ["--speculative-config", json.dumps(config)]


def main(argv: list[str]) -> int:
    """Write the model. Return 0: done, 2: bad input."""
    parser = Parser(
        formatter_class=FlagFormatter,
        prog="python -m bench.gpu.draft_model",
        allow_abbrev=False,
        description=__doc__,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="new or empty directory")
    parser.add_argument(
        "--acceptance-length",
        type=float,
        default=ACCEPTANCE_LENGTH,
        help=f"mean tokens of a step, 1..{NUM_STEPS + 1}",
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="CHECKPOINT",
        help="model directory (default gpt-oss-120b)",
    )
    try:
        args = parser.parse_args(argv)
        if not 1 <= args.acceptance_length <= NUM_STEPS + 1:
            reason = f"{args.acceptance_length} is not within 1 .. {NUM_STEPS + 1}"
            raise FlagError("--acceptance-length", reason)
        directory = new_directory("DIR", args.directory.absolute())
        write_draft(directory, None if args.target is None else read_target(args.target))
    except ValueError as error:
        say(f"bench.gpu.draft_model: {error}")
        return 2
    say(shlex.join(speculative_flags(directory, args.acceptance_length)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
