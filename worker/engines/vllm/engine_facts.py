"""Read from a vLLM engine's arguments and configuration what decides its answers, and how it executes.

Every argument of vLLM decides answers unless a table below says otherwise, so that arguments of a later
version are compared too. Arguments that are left at this worker's defaults are not reported.
"""

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from worker.engines.model.checkpoint import Source
from worker.engines.model.fact_encoding import (
    bounded,
    encode,
    encode_public,
    installed_version,
    reported_variables,
    sha256_of,
)
from worker.engines.model.model_hash import DUMMY
from worker.engines.model.random_weights import EVEN_EXPERTS
from worker.engines.model.redaction import names_in, redact

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import AsyncEngineArgs


# Arguments that change how the engine executes: speed, and the order in which numbers are added.
_EXECUTION = names_in(
    """
    tensor_parallel_size pipeline_parallel_size prefill_context_parallel_size decode_context_parallel_size
    data_parallel_size data_parallel_size_local data_parallel_backend dcp_comm_backend dcp_q_replicate
    dcp_kv_cache_interleave_size cp_kv_cache_interleave_size enable_expert_parallel enable_eplb eplb_config
    expert_placement_strategy enable_ep_weight_filter enable_batch_sharded_sampling enable_dbo ubatch_size
    dbo_decode_token_threshold dbo_prefill_token_threshold dp_sync_interval enable_elastic_ep
    all2all_backend distributed_executor_backend disable_custom_all_reduce enable_shm_tensor_arena monokernel
    attention_backend attention_config moe_backend linear_backend kernel_config ir_op_priority
    enable_flashinfer_autotune disable_cascade_attn max_num_seqs max_num_active_seqs max_num_batched_tokens
    max_num_scheduled_tokens max_num_queued_reqs max_num_queued_tokens max_num_partial_prefills
    max_long_partial_prefills long_prefill_token_threshold long_prefill_token_threshold_adaptive
    enable_chunked_prefill scheduling_policy async_scheduling stream_interval prefill_schedule_interval
    scheduler_reserve_full_isl watermark enforce_eager cudagraph_capture_sizes max_cudagraph_capture_size
    compilation_config optimization_level performance_mode block_size num_gpu_blocks_override
    gpu_memory_utilization kv_cache_memory_bytes disable_hybrid_kv_cache_manager cpu_offload_gb
    cpu_offload_params offload_backend offload_group_size offload_num_in_group offload_prefetch_step
    offload_params swap_space
    """
)
# Arguments that change neither: places, addresses, logs, and what other facts contain after vLLM resolved it.
_NEITHER = names_in(
    """
    model served_model_name tokenizer tokenizer_mode tokenizer_revision hf_config_path
    hf_token revision download_dir generation_config max_model_len allowed_local_media_path
    allowed_media_domains master_addr master_port nnodes node_rank numa_bind numa_bind_nodes numa_bind_cpus
    device_ids data_parallel_rank data_parallel_start_rank data_parallel_address data_parallel_rpc_port
    data_parallel_hybrid_lb data_parallel_external_lb data_parallel_multi_port_external_lb
    distributed_timeout_seconds cpu_distributed_timeout_seconds disable_nccl_for_dp_synchronization
    max_parallel_loading_workers ray_workers_use_nsight api_process_count api_process_rank
    _api_process_count _api_process_rank safetensors_load_strategy safetensors_prefetch_num_threads
    safetensors_prefetch_block_size use_tqdm_on_load pt_load_map_location disable_log_stats
    aggregate_engine_logging enable_log_requests logging_config log_level log_config_file
    show_hidden_metrics_for_version otlp_traces_endpoint collect_detailed_traces kv_cache_metrics
    kv_cache_metrics_sample custom_histogram_buckets cudagraph_metrics enable_layerwise_nvtx_tracing
    enable_mfu_metrics enable_mm_processor_stats enable_logging_iteration_details jit_monitor_mode
    jit_monitor_verbose per_request_spec_decode_metrics profiler_config shutdown_timeout
    fail_on_environ_validation enable_fault_tolerance fault_tolerance_config enable_sleep_mode
    sleep_mode_backend watchdog_config
    kv_events_config structured_outputs_config reasoning_parser reasoning_parser_plugin max_logprobs
    logprobs_mode
    """
)
# Arguments that may differ between the nodes of one engine: places and logs.
_PER_NODE = names_in(
    """
    model served_model_name tokenizer hf_config_path hf_token download_dir generation_config node_rank
    master_addr numa_bind numa_bind_nodes numa_bind_cpus device_ids allowed_local_media_path logging_config
    log_config_file
    """
)
# Packages of kernels and of model configurations, which the nodes of one engine must have in equal versions.
_NODE_PACKAGES = ("torch", "transformers", "triton", "flashinfer-python")
# Keys of a model's configuration that depend on its place or on the installed transformers.
_CONFIG_NOISE = ("_name_or_path", "transformers_version", "auto_map")
# Parts of a speculative configuration that repeat the target model's or hold objects.
_SPECULATIVE_NOISE = ("target_", "draft_model_config", "draft_parallel_config", "draft_load_config")
_SELECTED_GROUP = "vllm.general_plugins"
"""Group of which vLLM loads only the plugins in VLLM_PLUGINS, if that is set."""
_PLUGIN_GROUPS = ("vllm.logits_processors", _SELECTED_GROUP)


