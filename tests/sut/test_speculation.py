"""Speculative decoding: what the rules allow in Interactive, and what is named as a deviation."""

import json

import pytest

from sut.results.speculation import enabling_args, speculation_deviations

HEAD = "nvidia/gpt-oss-120b-Eagle3-long-context"
VLLM = {"method": "eagle3", "model": f"/models/{HEAD}", "num_speculative_tokens": 3}
SGLANG = {
    "speculative_algorithm": "EAGLE3",
    "speculative_draft_model_path": HEAD,
    "speculative_num_steps": 3,
    "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4,
}
CHANGES = "it changes what is drafted or accepted"


def vllm_args(**changes: object) -> dict[str, str]:
    """Return vLLM's arguments as a worker reports them."""
    return {"speculative_config": json.dumps(VLLM | changes), "max_num_seqs": "64"}


def sglang_args(**changes: object) -> dict[str, str]:
    """Return SGLang's arguments as a worker reports them."""
    return {name: json.dumps(value) for name, value in (SGLANG | changes).items()}


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"enable_prefix_caching": "false"},
        vllm_args(),
        vllm_args(model=f"/root/.cache/hub/models--{HEAD.replace('/', '--')}/snapshots/5c3f"),
        vllm_args(rejection_sample_method="block", attention_backend="FLASH_ATTN", quantization=None),
        {"spec_method": '"eagle3"', "spec_model": f'"{HEAD}"', "spec_tokens": "3"},
        sglang_args(),
    ],
)
def test_what_the_rules_allow_is_no_deviation(args: dict[str, str]) -> None:
    """No speculation, and EAGLE3 with the reference's head, 3 steps and top-k 1, as each engine writes it."""
    assert [] == speculation_deviations(args)


def test_what_changes_neither_draft_nor_acceptance_is_no_deviation() -> None:
    """Where and how the head runs, and the ways of accepting that keep the distribution of the answers."""
    for name in (
        *("revision", "code_revision", "draft_tensor_parallel_size", "enforce_eager", "attention_backend"),
        *("moe_backend", "disable_padded_drafter_batch", "use_local_argmax_reduction", "draft_sample_method"),
    ):
        assert [] == speculation_deviations(vllm_args(**{name: "x"}))
    for method in ("standard", "block"):
        assert [] == speculation_deviations(vllm_args(rejection_sample_method=method))
    for name in (
        *("speculative_draft_model_revision", "speculative_num_draft_tokens", "speculative_attention_mode"),
        *("speculative_draft_attention_backend", "speculative_moe_runner_backend"),
        "speculative_moe_a2a_backend",
    ):
        assert [] == speculation_deviations(sglang_args(**{name: "x"}))
    # Names of one engine mean nothing to the other, and other arguments of SGLang are none of speculation.
    assert speculation_deviations(vllm_args(speculative_attention_mode="x"))
    assert [] == speculation_deviations(sglang_args(max_running_requests=8))


@pytest.mark.parametrize("name", ["speculative_config", "spec_method", "spec_model", "speculative_algorithm"])
def test_each_argument_that_enables_speculation_is_found(name: str) -> None:
    """One is enough, in the engine that has it."""
    assert [name] == enabling_args({name: '"x"', "max_num_seqs": "64"})
    assert speculation_deviations({name: '"x"'})


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (vllm_args(method="ngram"), ["method is ngram, not eagle3"]),
        (vllm_args(num_speculative_tokens=5), ["num_speculative_tokens is 5, not 3"]),
        (vllm_args(num_speculative_tokens=True), ["num_speculative_tokens is True, not 3"]),
        (vllm_args(num_speculative_tokens="3"), ["num_speculative_tokens is 3, not 3"]),
        (sglang_args(speculative_eagle_topk=True), ["speculative_eagle_topk is True, not 1"]),
        (vllm_args(model=3), [f"model is 3, not {HEAD}"]),
        (vllm_args(model="/models/own-head"), [f"model is /models/own-head, not {HEAD}"]),
        (
            vllm_args(rejection_sample_method="synthetic", synthetic_acceptance_length=2.72),
            [
                f"rejection_sample_method is synthetic: {CHANGES}",
                f"synthetic_acceptance_length is 2.72: {CHANGES}",
            ],
        ),
        (vllm_args(quantization="fp8"), [f"quantization is fp8: {CHANGES}"]),
        (
            {"speculative_config": "[3]"},
            [
                "method is not given, not eagle3",
                "num_speculative_tokens is not given, not 3",
                f"model is not given, not {HEAD}",
                f"speculative_config is [3]: {CHANGES}",
            ],
        ),
        (
            {"spec_method": "ngram\n" + 100 * "x"},
            [
                f"method is ngram?{74 * 'x'}, not eagle3",
                "num_speculative_tokens is not given, not 3",
                f"model is not given, not {HEAD}",
            ],
        ),
        (sglang_args(speculative_eagle_topk=4), ["speculative_eagle_topk is 4, not 1"]),
        (
            sglang_args(speculative_accept_threshold_single=0.5),
            [f"speculative_accept_threshold_single is 0.5: {CHANGES}"],
        ),
    ],
)
def test_each_difference_is_named(args: dict[str, str], expected: list[str]) -> None:
    """Algorithm, steps, top-k, head, and whatever else is set, with its value cut and cleaned."""
    assert [f"speculative decoding: {text}" for text in expected] == speculation_deviations(args)
    assert enabling_args(args)
