"""The environment variables that GetHost and the doctor report: only names listed here, never a secret."""

import re
from collections.abc import Mapping

from common.text import printable

MAX_VALUE_LEN = 200
HIDDEN = "(not shown)"
"""Replaces a URL that may contain a password."""
# Variables that affect performance or results, by the beginning of their names. Each value is a number, a
# choice, a path or a list of devices. A variable that may hold a secret must not be added.
_NAMES = {
    "CUBLAS_": "WORKSPACE_CONFIG",
    "CUDA_": (
        "AUTO_BOOST CACHE_DISABLE CACHE_MAXSIZE CACHE_PATH DEVICE_MAX_CONNECTIONS DEVICE_ORDER "
        "DISABLE_PTX_JIT FORCE_PTX_JIT HOME LAUNCH_BLOCKING MODULE_LOADING MPS_ACTIVE_THREAD_PERCENTAGE "
        "MPS_PIPE_DIRECTORY SCALE_LAUNCH_QUEUES VISIBLE_DEVICES"
    ),
    "GRPC_": (
        "DEFAULT_SSL_ROOTS_FILE_PATH DNS_RESOLVER ENABLE_FORK_SUPPORT EXPERIMENTS POLL_STRATEGY "
        "SSL_CIPHER_SUITES TRACE VERBOSITY"
    ),
    "HF_": ("HOME HUB_CACHE HUB_DISABLE_XET HUB_ENABLE_HF_TRANSFER HUB_OFFLINE XET_HIGH_PERFORMANCE"),
    "KMP_": "AFFINITY BLOCKTIME DUPLICATE_LIB_OK FORKJOIN_BARRIER_PATTERN SETTINGS TPAUSE",
    "LD_": "AUDIT BIND_NOW DEBUG LIBRARY_PATH PRELOAD",
    "MALLOC_": (
        "ARENA_MAX ARENA_TEST CHECK_ CONF MMAP_MAX_ MMAP_THRESHOLD_ PERTURB_ TOP_PAD_ TRIM_THRESHOLD_"
    ),
    "NCCL_": (
        "ALGO BUFFSIZE COLLNET_ENABLE CONF_FILE CROSS_NIC CTA_POLICY CUMEM_ENABLE CUMEM_HOST_ENABLE DEBUG "
        "DEBUG_FILE DEBUG_SUBSYS GRAPH_FILE GRAPH_MIXING_SUPPORT GRAPH_REGISTER IB_DISABLE IB_GID_INDEX "
        "IB_HCA IB_QPS_PER_CONNECTION IB_RETRY_CNT IB_SL IB_TC IB_TIMEOUT LAUNCH_MODE LOCAL_REGISTER "
        "MAX_CTAS MAX_NCHANNELS MIN_CTAS MIN_NCHANNELS MNNVL_ENABLE NET NET_GDR_LEVEL NET_GDR_READ "
        "NET_PLUGIN NSOCKS_PERTHREAD NTHREADS NVLS_ENABLE P2P_DIRECT_DISABLE P2P_DISABLE P2P_LEVEL PROTO "
        "SHM_DISABLE SOCKET_FAMILY SOCKET_IFNAME SOCKET_NTHREADS TOPO_FILE TUNER_PLUGIN WIN_ENABLE"
    ),
    "NVIDIA_": "DRIVER_CAPABILITIES TF32_OVERRIDE VISIBLE_DEVICES",
    "OMP_": (
        "DISPLAY_ENV DYNAMIC MAX_ACTIVE_LEVELS NUM_THREADS PLACES PROC_BIND SCHEDULE STACKSIZE THREAD_LIMIT "
        "WAIT_POLICY"
    ),
    "PYTHON": (
        "ASYNCIODEBUG DEVMODE DONTWRITEBYTECODE FAULTHANDLER HASHSEED HOME MALLOC NOUSERSITE OPTIMIZE PATH "
        "PROFILEIMPORTTIME SAFEPATH TRACEMALLOC UNBUFFERED UTF8 WARNINGS _GIL _JIT"
    ),
    "PYTORCH_": "ALLOC_CONF CUDA_ALLOC_CONF NO_CUDA_MEMORY_CACHING NVML_BASED_CUDA_CHECK",
    "TORCH_": (
        "COMPILE_DISABLE CUDA_ARCH_LIST LOGS NCCL_ASYNC_ERROR_HANDLING NCCL_AVOID_RECORD_STREAMS "
        "NCCL_BLOCKING_WAIT NCCL_CUDA_EVENT_CACHE NCCL_ENABLE_MONITORING"
    ),
    "TORCHINDUCTOR_": "CACHE_DIR COMPILE_THREADS MAX_AUTOTUNE",
    "TRITON_": "ALWAYS_COMPILE CACHE_DIR DEBUG HOME INTERPRET PTXAS_PATH",
    "VLLM_": (
        "ALLOW_LONG_MAX_MODEL_LEN ALLREDUCE_USE_FLASHINFER ALLREDUCE_USE_SYMM_MEM ATTENTION_BACKEND "
        "BATCH_INVARIANT CACHE_ROOT CONFIGURE_LOGGING CPU_ATTN_SPLIT_KV CPU_KVCACHE_SPACE CPU_MOE_PREPACK "
        "CPU_NUM_OF_RESERVED_CPU CPU_OMP_THREADS_BIND DEBUG_DUMP_PATH DEBUG_MFU_METRICS DEBUG_WORKSPACE "
        "DEEP_GEMM_WARMUP ENGINE_READY_TIMEOUT_S EXECUTE_MODEL_TIMEOUT_SECONDS FLASHINFER_ALLREDUCE_BACKEND "
        "FLASHINFER_MOE_BACKEND FLASHINFER_WORKSPACE_BUFFER_SIZE FLOAT32_MATMUL_PRECISION GC_DEBUG HOST_IP "
        "KV_CACHE_LAYOUT LOGGING_LEVEL LOG_BATCHSIZE_INTERVAL LOG_STATS_INTERVAL "
        "MARLIN_INPUT_DTYPE MARLIN_USE_ATOMIC_ADD MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS MLA_DISABLE "
        "MOE_SKIP_PADDING MOE_USE_DEEP_GEMM MQ_MAX_CHUNK_BYTES_MB MSGPACK_ZERO_COPY_THRESHOLD NCCL_SO_PATH "
        "NO_USAGE_STATS PORT PP_LAYER_PARTITION RANDOMIZE_DP_DUMMY_INPUTS RINGBUFFER_WARNING_INTERVAL "
        "SKIP_P2P_CHECK TARGET_DEVICE TEST_FORCE_LOAD_FORMAT TRACE_FUNCTION "
        "TRITON_FORCE_FIRST_CONFIG TUNED_CONFIG_FOLDER V1_OUTPUT_PROC_CHUNK_SIZE WORKER_MULTIPROC_METHOD"
    ),
    "": (
        "CUBLASLT_WORKSPACE_SIZE FLASHINFER_CUDA_ARCH_LIST FLASHINFER_WORKSPACE_BASE GLIBC_TUNABLES "
        "MKL_DYNAMIC MKL_NUM_THREADS OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS TORCHDYNAMO_DISABLE "
        "TRANSFORMERS_OFFLINE XDG_CACHE_HOME"
    ),
}
REPORTED_NAMES = frozenset(start + rest for start, names in _NAMES.items() for rest in names.split())
# vLLM has hundreds of switches under these prefixes. Only the values of a switch are reported.
_SWITCH = re.compile(r"VLLM_(ROCM_)?(USE|ENABLE|DISABLE)_[A-Z0-9_]+")
_SWITCH_VALUE = re.compile("[01]|true|false|", re.IGNORECASE)
_PROXY = re.compile(r"(grpc|http|https|all)_proxy|HF_ENDPOINT", re.IGNORECASE)
_NO_PROXY = re.compile(r"(no|no_grpc)_proxy", re.IGNORECASE)
# Scheme, user and password, host and port. A URL with a path, a query or an unusual password is not shown.
_URL = re.compile(
    r"([a-z0-9]+://)?(?:([^/?#]*)@)?((?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::\d+)?)/?", re.IGNORECASE
)
_HOSTS = re.compile(r"[a-z0-9.:*/,\[\] -]*", re.IGNORECASE)


def relevant_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Select the variables that affect performance or results, without secrets.

    Args:
        environment: Environment of a process.
    """
    shown = {name: _shown(name, value) for name, value in sorted(environment.items())}
    return {name: printable(value, MAX_VALUE_LEN) for name, value in shown.items() if value is not None}


def _shown(name: str, value: str) -> str | None:
    """Return the value as it is reported; None: the variable is not reported."""
    if _PROXY.fullmatch(name):
        return _without_user(value)
    if _NO_PROXY.fullmatch(name):
        return value if _HOSTS.fullmatch(value) else HIDDEN
    if name in REPORTED_NAMES:
        return HIDDEN if "://" in value else value
    return value if _SWITCH.fullmatch(name) and _SWITCH_VALUE.fullmatch(value) else None


def _without_user(url: str) -> str:
    """Return a URL with user and password replaced by ***."""
    match = _URL.fullmatch(url)
    if match is None:
        return HIDDEN if url else ""
    scheme, user, host = match.groups()
    return f"{scheme or ''}{'' if user is None else '***@'}{host}"
