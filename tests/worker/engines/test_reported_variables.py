"""Which environment variables of an engine are reported: those that can change what it computes."""

import pytest

from worker.engines.model.fact_encoding import reported_variables


@pytest.mark.parametrize(
    ("name", "value", "reported"),
    [
        # Words that only contain DIR, LOG, TOKEN or CACHE are no places, logs or credentials.
        ("VLLM_USE_DIRECT_DCP_A2A", "1", '"1"'),
        ("VLLM_COMPUTE_NANS_IN_LOGITS", "1", '"1"'),
        ("VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE", "8192", '"8192"'),
        ("VLLM_KV_CACHE_LAYOUT", "HND", '"HND"'),
        ("VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE", "1", '"1"'),
        ("SGLANG_SIMULATE_ACC_TOKEN_MODE", "real-draft-token", '"(hidden)"'),
        ("VLLM_ASSETS_CACHE", "/a", None),
        ("VLLM_CACHE_ROOT", "/a", None),
        ("VLLM_CPU_KVCACHE_SPACE", "4", None),
        ("VLLM_CPU_OMP_THREADS_BIND", "0-3", None),
        ("VLLM_HOST_IP", "10.0.0.1", None),
        ("VLLM_LOOPBACK_IP", "127.0.0.2", None),
        ("VLLM_LOGGING_LEVEL", "DEBUG", None),
        ("VLLM_API_KEY", "7", None),
        ("SGLANG_API_TOKEN", "7", None),
        ("SGLANG_RUN_ID", "7", None),
    ],
)
def test_a_variable_is_known_by_its_words(
    name: str, value: str, reported: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places, limits, logs and credentials are left out; the rest is compared between workers and nodes."""
    monkeypatch.setenv(name, value)
    assert ({} if reported is None else {name: reported}) == reported_variables([name, "VLLM_NOT_SET"])
