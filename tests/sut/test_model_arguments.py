"""Deviations of engines whose model is not, or not only, the benchmark's checkpoint as it was hashed."""

import json

import pytest

from sut.results.deviations import EngineReport, engine_deviations
from sut.results.model_arguments import model_deviations, simulation_deviations, size_deviations
from sut.settings import Scenario
from tests.sut.handmade_logs import OFFLINE, STOP_IDS, setup_of

MODEL = "the model is not that of the checkpoint alone"
FILES = "the weights may be others than those of the hashed files"
LOADER = "other files than the hashed ones may be loaded"


@pytest.mark.parametrize(
    ("engine", "args", "text"),
    [
        ("vllm", {"hf_overrides": '{"num_experts_per_tok": 1}'}, f"hf_overrides is set: {MODEL}"),
        ("vllm", {"logits_processors": '["a.b:C"]'}, f"logits_processors is set: {MODEL}"),
        ("vllm", {"worker_extension_cls": '"a.B"'}, f"worker_extension_cls is set: {MODEL}"),
        ("vllm", {"load_format": '"ipc_cache"'}, f"load_format is ipc_cache: {FILES}"),
        ("vllm", {"load_format": '"TENSORIZER"'}, f"load_format is tensorizer: {FILES}"),
        (
            "vllm",
            {"load_format": '"sharded_state"', "model_loader_extra_config": '{"pattern": "../b/*"}'},
            f"model_loader_extra_config has pattern: {LOADER}",
        ),
        (
            "vllm",
            {"model_loader_extra_config": '{"enable_weights_track": false, "num_threads": 4}'},
            f"model_loader_extra_config has enable_weights_track: {LOADER}",
        ),
        ("sglang", {"json_model_override_args": '"{}"'}, f"json_model_override_args is set: {MODEL}"),
        ("sglang", {"load_format": '"remote_instance"'}, f"load_format is remote_instance: {FILES}"),
        (
            "sglang",
            {"model_loader_extra_config": '"[]"'},
            f"model_loader_extra_config has no object: {LOADER}",
        ),
    ],
)
def test_a_model_that_is_not_the_hashed_checkpoint_is_named(
    engine: str, args: dict[str, str], text: str
) -> None:
    """A changed model, weights of other files and code in the engine make a run no submission run."""
    off = {"enable_prefix_caching": "false", "disable_radix_cache": "true"}
    engines = (EngineReport("a:1", engine, off | args, STOP_IDS),)
    assert [f"{text}: 1 of 1 workers, first a:1"] == engine_deviations(setup_of(OFFLINE, engines=engines))


# What replaces parts of the model, its weights or the choice of its tokens, by engine.
REPLACING = {
    "vllm": [
        *("hf_overrides", "hf_config_path", "model_class_overrides", "model_weights", "logits_processors"),
        *("worker_cls", "scheduler_cls", "disable_sliding_window", "enable_trace_replay"),
        *("diffusion_config", "watermark_config", "worker_extension_cls"),
    ],
    "sglang": [
        *("json_model_override_args", "model_config_parser", "custom_weight_loader", "forward_hooks"),
        *("lora_paths", "kt_weight_path", "enable_hisparse"),
    ],
}
# Formats that read the files which a worker hashes.
OWN_FILES = [
    *("auto", "hf", "pt", "safetensors", "fastsafetensors", "instanttensor", "npcache", "mistral", "gguf"),
    *("bitsandbytes", "layered", "sharded_state", "runai_streamer", "runai_streamer_sharded"),
]
# Keys that change only how fast the files are read.
READING = [
    *("enable_multithread_load", "num_threads", "concurrency", "memory_limit", "distributed"),
    "use_prefetch",
]


@pytest.mark.parametrize("engine", REPLACING)
def test_every_argument_that_replaces_a_part_of_the_model_is_named(engine: str) -> None:
    """Each is a deviation of its own engine, and of no other engine that ignores it."""
    for name in REPLACING[engine]:
        assert [f"{name} is set: {MODEL}"] == model_deviations(engine, {name: '"x"'})
    assert [] == model_deviations("counting", {"hf_overrides": "{}", "lora_paths": "[]"})


def test_an_extension_that_draws_the_weights_is_named_once() -> None:
    """With the load format dummy the worker itself adds the class that draws them."""
    args = {"load_format": '"dummy"', "worker_extension_cls": '"a.B"'}
    assert ["load_format is dummy: the weights are random"] == model_deviations("vllm", args)


