"""Speculative decoding of an engine: whether it has any, and how it deviates from what the rules allow.

Source: inference_rules.adoc, appendix "Speculative Decoding": only for Interactive, with the reference's
algorithm, head and configuration, the head's weights and precision unchanged, acceptance not manipulated.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from common.json_document import value_or_text
from common.text import printable
from sut.benchmark import BENCHMARK

_MAX_VALUE_LEN = 80


class _Names(NamedTuple):
    """What an engine calls the parts of its speculative configuration."""

    algorithm: str
    head: str
    num_steps: str
    top_k: str
    """Empty: the engine drafts a chain of tokens, which is a top-k of 1."""
    harmless: tuple[str, ...]
    """What changes neither the draft tokens nor which of them are accepted."""
    lossless: Mapping[str, tuple[str, ...]]
    """Values with which the answers are distributed as without speculation, by name."""


_VLLM = _Names(
    algorithm="method",
    head="model",
    num_steps="num_speculative_tokens",
    top_k="",
    harmless=(
        *("revision", "code_revision", "draft_tensor_parallel_size", "enforce_eager", "attention_backend"),
        *("moe_backend", "disable_padded_drafter_batch", "use_local_argmax_reduction", "draft_sample_method"),
    ),
    lossless={"rejection_sample_method": ("standard", "block")},
)
_SGLANG = _Names(
    algorithm="speculative_algorithm",
    head="speculative_draft_model_path",
    num_steps="speculative_num_steps",
    top_k="speculative_eagle_topk",
    harmless=(
        *("speculative_draft_model_revision", "speculative_num_draft_tokens", "speculative_attention_mode"),
        *("speculative_draft_attention_backend", "speculative_moe_runner_backend"),
        "speculative_moe_a2a_backend",
    ),
    lossless={},
)
# Arguments of vLLM that are parts of speculative_config as well.
_VLLM_PARTS = {"spec_method": "method", "spec_model": "model", "spec_tokens": "num_speculative_tokens"}
_ENABLING = ("speculative_config", "spec_method", "spec_model", "speculative_algorithm")
"""Each of these arguments of vLLM or SGLang enables speculative decoding."""


def enabling_args(args: Mapping[str, str]) -> list[str]:
    """List the arguments of an engine that enable speculative decoding.

    Args:
        args: Effective engine arguments, values as JSON.
    """
    return [name for name in _ENABLING if name in args]


def speculation_deviations(args: Mapping[str, str]) -> list[str]:
    """List how an engine's speculative decoding differs from the one that the rules allow.

    Args:
        args: As in `enabling_args`.
    """
    if not enabling_args(args):
        return []
    names = _SGLANG if _SGLANG.algorithm in args else _VLLM
    values = _sglang_values(args) if names is _SGLANG else _vllm_values(args)
    rules = BENCHMARK.speculation
    required: dict[str, str | int] = {
        names.algorithm: rules.algorithm,
        names.num_steps: rules.num_steps,
    }
    required |= {names.top_k: rules.top_k} if names.top_k else {}
    found = [
        f"{name} is {_shown(values.get(name))}, not {value}"
        for name, value in required.items()
        if not _is_equal(values.get(name), value)
    ]
    if not _is_head(values.get(names.head), rules.head):
        found.append(f"{names.head} is {_shown(values.get(names.head))}, not {rules.head}")
    found += [
        f"{name} is {_shown(values[name])}: it changes what is drafted or accepted"
        for name in sorted(values.keys() - {*required, *names.harmless, names.head})
        if values[name] not in names.lossless.get(name, ())
    ]
    return [f"speculative decoding: {text}" for text in found]


def _vllm_values(args: Mapping[str, str]) -> dict[str, object]:
    config = value_or_text(args.get("speculative_config", "{}"))
    values = dict(config) if isinstance(config, dict) else {"speculative_config": config}
    values |= {part: value_or_text(args[name]) for name, part in _VLLM_PARTS.items() if name in args}
    return {str(name): value for name, value in values.items() if value is not None}


def _sglang_values(args: Mapping[str, str]) -> dict[str, object]:
    return {name: value_or_text(text) for name, text in args.items() if name.startswith("speculative_")}


def _is_equal(value: object, required: str | int) -> bool:
    if isinstance(required, str):
        return isinstance(value, str) and value.lower() == required
    return isinstance(value, int | float) and not isinstance(value, bool) and value == required


def _is_head(value: object, required: str) -> bool:
    """Whether a path or name is that of the head: a repository, its cache, or a directory of its name."""
    if not isinstance(value, str):
        return False
    name = required.rpartition("/")[2]
    return any(part == name or part.endswith(f"--{name}") for part in PurePosixPath(value).parts)


def _shown(value: object) -> str:
    return "not given" if value is None else printable(str(value), _MAX_VALUE_LEN)