@functools.cache
def vllm_version() -> str:
    """Return the version of the package that contains vLLM: "vllm", or another for other hardware."""
    distribution = importlib.metadata.packages_distributions()["vllm"][0]
    return importlib.metadata.version(distribution)


def given_args(args: "AsyncEngineArgs", defaults: "AsyncEngineArgs") -> dict[str, str]:
    """Return the arguments that differ from the worker's defaults, values as JSON without secrets.

    Taken before vLLM resolves them, because it changes some of the objects.
    """
    names = [field.name for field in dataclasses.fields(args)]
    values = {name: encode(getattr(args, name)) for name in names}
    return {
        name: encode_public(name, getattr(args, name))
        for name in names
        if values[name] != encode(getattr(defaults, name, None))
    }


def effective_args(args: "AsyncEngineArgs", config: "VllmConfig") -> dict[str, str]:
    """Return the arguments that differ from vLLM's defaults as JSON, except objects and secrets."""
    found = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(args)
        if field.name != "hf_token" and getattr(args, field.name) not in (field.default, None, "", [], {})
    }
    found["dtype"] = str(config.model_config.dtype)
    found["async_scheduling"] = bool(config.scheduler_config.async_scheduling)
    if "load_format" in found:
        found["load_format"] = str(config.load_config.load_format)
    if config.kv_transfer_config is not None:
        # Given, or made by vLLM from --kv-offloading-size.
        found["kv_transfer_config"] = json.loads(encode(config.kv_transfer_config))
    if args.speculative_config is not None:
        # vLLM adds the target model's configuration objects to the given dictionary.
        given = args.speculative_config.items()
        found["speculative_config"] = {key: value for key, value in given if not key.startswith("target_")}
    return {name: json.dumps(redact(name, value)) for name, value in found.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def engine_facts(given: Mapping[str, str], config: "VllmConfig") -> dict[str, str]:
    """Return what decides the engine's answers, by name; values as JSON, of bounded length.

    Args:
        given: Result of given_args.
        config: vLLM's configuration after resolution; its values replace those given.
    """
    model, cache = config.model_config, config.cache_config
    facts: dict[str, object] = {
        "dtype": str(model.dtype),
        "quantization": model.quantization,
        "kv_cache_dtype": cache.cache_dtype,
        "load_format": str(config.load_config.load_format),
        "enable_prefix_caching": bool(cache.enable_prefix_caching),
        "seed": model.seed,
        "model_impl": str(model.model_impl),
        "rope_parameters": _rope(model.hf_text_config),
        "hf_config_hash": sha256_of(_without(model.hf_config.to_dict(), _CONFIG_NOISE)),
        "generation_config_hash": sha256_of(model.try_get_generation_config()),
        "plugins": loaded_plugins(),
    }
    if facts["load_format"] == DUMMY:
        # Each rank draws its own part of a tensor from the same seed.
        facts["random_weights"] = _parts(config) | {"device": _device(), "method": EVEN_EXPERTS}
    if config.speculative_config is not None:
        facts["speculative_config"] = _speculation(config.speculative_config)
    chosen = {name: value for name, value in given.items() if name not in _EXECUTION | _NEITHER}
    return bounded(chosen | {name: encode_public(name, value) for name, value in facts.items()})


def execution_facts(given: Mapping[str, str], config: "VllmConfig") -> dict[str, str]:
    """Return how the engine executes, by name; values as JSON, of bounded length.

    A backend that vLLM chooses itself is "auto"; which one it is follows from the device and the versions.
    """
    parallel, scheduler, compilation = (
        config.parallel_config,
        config.scheduler_config,
        config.compilation_config,
    )
    facts: dict[str, object] = {
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
        "data_parallel_size": parallel.data_parallel_size,
        "enable_expert_parallel": parallel.enable_expert_parallel,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_chunked_prefill": bool(scheduler.enable_chunked_prefill),
        "async_scheduling": bool(scheduler.async_scheduling),
        "block_size": config.cache_config.block_size,
        "enforce_eager": config.model_config.enforce_eager,
        "cudagraph_mode": getattr(compilation, "cudagraph_mode", None),
        "cudagraph_capture_sizes": compilation.cudagraph_capture_sizes,
        "attention_backend": _backend(config, "attention_config", "backend"),
        "moe_backend": _backend(config, "kernel_config", "moe_backend"),
        "torch_version": installed_version("torch"),
        "device": _device(),
    }
    # Objects that vLLM fills in with paths and times of this process; what matters of them is above.
    unstable = {"compilation_config"}
    chosen = {name: value for name, value in given.items() if name in _EXECUTION - unstable}
    return bounded(chosen | {name: encode(value) for name, value in facts.items()} | _variables())


def node_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Return what the nodes of one engine must have in common before they load it.

    Args:
        given: Result of given_args.
    """
    found = {name: value for name, value in given.items() if name not in _PER_NODE}
    versions = {package: encode(installed_version(package)) for package in _NODE_PACKAGES}
    own = {
        "vllm_version": encode(vllm_version()),
        "device": encode(_device()),
        "plugins": encode(loaded_plugins()),
    }
    return bounded(found | versions | own | _variables())


def _parts(config: "VllmConfig") -> dict[str, object]:
    """Return into how many parts the tensors of one layer are cut."""
    parallel = config.parallel_config
    found: dict[str, object] = {"tensor_parallel_size": parallel.tensor_parallel_size}
    if parallel.enable_expert_parallel:
        found["expert_parallel_size"] = parallel.tensor_parallel_size * parallel.data_parallel_size
    return found


def draft_model(args: "AsyncEngineArgs") -> Source | None:
    """Return the draft model of speculative decoding, or None if no separate one is loaded."""
    speculative = args.speculative_config or {}
    name = speculative.get("model") or getattr(args, "spec_model", None)
    # Methods without a draft model may have a name here, e.g. "ngram".
    if name is None or name == args.model or not ("/" in name or Path(name).is_dir()):
        return None
    return Source(name, speculative.get("revision"), args.download_dir)


def _without(config: dict[str, object], names: Iterable[str]) -> dict[str, object]:
    """Remove keys from a model's configuration and from those nested in it."""
    return {
        name: _without(value, names) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in names
    }


def _rope(config: object) -> dict[str, object]:
    # Configurations of older versions of transformers hold the second and the third instead of the first.
    names = ("rope_parameters", "rope_scaling", "rope_theta", "initial_context_length")
    found = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
    if found.get("rope_parameters") == found.get("rope_scaling"):
        found.pop("rope_scaling", None)
    return found


def _speculation(config: object) -> dict[str, object]:
    """Return a speculative configuration's own values; a model's path is named without its directory."""
    assert dataclasses.is_dataclass(config)
    found: dict[str, object] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, None)
        if value not in (None, field.default) and not field.name.startswith(_SPECULATIVE_NOISE):
            found[field.name] = Path(value).name if field.name == "model" and value else value
    return found


