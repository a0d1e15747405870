"""Arguments and variables with which an engine is another model than the one that its worker has hashed.

Source of the variables: vLLM 0.25.1 and 0.32.0, envs.py (the experts of a token are drawn); SGLang 0.5.15,
srt/environ.py (experts are drawn, or draft tokens accepted without a comparison).
"""

import re
from collections.abc import Mapping

from common.json_document import as_mapping, parse_json
from common.text import printable
from sut.benchmark import BENCHMARK

_MAX_VALUE_LEN = 80
# Load formats with which an engine reads the files that its worker hashes. Others, and those of plugins, may
# read files at another place, or weights that another process has loaded.
# Source: vLLM 0.25.1 and 0.32.0, config/load.py; SGLang 0.5.15, configs/load_config.py.
_OWN_FILES = (
    *("auto", "hf", "pt", "safetensors", "fastsafetensors", "instanttensor", "npcache", "mistral", "gguf"),
    *("bitsandbytes", "layered", "sharded_state", "runai_streamer", "runai_streamer_sharded"),
)
_DUMMY = "dummy"
# Keys of --model-loader-extra-config that change only how fast the files are read.
_READING = (
    *("enable_multithread_load", "num_threads", "concurrency", "memory_limit", "distributed"),
    "use_prefetch",
)
# By engine; each replaces parts of the model, its weights or the choice of its tokens.
_REPLACING = {
    "vllm": (
        *("hf_overrides", "hf_config_path", "model_class_overrides", "model_weights", "logits_processors"),
        *("worker_cls", "scheduler_cls", "disable_sliding_window", "enable_trace_replay"),
        *("diffusion_config", "watermark_config"),
    ),
    "sglang": (
        *("json_model_override_args", "model_config_parser", "custom_weight_loader", "forward_hooks"),
        *("lora_paths", "kt_weight_path", "enable_hisparse"),
    ),
}
# For benchmarks of an engine alone; the rates are those of no trained model.
_SIMULATING = re.compile(r"(VLLM|SGLANG)_\w*SIMULAT\w*")
_OFF = ("", "0", "-1", "false")


def simulation_deviations(execution: Mapping[str, str]) -> list[str]:
    """List the environment variables that make an engine simulate its model.

    Args:
        execution: How the engine executes, set variables among it; values as JSON.
    """
    return [
        f"{name} is set: the engine simulates a part of the model"
        for name, value in sorted(execution.items())
        if _SIMULATING.fullmatch(name) and value.strip('"').lower() not in _OFF
    ]


def model_deviations(engine: str, args: Mapping[str, str]) -> list[str]:
    """List the arguments that can make an engine's model another than that of its checkpoint.

    Args:
        engine: Name of the engine.
        args: Effective engine arguments, values as JSON.
    """
    load_format = args.get("load_format", '"auto"').strip('"').lower()
    replacing = [name for name in _REPLACING.get(engine, ()) if name in args]
    if load_format != _DUMMY and "worker_extension_cls" in args:
        replacing.append("worker_extension_cls")
    found = [f"{name} is set: the model is not that of the checkpoint alone" for name in replacing]
    if load_format == _DUMMY:
        found.append("load_format is dummy: the weights are random")
    elif load_format not in _OWN_FILES:
        shown = printable(load_format, _MAX_VALUE_LEN)
        found.append(f"load_format is {shown}: the weights may be others than those of the hashed files")
    if other := _other_keys(args.get("model_loader_extra_config", "{}")):
        shown = printable(", ".join(other), _MAX_VALUE_LEN)
        found.append(f"model_loader_extra_config has {shown}: other files than the hashed ones may be loaded")
    return found


def size_deviations(facts: Mapping[str, str]) -> list[str]:
    """Compare the sizes in the checkpoint's config.json with those of the benchmark's model.

    Args:
        facts: What decides the engine's answers; values as JSON. A worker that does not report them is older.
    """
    try:
        sizes = parse_json(facts.get("model_sizes", "null"))
    except ValueError:
        sizes = {}
    if sizes is None:
        return []
    told = as_mapping(sizes)
    other = [
        f"{name} {printable(str(told.get(name)), _MAX_VALUE_LEN)}, not {size}"
        for name, size in BENCHMARK.sizes.items()
        if told.get(name) != size
    ]
    return [f"the model is not {BENCHMARK.repository}: {', '.join(other)}"] if other else []


def _other_keys(text: str) -> list[str]:
    """List the keys of a loader's configuration that do more than change its speed; or name its kind."""
    try:
        config = parse_json(text)
        # SGLang's value is JSON in a string.
        config = parse_json(config) if isinstance(config, str) else config
    except ValueError:
        return ["no JSON"]
    if not isinstance(config, dict):
        return ["no object"]
    # vLLM's check that the files have every weight of the model: some formats leave it out by default.
    checked = {"enable_weights_track"} if config.get("enable_weights_track") is True else set()
    return sorted(config.keys() - {*_READING, *checked})
