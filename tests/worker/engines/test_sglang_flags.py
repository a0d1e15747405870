"""Parsing SGLang's flags and filling in this worker's defaults, with a stand-in for SGLang."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from worker.__main__ import show
from worker.config import parse as parse_worker_flags
from worker.engines.model import gpu_fit
from worker.engines.model.preset import FOLDERS, preset_names
from worker.engines.sglang import server_flags
from worker.engines.sglang.scheduler_link import check_sglang_interface
from worker.engines.sglang.server_facts import engine_facts, execution_facts
from worker.engines.sglang.server_flags import ServerFlags, longest_request, parse_server_flags
from worker.machine.gpus import Device, Memory

STAND_IN = Path(__file__).parent / "sglang_stand_in"
CPU = ["--device", "cpu"]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the stand-in where SGLang would be found."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "sglang"]:
        del sys.modules[name]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a checkpoint with gpt-oss-120b's sizes and weights of 60 GiB."""
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8}
    sizes = {"vocab_size": 201_088, "max_position_embeddings": 131_072, "eos_token_id": 200_002}
    (tmp_path / "config.json").write_text(json.dumps(heads | sizes))
    return tmp_path


def parse(model: Path, *flags: str) -> ServerFlags:
    """Parse flags."""
    return parse_server_flags(list(flags), str(model))


def test_defaults_are_those_of_a_run(model: Path) -> None:
    """No tokenizer, no cache across requests, a fixed seed, and the context of the longest request."""
    args = parse(model, *CPU).server_args
    assert (True, True, 0) == (args.skip_tokenizer_init, args.disable_radix_cache, args.random_seed)
    assert (48_128, 1) == (args.context_length, args.tp_size)


def test_flags_pass_under_sglangs_names(model: Path) -> None:
    """What was given reaches SGLang, and is reported as changed; the rest is not."""
    flags = parse(model, *CPU, "--context-length", "512", "--schedule-policy", "lpm", "--tp-size=2")
    args = flags.server_args
    assert (512, "lpm", 2, str(model)) == (
        args.context_length,
        args.schedule_policy,
        args.tp_size,
        args.model_path,
    )
    assert {
        "device": "cpu",
        "context_length": 512,
        "schedule_policy": "lpm",
        "tp_size": 2,
    } == flags.changed


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dp-size", "2"], "--dp-size: 2, but this worker needs 1"),
        (["--is-embedding"], "--is-embedding: True, but this worker needs False"),
        (["--disaggregation-mode=prefill"], "--disaggregation-mode: prefill, but this worker needs null"),
        (["--model-path", "m"], "--model-path: m, but it is --model at this worker"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--page-size", "many"], "--page-size: invalid int value: 'many'"),
        (["--schedule-policy", "other"], "schedule_policy is other"),
        (["--tp-size", "0"], "tp_size must be positive"),
    ],
)
def test_a_bad_flag_is_one_line(model: Path, flags: list[str], says: str) -> None:
    """A flag that this worker cannot serve, that SGLang does not know, or whose value it refuses."""
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        parse(model, *CPU, *flags)


@pytest.mark.parametrize(
    ("free_gib", "flags", "says"),
    [
        ([79, 79], [], None),
        ([79, 40], [], "--mem-fraction-static: 0.85 of accelerator 1 is 68.0 GiB, but it has 40.0 GiB free"),
        ([79, 40], ["--tp-size", "1", "--load-format", "dummy"], None),
        (
            [79, 79],
            ["--mem-fraction-static", "0.25"],
            "--mem-fraction-static: 0.25 of accelerator 0 is 20.0 GiB, "
            "but its part of the weights is 30.0 GiB",
        ),
        (
            [],
            [],
            "engine sglang: SGLang needs an accelerator, but none is visible: see nvidia-smi, "
            "CUDA_VISIBLE_DEVICES",
        ),
    ],
    ids=["enough", "taken", "one", "too-little", "none"],
)
def test_too_little_memory_is_refused_before_loading(
    monkeypatch: pytest.MonkeyPatch, model: Path, free_gib: list[int], flags: list[str], says: str | None
) -> None:
    """Accelerators of 80 GiB, weights of 60 GiB; SGLang itself would find out after it has loaded them."""
    memory = [Memory(str(index), free << 30, 80 << 30) for index, free in enumerate(free_gib)]
    monkeypatch.setattr(gpu_fit, "visible_memory", lambda: memory)
    monkeypatch.setattr(gpu_fit, "FREED_TIMEOUT_S", 0)
    monkeypatch.setattr(gpu_fit, "FREED_POLL_S", 0)
    monkeypatch.setattr(server_flags, "visible_devices", lambda: [Device(m.name, ()) for m in memory])
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(60 << 30)
    if says is None:
        assert 2 - len(flags) // 4 == parse(model, *flags).server_args.tp_size
        return
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        parse(model, *flags)


