"""Read from SGLang's flags what decides an engine's answers, and how it executes.

Every flag of SGLang decides answers unless a table below says otherwise, so that flags of a later version are
compared too. Flags that are left at this worker's defaults are not reported.
"""

import importlib.metadata
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker.engines.model.fact_encoding import (
    bounded,
    encode_public,
    installed_version,
    reported_variables,
)
from worker.engines.model.model_hash import DUMMY
from worker.engines.model.random_weights import EVEN_EXPERTS
from worker.engines.model.redaction import names_in

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs


# Flags that change how the engine executes: speed, and the order in which numbers are added.
EXECUTION = names_in(
    """
    mem_fraction_static max_running_requests max_queued_requests max_total_tokens chunked_prefill_size
    enable_dynamic_chunking max_prefill_tokens prefill_max_requests schedule_policy
    enable_priority_scheduling disable_priority_preemption default_priority_value
    abort_on_priority_when_disabled schedule_low_priority_values_first
    priority_scheduling_preemption_threshold schedule_conservativeness page_size swa_full_tokens_ratio
    disable_hybrid_swa_memory radix_eviction_policy enable_page_major_kv_layout enable_unified_memory
    disable_chunked_prefix_cache disable_overlap_schedule num_continuous_decode_steps
    scheduler_recv_interval enable_mixed_chunk tp_size dcp_size pp_size pp_max_micro_batch_size
    pp_async_batch_depth dp_size load_balance_method attn_cp_size moe_dp_size enable_prefill_cp cp_strategy
    enable_dp_attention enable_dp_attention_local_control_broadcast enable_dp_lm_head
    enable_attn_tp_input_scattered disable_attn_tp_gather enable_p2p_check sleep_on_idle stream_interval
    attention_backend decode_attention_backend prefill_attention_backend sampling_backend mm_attention_backend
    fp8_gemm_runner_backend fp4_gemm_runner_backend bf16_gemm_backend disable_flashinfer_autotune
    cuda_graph_config cuda_graph_backend_decode cuda_graph_backend_prefill cuda_graph_max_bs_decode
    cuda_graph_max_bs_prefill cuda_graph_bs_decode cuda_graph_bs_prefill cuda_graph_tc_compiler
    disable_prefill_cuda_graph disable_decode_cuda_graph disable_cuda_graph disable_cuda_graph_padding
    enable_nccl_nvls enable_symm_mem triton_attention_num_kv_splits triton_attention_split_tile_size
    enable_fused_qk_norm_rope enable_fused_moe_sum_all_reduce disable_custom_all_reduce enable_mscclpp
    enable_torch_symm_mem pre_warm_nccl enable_flashinfer_allreduce_fusion
    enforce_disable_flashinfer_allreduce_fusion flashinfer_allreduce_fusion_backend
    enable_aiter_allreduce_fusion enable_torch_compile torch_compile_max_bs ep_size moe_a2a_backend
    moe_runner_backend deepep_mode ep_num_redundant_experts ep_dispatch_algorithm init_expert_location
    enable_eplb eplb_algorithm eplb_rebalance_num_iterations eplb_rebalance_layers_per_chunk
    eplb_min_rebalancing_utilization_threshold deepep_config moe_dense_tp_size enable_deepep_waterfill
    disable_shared_experts_fusion enforce_shared_experts_fusion enable_two_batch_overlap
    enable_single_batch_overlap tbo_token_distribution_threshold cpu_offload_gb offload_group_size
    offload_num_in_group offload_prefetch_step offload_mode enable_pdmux sm_group_num enable_prefill_delayer
    prefill_delayer_max_delay_passes prefill_delayer_token_usage_low_watermark
    prefill_delayer_forward_passes_buckets prefill_delayer_wait_seconds_buckets
    prefill_delayer_queue_min_ratio prefill_delayer_max_delay_ms min_free_slots_delay
    speculative_attention_mode speculative_draft_attention_backend speculative_moe_runner_backend
    speculative_moe_a2a_backend gc_threshold numa_node
    """
)
# Flags that change neither: places, addresses, logs, the tokenizer, and what other facts contain.
NEITHER = names_in(
    """
    model_path served_model_name tokenizer_path tokenizer_mode tokenizer_backend tokenizer_worker_num
    detokenizer_worker_num skip_tokenizer_init revision download_dir context_length device base_gpu_id
    gpu_id_step nccl_port dist_timeout dist_init_addr nnodes node_rank watchdog_timeout
    soft_watchdog_timeout custom_sigquit_handler host port fastapi_root_path grpc_mode skip_server_warmup
    warmups enable_http2 ssl_keyfile ssl_certfile ssl_ca_certs ssl_keyfile_password enable_ssl_refresh api_key
    admin_api_key weight_version chat_template hf_chat_template_name completion_template file_storage_path
    enable_cache_report reasoning_parser tool_call_parser tool_server sampling_defaults
    preferred_sampling_params batch_notify_size stream_response_default_include_usage
    incremental_streaming_output log_level log_level_http log_requests log_requests_level log_requests_format
    log_requests_target uvicorn_access_log_exclude_prefixes crash_dump_folder show_time_cost enable_metrics
    grpc_http_sidecar_port enable_mfu_metrics enable_metrics_for_all_schedulers
    load_snapshot_publish_interval tokenizer_metrics_custom_labels_header
    tokenizer_metrics_allowed_custom_labels extra_metric_labels bucket_time_to_first_token
    bucket_inter_token_latency bucket_e2e_request_latency prompt_tokens_buckets generation_tokens_buckets
    gc_warning_threshold_secs decode_log_interval enable_request_time_stats_logging kv_events_config
    enable_forward_pass_metrics forward_pass_metrics_worker_id forward_pass_metrics_ipc_name enable_trace
    trace_modules otlp_traces_endpoint export_metrics_to_file export_metrics_to_file_dir stat_loggers
    grammar_backend constrained_json_whitespace_pattern constrained_json_disable_any_whitespace
    enable_profile_cuda_graph enable_cudagraph_gc debug_cuda_graph enable_layerwise_nvtx_marker
    expert_distribution_recorder_mode expert_distribution_recorder_buffer_size
    enable_expert_distribution_metrics disaggregation_bootstrap_port engine_info_bootstrap_port
    weight_loader_disable_mmap weight_loader_prefetch_checkpoints weight_loader_prefetch_num_threads
    weight_loader_drop_cache_after_load enable_tokenizer_batch_encode disable_tokenizer_batch_decode
    enable_memory_saver disable_outlines_disk_cache speculative_draft_model_path
    speculative_draft_model_revision spec_trace_dir
    """
)
_PLUGIN_GROUPS = ("sglang.srt.platforms", "sglang.srt.plugins")