def test_a_loader_may_be_told_how_to_read_and_nothing_else() -> None:
    """Formats that read the hashed files, and keys that change the speed; what is no JSON is named."""
    for load_format in OWN_FILES:
        assert [] == model_deviations("vllm", {"load_format": f'"{load_format.upper()}"'})
    for name in READING:
        assert [] == model_deviations("vllm", {"model_loader_extra_config": json.dumps({name: 1})})
    two = model_deviations("vllm", {"model_loader_extra_config": '{"z": 1, "pattern": 2, "use_prefetch": 3}'})
    assert [f"model_loader_extra_config has pattern, z: {LOADER}"] == two
    # SGLang's value is JSON in a string.
    text = json.dumps(json.dumps({"use_prefetch": True}))
    assert [] == model_deviations("sglang", {"model_loader_extra_config": text})
    torn = model_deviations("vllm", {"model_loader_extra_config": '{"z'})
    assert [f"model_loader_extra_config has no JSON: {LOADER}"] == torn


@pytest.mark.parametrize("value", ['""', '"0"', '"-1"', '"false"', '"False"', "0", "false"])
def test_a_simulation_that_is_switched_off_is_none(value: str) -> None:
    """Set to nothing, 0, -1 or false, a variable simulates nothing; any other value does."""
    assert [] == simulation_deviations({"SGLANG_SIMULATE_ACC_LEN": value})
    text = "VLLM_SIMULATE is set: the engine simulates a part of the model"
    assert [text] == simulation_deviations({"SGLANG_SIMULATE_ACC_LEN": value, "VLLM_SIMULATE": '"1"'})
    assert [] == simulation_deviations({"MY_VLLM_SIMULATE": '"1"', "VLLM_STIMULATE": '"1"'})


def test_sizes_that_cannot_be_read_are_not_the_benchmarks() -> None:
    """Each size is named as missing; a worker that reports none at all is older and is not asked."""
    (told,) = size_deviations({"model_sizes": "{"})
    assert "num_hidden_layers None, not 36" in told
    assert [] == size_deviations({})
    assert [] == size_deviations({"model_sizes": "null"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        (
            {"num_hidden_layers": 24, "num_local_experts": 32},
            "num_hidden_layers 24, not 36, num_local_experts 32, not 128",
        ),
        ({"num_experts_per_tok": None}, "num_experts_per_tok None, not 4"),
    ],
)
def test_another_model_than_the_benchmarks_is_named(changes: dict[str, object], told: str | None) -> None:
    """A smaller model with the same vocabulary and stop ids, such as gpt-oss-20b, makes no submission run."""
    official = {"num_hidden_layers": 36, "hidden_size": 2880, "intermediate_size": 2880}
    official |= {"num_local_experts": 128, "num_experts_per_tok": 4}
    facts = {"model_sizes": json.dumps(official | changes)}
    engines = (EngineReport("a:1", "vllm", {"enable_prefix_caching": "false"}, STOP_IDS, {}, facts),)
    text = f"the model is not openai/gpt-oss-120b: {told}: 1 of 1 workers, first a:1"
    assert ([] if told is None else [text]) == engine_deviations(setup_of(OFFLINE, engines=engines))


@pytest.mark.parametrize("scenario", list(Scenario))
@pytest.mark.parametrize(
    "variable",
    ["SGLANG_SIMULATE_ACC_LEN", "SGLANG_SIMULATE_UNIFORM_EXPERTS", "VLLM_MOE_ROUTING_SIMULATION_STRATEGY"],
)
def test_a_simulated_part_of_the_model_is_named(scenario: Scenario, variable: str) -> None:
    """Variables that draw experts or accept draft tokens without a comparison deviate; switched off, not."""
    engine = "sglang" if variable.startswith("SGLANG") else "vllm"
    off = {"enable_prefix_caching": "false", "disable_radix_cache": "true"}
    execution = {variable: '"2.5"', "SGLANG_SIMULATE_ACC_METHOD": '""', "VLLM_MOE_SKIP_PADDING": '"1"'}
    engines = (EngineReport("a:1", engine, off, STOP_IDS, execution),)
    assert [f"{variable} is set: the engine simulates a part of the model: 1 of 1 workers, first a:1"] == (
        engine_deviations(setup_of(scenario, engines=engines))
    )


@pytest.mark.parametrize(
    "args",
    [
        {"load_format": '"fastsafetensors"'},
        {"model_loader_extra_config": '{"enable_multithread_load": true, "enable_weights_track": true}'},
        {"quantization": '"mxfp4"', "kv_cache_dtype": '"fp8"', "seed": "1", "trust_remote_code": "true"},
    ],
)
def test_how_a_checkpoint_is_read_is_no_deviation(args: dict[str, str]) -> None:
    """Another reader of the same files, and data types that the rules allow, change no verdict."""
    engines = (EngineReport("a:1", "vllm", {"enable_prefix_caching": "false"} | args, STOP_IDS),)
    assert [] == engine_deviations(setup_of(OFFLINE, engines=engines))
