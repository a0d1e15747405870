"""The environment that a machine reports: what affects a run, and no secret."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.environment import HIDDEN, REPORTED_NAMES, relevant_variables

SECRET_WORDS = re.compile("KEY|TOKEN|SECRET|PASS|PWD|AUTH|CRED|PRIVATE|BEARER|SALT|COOKIE|LICENSE")
PREFIXES = ["AWS", "CUDA", "GRPC", "HF", "HF_HUB", "LD", "NCCL", "PYTHON", "TORCH", "VLLM", "VLLM_USE"]


def test_variables_that_affect_a_run_are_reported() -> None:
    """Those of the list, vLLM's switches, and proxies; a value has at most 200 characters."""
    kept = {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "LD_PRELOAD": "x.so",
        "NCCL_ALGO": "Ring",
        "OMP_NUM_THREADS": "4",
        "PYTHONDEVMODE": "1",
        "VLLM_USE_DEEP_GEMM": "true",
        "VLLM_ENABLE_HPC_OPS": "0",
        "no_proxy": "a,.b,10.0.0.0/8",
    }
    others = {"PATH": "/bin", "HOME": "/root", "MY_CUDA_HOME": "x", "VLLM_USE_DEEP_GEMM_X": "certs/deep"}
    expected = kept | {"GRPC_TRACE": "x" * 200}
    assert expected == relevant_variables(kept | others | {"GRPC_TRACE": "x" * 300})


@pytest.mark.parametrize(
    "name",
    [
        "HF_HUB_PASSWD",
        "DB_PWD",
        "LD_AUTH",
        "GRPC_PASSPHRASE",
        "HF_TOKEN",
        "VLLM_API_KEY",
        "NCCL_SECRET",
        "TORCH_password",
        "PYTHONKEYRING_PW",
        "CUDA_LICENSE",
        "my_proxy",
    ],
)
def test_name_that_is_not_listed_is_not_reported(name: str) -> None:
    """No list of words for secrets is complete, so a variable must be on the list of names."""
    assert {} == relevant_variables({name: "hunter2"})


@given(
    st.sampled_from(PREFIXES),
    st.sampled_from(["", "_"]),
    st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True),
)
def test_no_prefix_admits_a_value(prefix: str, joint: str, rest: str) -> None:
    """Whatever follows a known library's prefix, a value is reported only under a listed name."""
    name = f"{prefix}{joint}{rest}"
    reported = relevant_variables({name: "hunter2"})
    assert {} == reported if name not in REPORTED_NAMES else {name: "hunter2"}


def test_no_listed_name_is_that_of_a_secret() -> None:
    """The list names nothing that programs use for a secret."""
    assert [] == [name for name in REPORTED_NAMES if SECRET_WORDS.search(name)]


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        ("", ""),
        ("http://proxy:3128", "http://proxy:3128"),
        ("http://[::1]:3128/", "http://[::1]:3128"),
        ("proxy", "proxy"),
        ("http://user:hunter2@proxy:3128", "http://***@proxy:3128"),
        ("user:hunter2@proxy:3128", "***@proxy:3128"),
        ("http://us@er:hunter2@proxy", "http://***@proxy"),
        ("http://user:hunter/2@proxy", HIDDEN),
        ("http://proxy/?auth=hunter2", HIDDEN),
        ("http://proxy/?auth=user@hunter2", HIDDEN),
        ("http://proxy/hunter2", HIDDEN),
        ("user hunter2", HIDDEN),
    ],
)
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "grpc_proxy", "HF_ENDPOINT"])
def test_proxy_is_reported_without_its_user(name: str, value: str, reported: str) -> None:
    """User and password are replaced; a URL that might hold a secret elsewhere is not shown."""
    assert {name: reported} == relevant_variables({name: value})


def test_url_with_a_secret_is_not_shown_under_any_name() -> None:
    """A listed name with a URL for its value, and a no_proxy that is no list of hosts."""
    secret = {"LD_PRELOAD": "https://user:hunter2@host/x.so", "no_proxy": "user:pw@host"}
    assert dict.fromkeys(secret, HIDDEN) == relevant_variables(secret)


def test_value_is_printable() -> None:
    """Escapes and bytes that are not UTF-8 are replaced: the values are printed, and sent as UTF-8."""
    assert {"NCCL_DEBUG": "?[31mINFO?"} == relevant_variables({"NCCL_DEBUG": "\x1b[31mINFO\udcff"})