def engine_facts(changed: Mapping[str, object], args: "ServerArgs") -> dict[str, str]:
    """Return what decides the engine's answers, by name; values as JSON, of bounded length.

    Args:
        changed: Flags that differ from the worker's defaults, as they were given.
        args: SGLang's flags, resolved; their values replace those given.
    """
    config = args.get_model_config()
    facts: dict[str, object] = {
        "dtype": str(config.dtype),
        "quantization": config.quantization,
        "kv_cache_dtype": args.kv_cache_dtype,
        "load_format": str(args.load_format),
        "disable_radix_cache": args.disable_radix_cache,
        "random_seed": args.random_seed,
        "model_impl": str(args.model_impl),
        "plugins": installed_plugins(),
    }
    if facts["load_format"] == DUMMY:
        # Each rank draws its own part of a tensor from the same seed.
        facts["random_weights"] = {
            "tp_size": args.tp_size,
            "ep_size": args.ep_size,
            "device": args.device,
            "method": EVEN_EXPERTS,
        }
    chosen = {name: value for name, value in changed.items() if name not in EXECUTION | NEITHER}
    return bounded({name: encode_public(name, value) for name, value in (chosen | facts).items()})


def execution_facts(
    changed: Mapping[str, object], args: "ServerArgs", max_running_requests: int
) -> dict[str, str]:
    """Return how the engine executes, by name; values as JSON, of bounded length.

    Args:
        changed: Flags that differ from the worker's defaults, as they were given.
        args: SGLang's flags, resolved.
        max_running_requests: Number of requests in a step at most, which SGLang computes from the memory.
    """
    resolved = names_in(
        """
        tp_size pp_size ep_size page_size chunked_prefill_size max_prefill_tokens mem_fraction_static
        disable_overlap_schedule attention_backend decode_attention_backend prefill_attention_backend
        sampling_backend moe_runner_backend moe_a2a_backend cuda_graph_config schedule_policy
        """
    )
    facts: dict[str, object] = {name: getattr(args, name, None) for name in resolved}
    facts["max_running_requests"] = max_running_requests
    facts["device"] = args.device
    facts |= {f"{name}_version": installed_version(name) for name in ("torch", "sglang-kernel")}
    chosen = {name: value for name, value in changed.items() if name in EXECUTION}
    return (
        bounded({name: encode_public(name, value) for name, value in (chosen | facts).items()}) | _variables()
    )


def installed_plugins() -> list[str]:
    """List the installed plugins of SGLang, which it loads unless a variable excludes them."""
    return sorted(
        f"{point.name} = {point.value}"
        for group in _PLUGIN_GROUPS
        for point in importlib.metadata.entry_points(group=group)
        if point.module.partition(".")[0] != "sglang"
    )


def _variables() -> dict[str, str]:
    """Return the set variables of SGLang that can change what it computes."""
    return reported_variables(name for name in os.environ if name.startswith("SGLANG_"))