@pytest.mark.parametrize(
    ("flags", "num_used"),
    [
        ({}, 2),
        ({"dp_size": 2}, None),
        ({"dp_size": 2, "enable_dp_attention": True}, 2),
        ({"tp_size": 8, "nnodes": 2}, None),
        ({"base_gpu_id": 2}, None),
        ({"device": "cpu"}, None),
    ],
)
def test_idle_accelerators_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], num_used: int | None
) -> None:
    """Two ranks on four accelerators: the warning names both numbers."""
    monkeypatch.setattr(server_flags, "visible_devices", lambda: [Device(str(i), ()) for i in range(4)])
    usual = {"device": "cuda", "base_gpu_id": 0, "tp_size": 2, "pp_size": 1, "dp_size": 1, "nnodes": 1}
    args: Any = SimpleNamespace(**usual | {"enable_dp_attention": False} | flags)
    warnings = [line.split(":")[0] for line in server_flags.idle_accelerators(args)]
    assert ([f"the engine uses {num_used} of 4 visible accelerators"] if num_used else []) == warnings


def test_a_request_is_as_long_as_sglang_never_cuts_it() -> None:
    """Below its longest prompt, and in memory with two pages less."""
    info: dict[str, Any] = {"max_req_input_len": 506, "max_total_num_tokens": 20_000}
    assert 506 == longest_request(info, 16)
    assert 468 == longest_request(info | {"max_total_num_tokens": 500}, 16)


def test_facts_divide_what_decides_answers_from_the_rest(model: Path) -> None:
    """Unknown flags and the model's type decide; sizes and policies are execution; secrets are neither."""
    flags = parse(model, *CPU, "--schedule-policy=lpm", "--json-model-override-args={}", "--api-key=x")
    changed = flags.changed | {"flag_of_a_later_version": 7, "json_model_override_args": '{"a": 1}'}
    facts = engine_facts(changed, flags.server_args)
    assert ('"bfloat16"', "7", '"{\\"a\\": 1}"') == (
        facts["dtype"],
        facts["flag_of_a_later_version"],
        facts["json_model_override_args"],
    )
    assert {"true", "0"} == {facts["disable_radix_cache"], facts["random_seed"]}
    assert not facts.keys() & {"schedule_policy", "api_key", "device", "random_weights"}
    execution = execution_facts(changed, flags.server_args, 64)
    assert ('"lpm"', "64") == (execution["schedule_policy"], execution["max_running_requests"])


@pytest.mark.parametrize("name", preset_names("sglang"))
def test_presets_hold_sglangs_flags_and_say_where_they_come_from(name: str) -> None:
    """Each preset is taken by SGLang's parser, and its file says its source and whether it was measured."""
    text = (FOLDERS["sglang"] / f"{name}.toml").read_text()
    table = tomllib.loads(show(["--engine", "sglang", "--preset", name]))["worker"]
    assert tomllib.loads(text)["worker"].items() <= table.items()
    assert [] == [word for word in ("# Source: ", "# Measured: ") if word not in text]
    with pytest.raises(
        ValueError, match=f"^--preset: {name} is a set of SGLang's flags, but the engine is vllm$"
    ):
        parse_worker_flags(["--preset", name])


def test_an_interface_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of SGLang may lack a message: one line, before a model loads."""
    check_sglang_interface()
    from sglang.srt.managers import io_struct

    monkeypatch.delattr(io_struct, "AbortReq")
    says = (
        "engine sglang: sglang 0.5.15 has no sglang.srt.managers.io_struct:AbortReq: "
        "this worker was written for "
    )
    with pytest.raises(ValueError, match=f"^{re.escape(says)}0.5.15$"):
        check_sglang_interface()
    monkeypatch.setitem(sys.modules, "sglang.srt.utils.network", None)
    monkeypatch.setattr(io_struct, "AbortReq", ModuleType, raising=False)
    with pytest.raises(ValueError, match=r"has no sglang\.srt\.utils\.network:get_zmq_socket"):
        check_sglang_interface()
