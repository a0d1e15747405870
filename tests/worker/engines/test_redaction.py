"""Engine arguments that a worker reports without secrets (worker.engines.model.redaction)."""

import hashlib
import json

import pytest

from worker.engines.model.redaction import HIDDEN, redact


@pytest.mark.parametrize(
    "key",
    ["s3_secret_access_key", "password", "REDIS_PWD", "access_token", "Authorization", "kv_passphrase"],
)
@pytest.mark.parametrize("value", ["hunter2", 1234, ["hunter2"], {"a": "hunter2"}])
def test_a_value_under_the_key_of_a_credential_is_left_out(key: str, value: object) -> None:
    """Texts, numbers, lists and objects, at any depth; workers with unequal credentials report the same."""
    for name in ("model_loader_extra_config", "kv_transfer_config", "additional_config", "a_later_config"):
        assert {"a": {key: HIDDEN}} == redact(name, {"a": {key: value}})
        assert [{key: HIDDEN}] == redact(name, [{key: value}])


def test_a_value_under_an_unknown_key_is_replaced_by_its_hash() -> None:
    """Unequal values have unequal hashes; flags and null, which hold no secret, are reported."""
    value = {"url": "redis://:hunter2@node", "size": 7, "on": True, "off": None, "deep": [{"x": "y"}]}
    hashes = [hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in (value["url"], 7, "y")]
    url, size, deep = (f"sha256:{digest}" for digest in hashes)
    expected = {"url": url, "size": size, "on": True, "off": None, "deep": [{"x": deep}]}
    assert expected == redact("kv_transfer_config", value)


def test_values_under_known_keys_are_reported() -> None:
    """The connector and its sizes show; ids and addresses, which every process has of its own, do not."""
    value = {"kv_connector": "LMCacheConnectorV1", "engine_id": "5f1c", "kv_ip": "10.0.0.1", "kv_port": 14579}
    expected = {"kv_connector": "LMCacheConnectorV1", "engine_id": HIDDEN, "kv_ip": HIDDEN, "kv_port": HIDDEN}
    assert expected == redact("kv_transfer_config", value)
    assert {"concurrency": 8} == redact("model_loader_extra_config", {"concurrency": 8})


def test_what_describes_the_model_is_reported_without_texts_that_may_be_credentials() -> None:
    """Overrides and speculation show their values: a number of tokens and a list of ids are no secrets."""
    value = {"num_speculative_tokens": 3, "method": "ngram", "eos_token_id": [1, 2], "tokenizer": "a/b"}
    assert value == redact("speculative_config", value)
    nested = {"draft_load_config": {"api_key": "hunter2"}}
    assert {"draft_load_config": {"api_key": HIDDEN}} == redact("speculative_config", nested)


def test_other_arguments_lose_the_credentials_in_their_urls() -> None:
    """User information and query of a URL are removed; numbers, lists and plain texts stay."""
    url = "https://user:hunter2@host:4317/v1?sig=hunter2#part"
    assert f"https://{HIDDEN}@host:4317/v1?{HIDDEN}" == redact("otlp_traces_endpoint", url)
    assert [f"s3://{HIDDEN}@bucket"] == redact("a_later_list", ["s3://key:hunter2@bucket"])
    for value in (16384, "openai/gpt-oss-120b", "/models/a@b", ["a.b:C"], True, None, 0.9):
        assert value == redact("any_argument", value)
    assert [HIDDEN, HIDDEN] == [redact(name, "hunter2") for name in ("hf_token", "ray_password")]
    assert 8192 == redact("max_num_batched_tokens", 8192)