def loaded_plugins() -> list[str]:
    """List the installed plugins that vLLM loads, except those in the package vllm itself."""
    from vllm import envs

    found = []
    for group in _PLUGIN_GROUPS:
        # Source: vllm/plugins/__init__.py; logits processors are loaded whatever VLLM_PLUGINS is.
        allowed = envs.VLLM_PLUGINS if group == _SELECTED_GROUP else None
        for point in importlib.metadata.entry_points(group=group):
            is_loaded = allowed is None or point.name in allowed
            if is_loaded and point.module.partition(".")[0] != "vllm":
                package = "" if point.dist is None else f" ({point.dist.name} {point.dist.version})"
                found.append(f"{point.name} = {point.value}{package}")
    return sorted(found)


def _backend(config: "VllmConfig", part: str, name: str) -> str:
    """Return a configured backend; older versions of vLLM lack some of the parts."""
    value = getattr(getattr(config, part, None), name, None)
    return "auto" if value is None else str(getattr(value, "name", value))


def _device() -> str:
    from vllm.platforms import current_platform

    return "cpu" if current_platform.is_cpu() else str(current_platform.get_device_name())


def _variables() -> dict[str, str]:
    """Return the set variables that vLLM knows and that can change what it computes."""
    from vllm.envs import environment_variables

    return reported_variables(name for name in environment_variables if name.startswith("VLLM_"))
